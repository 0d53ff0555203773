"""The index table: read, built, split and checked; each error names the file, the place in it and the mend."""

import itertools
import logging
import os
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from phenokeep.datamodules.checks import check_index
from phenokeep.datamodules.tables import (
    TableError,
    assign_splits,
    build_index,
    check_images,
    main,
    read_index,
    write_index,
)
from phenokeep.imaging.microscope import Microscope, Phenotype, Scene

BBBC039 = Path(__file__).parents[1].parent / "shared" / "data" / "bbbc039"


def picture(path, shape=(8, 9), value=None, dtype=np.uint16):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 1000, shape)
    tifffile.imwrite(path, (noise if value is None else np.full(shape, value)).astype(dtype))


@pytest.fixture
def plate(tmp_path):
    """Two wells of two fields, two channels and objects, with an index.csv; returns the table as written."""
    rows = []
    for well in ("A01", "A02"):
        for number in ("1", "2"):
            row = {"plate": "p1", "well": well, "field": number, "pixel_size": 0.65}
            for column in ("image_nuclei", "image_er", "objects_nuclei"):
                row[column] = f"{well}_{number}_{column}.tif"
                picture(tmp_path / row[column])
            rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "index.csv", index=False)
    return table


def fields(plates=1, wells=20, each=3):
    """An index without files: enough for splits."""
    rows = [
        {"plate": f"p{p}", "well": f"A{w:02d}", "field": str(f), "group": f"g{w % 5}", "pixel_size": 1.0}
        for p in range(plates)
        for w in range(wells)
        for f in range(each)
    ]
    index = pd.DataFrame(rows)
    index["id"] = index["parent"] = index["plate"] + "_" + index["well"] + "_" + index["field"]
    return index


def test_an_index_is_read_with_its_defaults(plate, tmp_path):
    index = read_index(tmp_path)
    assert list(index["id"]) == ["p1_A01_1", "p1_A01_2", "p1_A02_1", "p1_A02_2"]
    assert list(index["group"].unique()) == ["p1:A01", "p1:A02"]
    assert (index["parent"] == index["id"]).all()
    assert index["pixel_size"].dtype == np.float64
    assert all(os.path.isabs(name) and os.path.isfile(name) for name in index["image_er"])
    assert "split" not in index
    check_images(index)


def test_csv_of_a_spreadsheet_and_parquet_say_the_same(plate, tmp_path):
    first = read_index(tmp_path / "index.csv")
    plate.to_csv(tmp_path / "semicolon.csv", index=False, sep=";", encoding="utf-8-sig")
    plate.astype({"field": float}).to_parquet(tmp_path / "index.parquet")  # numbers, as a notebook would write them
    for name in ("semicolon.csv", "index.parquet"):
        pd.testing.assert_frame_equal(read_index(tmp_path / name), first)
    write_index(first, tmp_path / "again.csv")
    assert list(pd.read_csv(tmp_path / "again.csv")["image_nuclei"]) == list(plate["image_nuclei"])  # relative again
    pd.testing.assert_frame_equal(read_index(tmp_path / "again.csv"), first)


