"""Plate maps: long and grid tables say the same, and each mistake is named with its place and mend."""

import logging

import numpy as np
import pandas as pd
import pytest

from phenokeep.datamodules.platemap import LETTERS, check_plate_columns, join_plate_map, read_plate_map
from phenokeep.datamodules.tables import TableError, main, read_index

LONG = """plate,Well,compound,concentration,unit,role,replicate,batch
p1,A1,DMSO,0,,neg control,1,x
p1,A02,nocodazole,0.5,uM,POS,1,x
p1,b12,"1,2-diol",1e1,nM,treated,2,y
"""


def written(tmp_path, text, name="map.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_text(text, encoding=encoding)
    return path


def grid(name, size=(8, 12), **wells):
    rows, columns = size
    lines = [",".join([name, *map(str, range(1, columns + 1))])]
    for letter in LETTERS[:rows]:
        lines.append(",".join([letter, *(wells.get(f"{letter}{column}", "") for column in range(1, columns + 1))]))
    return "\n".join(lines) + "\n"


def test_a_long_map_is_read_and_its_words_are_made_plain(tmp_path):
    wells = read_plate_map(written(tmp_path, LONG))
    assert list(wells["well"]) == ["A01", "A02", "B12"]
    assert list(wells["role"]) == ["negative", "positive", "treatment"]
    assert list(wells["concentration"]) == [0, 0.5, 10]
    assert list(wells["compound"]) == ["DMSO", "nocodazole", "1,2-diol"]


def test_semicolons_a_byte_order_mark_and_empty_lines_do_not_matter(tmp_path):
    plain = LONG.replace('"1,2-diol"', "diol")
    spreadsheet = plain.replace(",", ";").replace("p1;A02", "\n;;;\np1;A02")
    expected = read_plate_map(written(tmp_path, plain))
    pd.testing.assert_frame_equal(read_plate_map(written(tmp_path, spreadsheet, "s.csv", "utf-8-sig")), expected)


@pytest.mark.parametrize("size", [(2, 3), (8, 12), (16, 24), (32, 48)])
def test_grids_say_the_same_as_a_long_table(tmp_path, size):
    last = f"{LETTERS[size[0] - 1]}{size[1]}"
    text = "\n".join([
        grid("compound", size, A1="DMSO", **{last: "taxol"}),
        grid("role", size, A1="negative", **{last: "positive"}),
        grid("concentration", size, **{last: "2"}),
        grid("unit", size, **{last: "uM"}),
    ])  # fmt: skip
    wells = read_plate_map(written(tmp_path, text))
    long = f"well,compound,role,concentration,unit\nA1,DMSO,negative,,\n{last},taxol,positive,2,uM\n"
    pd.testing.assert_frame_equal(wells, read_plate_map(written(tmp_path, long, "long.csv")))
    semicolons = written(tmp_path, text.replace(",", ";"), "s.csv", "utf-8-sig")
    pd.testing.assert_frame_equal(read_plate_map(semicolons), wells)


WRONG = [
    (LONG.replace("b12", "Z99"), "row 4, column well: 'Z99' is no well; write it like A01"),
    (LONG.replace("b12", "A01"), "column well: p1:A01 stands in row 2, row 4; keep one"),
    (LONG.replace("b12", ""), "row 4, column well: is empty"),
    (LONG.replace("POS", "control"), "row 3, column role: 'control' is no role; write negative, positive"),
    (LONG.replace("0.5", "half"), "row 3, column concentration: 'half' is no number"),
    (LONG.replace("0.5", "-1"), "row 3, column concentration: '-1' is no number of at least 0"),
    (LONG.replace("0.5", "inf"), "row 3, column concentration: 'inf'"),
    (LONG.replace("0.5", "nan"), "row 3, column concentration: 'nan'"),
    (LONG.replace("uM", ""), r"row 3, column unit: is empty, and the concentration is 0\.5"),
    (LONG.replace("compound", "compond"), "'compond' is not known; is 'compound' meant"),
    (LONG.replace("batch", "split"), "'split' belongs to the index"),
    (LONG.replace("batch", "role"), "'role' is empty or stands twice"),
    (LONG.replace("Well", "position"), "row 1: has no column well"),
    (LONG.replace('"1,2-diol"', "1,2-diol"), "row 4: has more cells than the 8 columns; quote commas"),
    ("", "is empty; write one row per well"),
    ("well,role\n", "has no rows"),
    (grid("role", (8, 12), A3="dmso"), "well A03, column role: 'dmso' is no role"),
    (grid("role", (8, 12), A3="neg").replace("\nC,", "\nX,"), "row 4, column 1: 'X' stands where row C is due"),
    (grid("role", (7, 12), A3="neg"), "row 1: the grid 'role' has 7 rows .* 8 x 12"),
    (grid("role", (8, 12), A3="neg") + grid("batch", (8, 12), A3="1"), "'role' has 17 rows .*an empty line between"),
    (grid("role", (8, 12)), "its grids are empty"),
    (grid("concentration", (8, 12), B2="3"), "well B02, column unit: is empty"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_each_mistake_is_named_with_its_place(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(TableError, match=message) as caught:
        read_plate_map(path)
    assert str(path) in str(caught.value)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(TableError, match=r"data\.plate_map=.*nowhere\.csv does not exist"):
        read_plate_map(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 250)))
    with pytest.raises(TableError, match="cannot be read as a table"):
        read_plate_map(tmp_path / "binary.csv")


def fields(*wells):
    return pd.DataFrame({"plate": ["p1"] * len(wells), "well": wells, "field": "1"}, dtype="string")


def test_every_field_gets_the_values_of_its_well(tmp_path, caplog):
    index = join_plate_map(fields("A01", "A02", "A1", "B12"), read_plate_map(written(tmp_path, LONG)))
    assert list(index["compound"]) == ["DMSO", "nocodazole", "DMSO", "1,2-diol"]
    assert list(index["well"]) == ["A01", "A02", "A1", "B12"]
    assert not caplog.records


def test_wells_that_only_one_side_has(tmp_path, caplog):
    wells = read_plate_map(written(tmp_path, LONG))
    with caplog.at_level(logging.WARNING):
        join_plate_map(fields("A01"), wells)
    assert "no image shows p1:A02, p1:B12" in caplog.text
    with pytest.raises(TableError, match="has no row for p1:C03, of which there are images; add"):
        join_plate_map(fields("A01", "C03"), wells)
    with pytest.raises(TableError, match="the index has a column compound already"):
        join_plate_map(join_plate_map(fields("A01"), wells), wells)
    one = wells.drop(columns="plate")
    two = fields("A01", "A01").assign(plate=["p1", "p2"])  # a map without plates holds for every plate
    assert list(join_plate_map(two, one)["compound"]) == ["DMSO", "DMSO"]


def test_columns_of_an_index_are_checked_as_well():
    table = pd.DataFrame({"role": ["neg", None], "concentration": ["1", None], "unit": ["uM", None]}, dtype="string")
    checked = check_plate_columns(table, "index.csv")
    assert checked["role"].tolist() == ["negative", pd.NA]
    assert checked["concentration"].dtype == np.float64
    with pytest.raises(TableError, match="row 2, column unit: is empty"):
        check_plate_columns(table.drop(columns="unit"), "index.csv")


def test_the_command_line_joins_a_map_into_the_index(plate, tmp_path, capsys):
    plate_map = written(tmp_path, "well,role,concentration,unit\n" + "".join(f"B{n},neg,0.5,uM\n" for n in range(2, 8)))
    out = tmp_path / "index.csv"
    command = [str(plate), "--pixel-size", "0.6", "--out", str(out), "--plate-map", str(plate_map)]
    assert main(command) == 0
    index = read_index(out)
    assert set(index["role"]) == {"negative"}
    assert list(index["concentration"]) == [0.5] * 6
    out.write_text(out.read_text().replace("negative", "placebo", 1))
    with pytest.raises(TableError, match=r"index\.csv: row 2, column role: 'placebo' is no role"):
        read_index(out)
    out.unlink()
    written(tmp_path, "well,role\nB2,neg\n")
    assert main(command) == 2
    assert "has no row for B03, B04" in capsys.readouterr().err
