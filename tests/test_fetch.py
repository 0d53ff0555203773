"""Fetching a data set from a server on this machine: checked, whole or not at all, and never outside its folder."""

import dataclasses
import hashlib
import http.server
import io
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image

from phenokeep.datamodules import fetch
from phenokeep.datamodules.fetch import DATA_SETS, Archive, DataSet, FetchError, index_bbbc039, main
from phenokeep.datamodules.tables import read_index

STEMS = [f"IXMtest_{well}_s{site}_w1{8 * 'A'}-1111-2222-3333-{12 * 'B'}" for well, site in
         [("A01", 1), ("A01", 2), ("B05", 3), ("C07", 4)]]  # fmt: skip


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
        bundle.writestr("__MACOSX/._x", b"fork")
    return buffer.getvalue()


def encoded(write, array):
    buffer = io.BytesIO()
    write(buffer, array)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def bundles():
    """A miniature of BBBC039 as its three zips: four fields of two plates that share the name of a well."""
    rng = np.random.default_rng(0)
    images = {
        f"images/{stem}.tif": encoded(tifffile.imwrite, rng.integers(0, 999, (9, 8), np.uint16)) for stem in STEMS
    }
    png = encoded(lambda file, array: Image.fromarray(array).save(file, "PNG"), np.eye(9, 8, dtype=np.uint8))
    lists = [("training", STEMS[:3:2]), ("validation", STEMS[1:2]), ("test", STEMS[3:])]
    return {
        "images": zipped(**images),
        "masks": zipped(**{f"masks/{stem}.png": png for stem in STEMS}),
        "metadata": zipped(
            **{f"metadata/{name}.txt": "\n".join(f"{stem}.png" for stem in stems) for name, stems in lists},
            **{"metadata/filenames_and_plates.csv": "".join(f"{s}.png,p{i % 2}\n" for i, s in enumerate(STEMS))},
        ),
    }


@pytest.fixture
def served(bundles, tmp_path, monkeypatch):
    """The miniature as the registered data set, served from a folder on 127.0.0.1."""
    folder = tmp_path / "server"
    folder.mkdir()
    for name, content in bundles.items():
        (folder / f"{name}.zip").write_bytes(content)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setitem(DATA_SETS, "bbbc039", registered(f"http://127.0.0.1:{server.server_port}", bundles))
    yield folder
    server.shutdown()
    server.server_close()


def registered(base, bundles):
    archives = tuple(
        Archive(name, f"{base}/{name}.zip", hashlib.sha256(content).hexdigest(), len(content), 10_000)
        for name, content in bundles.items()
    )
    return DataSet("a miniature", "CC0", "somebody 2018", archives, "images/*.tif", index_bbbc039)


def test_a_data_set_is_fetched_unpacked_and_indexed(served, tmp_path, capsys):
    out = tmp_path / "data"
    assert main(["bbbc039", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "licence: CC0\ncite: somebody 2018" in printed
    assert "4 fields of 2 plates (train 2, val 1, test 1)" in printed
    index = read_index(out)
    assert list(index["split"]) == ["train", "val", "train", "test"]
    assert list(index["group"]) == ["p0:A01", "p1:A01", "p0:B05", "p1:C07"]
    assert not index.attrs["leaky_split"]
    assert index["objects_nuclei"].notna().all()
    assert sorted(path.name for path in out.iterdir()) == ["archives", "images", "index.csv", "masks", "metadata"]
    (out / "metadata" / "filenames_and_plates.csv").rename(tmp_path / "plates.csv")
    assert index_bbbc039(out).attrs["leaky_split"]  # as one plate, A01 would lie on two sides
    for path in served.iterdir():  # a second run needs no server
        path.unlink()
    assert main(["bbbc039", "--out", str(out)]) == 0


def test_an_interrupted_fetch_goes_on_with_what_is_whole(served, tmp_path, bundles):
    (served / "metadata.zip").unlink()
    out = tmp_path / "data"
    assert main(["bbbc039", "--out", str(out)]) == 1
    assert (out / "images").is_dir()
    assert not (out / "index.csv").exists()
    (served / "images.zip").unlink()
    (out / "archives" / "metadata.zip").write_bytes(bundles["metadata"])  # put there by hand
    assert main(["bbbc039", "--out", str(out)]) == 0


@pytest.mark.parametrize("damage", ["absent", "changed", "cut", "longer", "no server"])
def test_what_cannot_be_had_is_one_message_with_address_checksum_and_layout(served, tmp_path, capsys, bundles, damage):
    path = served / "images.zip"
    if damage == "absent":
        path.unlink()
    elif damage == "no server":
        DATA_SETS["bbbc039"] = registered("http://127.0.0.1:9", bundles)
    else:
        content = path.read_bytes()
        path.write_bytes({"changed": content[:-1] + b"!", "cut": content[:50], "longer": 2 * content}[damage])
    out = tmp_path / "data"
    assert main(["bbbc039", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    said = {"absent": "HTTP Error 404", "no server": "refused", "longer": "sends more than"}.get(damage, "SHA-256")
    assert said in error
    assert "Traceback" not in error
    for archive in DATA_SETS["bbbc039"].archives:
        assert archive.url in error
        assert archive.sha256 in error
    assert "images/*.tif" in error
    assert [path.name for path in out.rglob("*")] == ["archives"]  # nothing half-written


LINK = zipfile.ZipInfo("images/link.tif")
LINK.external_attr = 0o120777 << 16


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../outside.tif": b"x"}, "outside of images/"),
        ({"/etc/outside.tif": b"x"}, "outside of images/"),
        ({"images/../../outside.tif": b"x"}, "outside of images/"),
        ({"images\\..\\..\\outside.tif": b"x"}, "outside of images/"),
        ({LINK: b"/etc/passwd"}, "outside of images/"),
        ({"images/bomb.tif": bytes(10_000_000)}, "unpacks to more than 10000 bytes"),
        ({"elsewhere.txt": b"x"}, "outside of images/"),
        ({}, "holds no folder images/"),
    ],
)
def test_an_archive_that_leaves_its_folder_or_bound_is_refused(tmp_path, files, message):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    (tmp_path / "images.zip").write_bytes(buffer.getvalue())
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(FetchError, match=message):
        fetch.unpack(tmp_path / "images.zip", Archive("images", "", "", 0, 10_000), out)
    assert list(out.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"images.zip", "out"}


def test_a_file_that_is_no_zip_and_a_folder_that_cannot_be_written(tmp_path, bundles):
    (tmp_path / "images.zip").write_bytes(b"not a zip")
    with pytest.raises(FetchError, match="no readable zip"):
        fetch.unpack(tmp_path / "images.zip", Archive("images", "", "", 0, 10_000), tmp_path)
    with pytest.raises(FetchError, match=r"images\.zip.*; give --out a folder you may write"):
        fetch.fetch(registered("file:///nowhere", bundles), tmp_path / "images.zip")


def test_the_registry_names_licence_source_and_checksum_of_each_set():
    for data_set in DATA_SETS.values():
        assert all(dataclasses.astuple(data_set)[:3])
        for archive in data_set.archives:
            assert archive.url.startswith("https://")
            assert len(bytes.fromhex(archive.sha256)) == 32
            assert archive.size < archive.unpacked