def spoiled(table):
    """Yields a spoiled copy of the table and what the message says."""
    yield table.rename(columns={"well": "wells"}), "has no column well; rename 'wells'"
    yield table.rename(columns={"field": "Field"}), "has no column field; rename 'Field'"
    yield table.drop(columns="pixel_size"), "row 2, column pixel_size is empty .*4 rows.*data.pixel_size"
    yield table.drop(columns=["image_nuclei", "image_er"]), r"has no column image_<channel>"
    yield table.assign(splits="train"), "column 'splits' is not known; is 'split' meant"
    yield table.rename(columns={"plate": "PLATE"}), "column 'PLATE' is not known; is 'plate' meant"
    yield table.rename(columns={"objects_nuclei": "Object_nuclei"}), "'Object_nuclei' is not known; is 'objects_nuclei'"
    yield table.assign(id=["a", "b", "a", "c"]), r"column id: 'a' stands in rows 2, 4 .*give each row its own"
    yield table.assign(id=["../a", "b", "d", "c"]), "row 2, column id: no slash"
    yield table.assign(pixel_size=[0.65, np.nan, 0.65, 0.65]), "row 3, column pixel_size is empty .*data.pixel_size"
    yield table.assign(pixel_size=["0.65", "0,65", "0.65", "1"]), "row 3, column pixel_size: '0,65' is no number"
    yield (
        table.assign(pixel_size=[0.65, 0.65, 0, 1]),
        "row 4, column pixel_size: .* is no pixel of a microscope; write .* above 0",
    )
    yield table.assign(well=["A01", None, "A02", "A02"]), "row 3, column well is empty .*fill it"
    yield table.assign(image_er=["x.tif", None, "x.tif", "x.tif"]), "row 3, column image_er is empty"
    lost = r"4 files are missing: row 2, column image_er: \S*/x.tif; row 3.*; row 4[^;]*; correct the paths"
    yield table.assign(image_er="x.tif"), lost
    yield (
        table.assign(split=["train", "val", "test", "tset"]),
        "row 5, column split 'tset' is no split; write train, val",
    )
    yield table.assign(split=["train", "val", "test", None]), "row 5, column split is empty.*in every row, or in none"
    torn = table.assign(id=list("abcd"), parent=["a", "b", "a", "d"], split=["train", "train", "test", "test"])
    yield torn, "rows 2, 4 are derived from one another .*give them the same split"
    yield table.iloc[:0], "has no rows; write one row"


def test_every_spoiled_table_gives_one_error_with_place_and_mend(plate, tmp_path):
    for table, message in spoiled(plate):
        table.to_csv(tmp_path / "index.csv", index=False)
        with pytest.raises(TableError, match=message) as caught:
            read_index(tmp_path)
        assert str(tmp_path / "index.csv") in str(caught.value)
    (tmp_path / "index.csv").write_bytes(b'"' + bytes(range(128, 250)))
    with pytest.raises(TableError, match=r"index\.csv: cannot be read as a table .*save it again"):
        read_index(tmp_path)


def test_missing_root_empty_folder_and_wrong_kind(tmp_path):
    with pytest.raises(TableError, match=r"data\.root=.*/nowhere does not exist; give"):
        read_index(tmp_path / "nowhere")
    with pytest.raises(TableError, match=f"{tmp_path}: holds no TIFF or PNG image; give"):
        read_index(tmp_path)
    (tmp_path / "index.xlsx").touch()
    with pytest.raises(TableError, match=r"index\.xlsx: an index table is a \.csv or \.parquet file"):
        read_index(tmp_path / "index.xlsx")


def test_pixel_size_given_by_the_caller_fills_only_gaps(plate, tmp_path):
    plate.assign(pixel_size=[0.3, None, None, None]).to_csv(tmp_path / "index.csv", index=False)
    assert list(read_index(tmp_path, pixel_size=0.5)["pixel_size"]) == [0.3, 0.5, 0.5, 0.5]


def test_check_images_collects_all_problems(plate, tmp_path):
    picture(tmp_path / "A01_1_objects_nuclei.tif", shape=(8, 8))
    (tmp_path / "A01_2_image_er.tif").write_bytes(b"")
    picture(tmp_path / "A02_1_image_er.tif", value=5)
    index = read_index(tmp_path)
    with pytest.raises(TableError) as caught:
        check_images(index)
    message = str(caught.value)
    assert "3 problems" in message
    assert "p1_A01_1: sizes differ" in message
    assert "objects_nuclei 8x8" in message
    assert "A01_2_image_er.tif: is empty" in message
    assert "A02_1_image_er.tif: every pixel is 5; leave" in message
    for path in tmp_path.glob("*.tif"):
        path.write_bytes(b"")
    with pytest.raises(TableError, match=r"12 problems(.|\n)*and 2 more") as caught:
        check_images(index)
    assert str(caught.value).count("is empty") == 10


def test_split_by_well_keeps_wells_whole_and_the_fractions(caplog):
    index = fields(plates=2, wells=50)
    split = assign_splits(index, seed=3)
    assert (split.groupby(["plate", "well"])["split"].nunique() == 1).all()
    counts = split.drop_duplicates(["plate", "well"])["split"].value_counts()
    assert counts.to_dict() == {"train": 70, "test": 20, "val": 10}
    assert not split.attrs["leaky_split"]
    assert not caplog.records
    assert "split" not in index
    uneven = assign_splits(index, fractions={"train": 0.5, "test": 0.5})
    assert set(uneven["split"]) == {"train", "test"}


def test_split_depends_on_seed_and_names_only():
    index = fields()
    first = assign_splits(index).set_index("id")["split"]
    shuffled = assign_splits(index.sample(frac=1, random_state=1)).set_index("id")["split"]
    pd.testing.assert_series_equal(first, shuffled.loc[first.index])
    fewer = assign_splits(index.drop(index.index[::3])).set_index("id")["split"]  # a field less in each well
    pd.testing.assert_series_equal(first.loc[fewer.index], fewer)
    assert not assign_splits(index, seed=1)["split"].equals(assign_splits(index)["split"])


def test_parents_join_wells_in_a_chain():
    index = fields(wells=12, each=1)
    index.loc[1, "parent"] = index.loc[0, "id"]  # 2 from 1 from 0, and two copies of a field that is not in the table
    index.loc[2, "parent"] = index.loc[1, "id"]
    index.loc[[7, 9], "parent"] = "original"
    for seed in range(20):
        split = assign_splits(index, seed=seed)["split"]
        assert split[0] == split[1] == split[2]
        assert split[7] == split[9]
        assert set(split) == {"train", "val", "test"}


def test_split_by_plate_group_and_field(caplog):
    index = fields(plates=4, wells=10)
    assert (assign_splits(index, by="plate").groupby("plate")["split"].nunique() == 1).all()
    assert (assign_splits(index, by="group").groupby("group")["split"].nunique() == 1).all()
    assert not caplog.records
    leaky = assign_splits(index, by="field")
    assert (leaky.groupby(["plate", "well"])["split"].nunique() > 1).any()
    assert leaky.attrs["leaky_split"]
    assert "leaky split" in caplog.text
    pd.testing.assert_frame_equal(assign_splits(index, by="paper"), leaky)
    with pytest.raises(TableError, match=r"2 independent fields .*another unit \(well, plate, group\)"):
        assign_splits(index[:2], by="paper")
    with pytest.raises(TableError, match="'tile' is not known; choose well, plate, group, field"):
        assign_splits(index, by="tile")
    with pytest.raises(TableError, match="summing to 1"):
        assign_splits(index, fractions={"train": 0.9, "test": 0.2})
    with pytest.raises(TableError, match="1 independent plates cannot fill the splits train, val, test; add data"):
        assign_splits(fields(), by="plate")


@pytest.mark.parametrize("wells", [3, 4, 7, 11])
def test_every_split_gets_a_unit(wells):
    split = assign_splits(fields(wells=wells, each=1), fractions={"train": 0.96, "val": 0.02, "test": 0.02})["split"]
    assert split.value_counts().to_dict() == {"train": wells - 2, "val": 1, "test": 1}


def test_a_written_split_is_kept_and_its_leak_is_seen(plate, tmp_path, caplog):
    plate.assign(split=["train", "test", "val", "val"]).to_csv(tmp_path / "index.csv", index=False)
    with caplog.at_level(logging.INFO):
        index = assign_splits(read_index(tmp_path), seed=5)
    assert "kept; data.split_by and data.fractions draw one where it has none" in caplog.text
    assert list(index["split"]) == ["train", "test", "val", "val"]
    assert index.attrs["leaky_split"]
    assert "leaky split" in caplog.text


GUID = "1051DAA7C-7042-435F-99F0-1E847D9B42CB"  # a wave number and a GUID, as MetaXpress joins them
NAMES = [
    ("bbbc039", f"images/IXMtest_B03_s4_w{GUID}.tif", (None, "B03", "4", "image_nuclei"), 0.65),
    ("imagexpress", f"screen_7/TimePoint_1/screen_7_b03_s4_w{GUID}.TIF", ("screen_7", "B03", "4", "image_w1"), None),
    ("imagexpress", "24d3_B05_s22A31C13E-3314-476F-B62C-5CDC65915F2B.tif", ("24d3", "B05", "2", "image_0"), None),
    ("imagexpress", "b03_s4_w12.tif", (None, "B03", "4", "image_w12"), None),
    ("imagexpress", "p/TimePoint_1/20240101-p01_W02.TIF", ("20240101-p01", "W02", "1", "image_0"), None),
    ("opera_phenix", "plateX/Images/r02c13f04p01-ch2sk1fk1fl1.tiff", ("plateX", "B13", "04", "image_ch2"), None),
    ("opera_phenix", "BR51__2022-04-29T01_02_16-Measurement 1/Images/r27c01f001p01-ch1sk1fk1fl1.tiff",
     ("BR51", "AA01", "001", "image_ch1"), None),
    ("cellvoyager", "AssayPlate_Greiner_#655090_C02_T0001F001L01A01Z01C01.tif",
     ("AssayPlate_Greiner_#655090", "C02", "001", "image_C01"), None),
    ("cytation", "D6_01_2_3_GFP_001.tif", (None, "D06", "3", "image_GFP"), None),
    ("cytation", "B2_-1_1_1_Stitched[DAPI 377,447]_001.tif", (None, "B02", "1", "image_Stitched[DAPI 377,447]"), None),
    ("phirm_artefacts", "cfp_6_exp_times/151130-AY-artifacts-10x-6cfp_A05_s1_w3.TIF",
     ("151130-AY-artifacts-10x", "A05", "1w3", "image_artefacts"), None),
    ("plain", "my_plate_B3_2_er.png", ("my_plate", "B03", "2", "image_er"), None),
]  # fmt: skip


@pytest.mark.parametrize(("preset", "name", "expected", "known"), NAMES)
def test_presets_find_plate_well_field_and_channel(tmp_path, preset, name, expected, known):
    plate, well, number, column = expected
    picture(tmp_path / name)
    picture(tmp_path / "notes" / "readme.png")
    picture(tmp_path / name.replace(".", "_Thumb.", 1))
    index = build_index(tmp_path, pixel_size=None if known else 0.3)
    row = index.iloc[0]
    assert index.attrs["layout"] == preset
    assert (len(index), row["plate"], row["well"], row["field"]) == (1, plate or tmp_path.name, well, number)
    assert row[column] == str(tmp_path / name)
    assert row["pixel_size"] == (known or 0.3)
    assert index.attrs["unmatched"] == ["notes/readme.png"]


def test_label_images_beside_the_images_join_their_field(tmp_path):
    stem = f"IXMtest_B03_s4_w{GUID}"
    picture(tmp_path / "images" / f"{stem}.tif")
    picture(tmp_path / "images" / f"{stem.replace('B03', 'B04')}.tif")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "masks" / f"{stem}.png")
    index = build_index(tmp_path)  # the masks' names fit the plain preset too
    assert index.attrs == {"layout": "bbbc039", "unmatched": [], "alone": []}
    assert list(index["objects_nuclei"].fillna("none")) == [str(tmp_path / "masks" / f"{stem}.png"), "none"]


def test_wells_are_named_alike_so_that_a_split_sees_one_well(tmp_path):
    rows = [("A1", 1), ("A01", 2), ("a001", 3), ("B2", 1), ("slide 3", 1), ("C3", 1)]
    table = pd.DataFrame(rows, columns=["well", "field"]).assign(pixel_size=1, image_nuclei="")
    for row in table.index:
        picture(tmp_path / f"{row}.tif")
        table.loc[row, "image_nuclei"] = f"{row}.tif"
    table.to_csv(tmp_path / "index.csv", index=False)
    index = read_index(tmp_path)
    assert list(index["well"]) == ["A01", "A01", "A01", "B02", "slide 3", "C03"]
    assert assign_splits(index).groupby("well")["split"].nunique().max() == 1


def test_the_artefact_data_set_is_read_from_a_drawn_miniature(tmp_path):
    """Two wells, two sites, two of six exposures, in the folders and names that the published code reads."""
    microscope = Microscope()
    for well, site in itertools.product(("E02", "F03"), (1, 2)):
        scene = Scene.draw(site + 10 * (well == "F03"), (96, 96), 0.65, Phenotype(artefact_density=300))
        for exposure, (stain, channel) in itertools.product((1, 3), [("dapi", "nuclei"), ("cfp", "artefacts")]):
            name = f"{stain}_6_exp_times/151130-AY-artifacts-10x-6{stain}_{well}_s{site}_w{exposure}.TIF"
            (tmp_path / name).parent.mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / name, microscope.image(scene, channel=channel, seed=exposure))
    picture(tmp_path / "dapi_gfp_tritc_cy5" / "151130-AY-artifacts-10x-dapi-gfp-tritc-cy5_E02_s1_w1.TIF")
    index = build_index(tmp_path, pixel_size=0.65)
    assert index.attrs["layout"] == "phirm_artefacts"
    assert index.attrs["unmatched"] == ["dapi_gfp_tritc_cy5/151130-AY-artifacts-10x-dapi-gfp-tritc-cy5_E02_s1_w1.TIF"]
    assert list(index["field"]) == ["1w1", "1w3", "2w1", "2w3"] * 2
    assert list(index["parent"].unique()) == [
        f"151130-AY-artifacts-10x_{well}_{s}" for well in ("E02", "F03") for s in "12"
    ]
    check_images(check_index(index, "miniature"))
    split = assign_splits(index, by="field", fractions={"train": 0.5, "test": 0.5})
    assert (split.groupby("parent")["split"].nunique() == 1).all()  # exposures of one place stay together
    for row in index.itertuples():
        assert "6dapi" in row.image_nuclei
        assert "6cfp" in row.image_artefacts
        assert Path(row.image_nuclei).stem[-9:] == Path(row.image_artefacts).stem[-9:]


def test_build_index_by_regex_and_its_errors(tmp_path):
    for name in ("x-C07-1.tif", "x-C08-1.tif", "x-C08-1z2.tif"):
        picture(tmp_path / name)
    index = build_index(tmp_path, r"-(?P<well>\w+)-(?P<field>\d)\.tif", pixel_size=1, channels={"0": "nuclei"})
    assert list(index["well"]) == ["C07", "C08"]
    assert list(index.columns[-1:]) == ["image_nuclei"]
    for pattern, message in [
        ("auto", r"no preset \(bbbc039.*x-C07-1.tif.*give --pattern"),
        (r"(\d+", "no preset .*and no regular expression"),
        (r"(?P<field>\d)", "names no well; write it as a named group"),
        (r"(?P<well>Z\d\d)", "matches none of 3 images.*correct it"),
        (
            r"-(?P<well>\w+)-(?P<field>\d)",
            "x-C08-1.tif and x-C08-1z2.tif are both image_0 of .*_C08_1; give a pattern",
        ),
    ]:
        with pytest.raises(TableError, match=message):
            build_index(tmp_path, pattern, pixel_size=1)
    with pytest.raises(TableError, match="no file has channel w9; the file names say 0"):
        build_index(tmp_path, r"-(?P<well>\w+)-1\.", pixel_size=1, channels={"w9": "nuclei"})
    with pytest.raises(TableError, match=r"pixel size is not known, .*_C07_1 does not say it; give it in micrometres"):
        build_index(tmp_path, r"-(?P<well>\w+)-1\.")


def test_command_line_writes_an_index_that_reads_back(tmp_path, capsys):
    for well in ("A01", "A02", "A03"):
        for channel in ("c1", "objects_nuclei"):
            picture(tmp_path / f"{well}_1_{channel}.tif")
    picture(tmp_path / "overview.png")
    command = [str(tmp_path), "--pixel-size", "0.5", "--channel", "c1=nuclei"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    for text in ("image_nuclei", "8 x 9 (3)", "uint16 (3)", "3 fields, 3 wells", "train (1)", "1 files did not match"):
        assert text in printed
    index = read_index(tmp_path)
    assert set(index["split"]) == {"train", "val", "test"}
    assert {"image_nuclei", "objects_nuclei"} < set(index)
    assert pd.read_csv(tmp_path / "index.csv")["image_nuclei"][0] == "A01_1_c1.tif"
    assert main(command) == 2  # a person may have edited it
    assert "exists and may have been edited; remove it" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "two.parquet"), "--split-by", "none"]) == 0
    assert "split" not in read_index(tmp_path / "two.parquet")


@pytest.mark.parametrize(("other", "sizes"), [("dic", [12, 1, 3]), ("er", [11, 2, 3])])
def test_the_command_line_splits_pairs_as_their_datamodule_does(tmp_path, capsys, other, sizes):
    for well, channel in itertools.product(range(2, 18), ("nuclei", other)):
        picture(tmp_path / f"B{well:02d}_1_{channel}.tif")
    assert main([str(tmp_path), "--pixel-size", "0.5"]) == 0
    assert list(read_index(tmp_path)["split"].value_counts()[["train", "val", "test"]]) == sizes
    share = "72/8/20" if other == "dic" else "70/10/20"
    assert f"drawn by well, {share} % to train, val and test; training keeps it" in capsys.readouterr().out


def test_a_file_without_its_partner_is_named_where_no_table_has_rows(tmp_path, capsys):
    for name in ("A01_1_nuclei", "A01_1_er", "A02_1_er"):
        picture(tmp_path / f"{name}.tif")
    message = r"A02_1_er\.tif has no image_nuclei beside it \(1 fields have none\); copy .*, or remove this one"
    for channels in (None, ["nuclei"], ["er", "nuclei"]):
        with pytest.raises(TableError, match=message):
            read_index(tmp_path, 0.5, channels)
    assert main([str(tmp_path), "--pixel-size", "0.5"]) == 2
    assert "A02_1_er.tif has no image_nuclei" in capsys.readouterr().err
    assert len(read_index(tmp_path, 0.5, ["er"])) == 2


def test_command_line_errors_are_one_line_and_code_2(tmp_path, capsys, monkeypatch):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path), "--channel", "w1"])
    assert caught.value.code == 2
    assert "write it like w1=nuclei" in capsys.readouterr().err
    picture(tmp_path / "A01_1_c1.tif")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pd.DataFrame, "to_csv", refuse)
    assert main([str(tmp_path), "--pixel-size", "1", "--split-by", "none"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/index.csv: cannot be written (Permission denied); give --out" in error
    assert error.count("\n") == 1


@pytest.mark.skipif(not BBBC039.is_dir(), reason="shared/data/bbbc039 is absent")
def test_the_real_plate_is_indexed_in_memory(caplog):
    before = sorted(BBBC039.iterdir())
    with caplog.at_level(logging.INFO):
        index = read_index(BBBC039)
    assert "built one in memory by the preset 'bbbc039', 80 fields" in caplog.text
    assert len(index) == 80
    stems = [Path(name).stem for name in index["image_nuclei"]]
    assert [Path(name).stem for name in index["objects_nuclei"]] == stems
    assert index["well"].nunique() == len({stem.split("_")[1] for stem in stems})
    check_images(index)
    split = assign_splits(index)
    assert (split.groupby("well")["split"].nunique() == 1).all()
    assert sorted(BBBC039.iterdir()) == before
