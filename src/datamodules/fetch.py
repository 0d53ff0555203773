"""Downloads public data sets, checks them, unpacks them and writes their index.

python -m phenokeep.datamodules.fetch bbbc039 [--out DIR]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import os
import shutil
import stat
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from ..imaging.files import replacing
from .checks import check_index
from .layouts import TableError, build_index, with_defaults
from .tables import write_index

TIMEOUT = 30  # seconds without an answer
CHUNK = 2**20


class FetchError(Exception):
    """A data set cannot be had; the message says why, and how to lay it out by hand."""


@dataclass(frozen=True)
class Archive:
    """One zip of a data set: the folder in it, its address, its SHA-256, its bytes packed and at most unpacked."""

    folder: str
    url: str
    sha256: str
    size: int
    unpacked: int


@dataclass(frozen=True)
class DataSet:
    """A public data set: what it is, under which licence, how to cite it, its archives and how its index is made."""

    title: str
    licence: str
    citation: str
    archives: tuple[Archive, ...]
    layout: str
    index: Callable[[Path], pd.DataFrame]


def index_bbbc039(folder: Path) -> pd.DataFrame:
    """The index of BBBC039, its plates and its published split taken from metadata/ where that is there.

    The fields come from several plates that share names of wells, so the plates matter: by plate and well the published
    split is not leaky, as public code that reads the lists asserts; every plate is on all of its sides. `check_index`
    sets `attrs["leaky_split"]` from the files themselves.
    """
    index = build_index(folder, "bbbc039")
    stems = index["image_nuclei"].map(lambda name: Path(name).stem)
    plates = folder / "metadata" / "filenames_and_plates.csv"
    if plates.is_file():
        rows = csv.reader(plates.read_text(encoding="utf-8-sig").splitlines())
        names = {Path(row[0].strip()).stem: row[1].strip() for row in rows if len(row) > 1}
        index["plate"] = stems.map(names).fillna(index["plate"])
        index = with_defaults(index.drop(columns=["id", "group", "parent"]), folder.name)
    sides = {}
    for name, split in (("training", "train"), ("validation", "val"), ("test", "test")):
        path = folder / "metadata" / f"{name}.txt"
        lines = path.read_text(encoding="utf-8-sig").split() if path.is_file() else []
        sides.update({Path(line).stem: split for line in lines})
    if sides:
        index["split"] = stems.map(sides)
        if index["split"].isna().any():
            raise FetchError(
                f"{folder}/metadata: lists no split for {stems[index['split'].isna()].iloc[0]}; fetch anew"
            )
    return check_index(index, str(folder))


def _bbbc039(folder: str, sha256: str, size: int, unpacked: int) -> Archive:
    return Archive(folder, f"https://data.broadinstitute.org/bbbc/BBBC039/{folder}.zip", sha256, size, unpacked)


# Checksums and sizes as several public scripts give them; no download of ours has verified them.
DATA_SETS = {
    "bbbc039": DataSet(
        "BBBC039v1: 200 fields of U2OS nuclei (Hoechst, 20x), every nucleus outlined by hand; about 80 MB",
        "CC0 1.0 (public domain)",
        "Caicedo et al. 2018, image set BBBC039v1, Broad Bioimage Benchmark Collection (Ljosa et al. 2012)",
        (
            _bbbc039("images", "6f30a5d4fe38c928ded972704f085975f8dc0d65d9aa366df00e5a9d449fddd7", 77_915_748, 2**28),
            _bbbc039("masks", "f9e6043d8ca56344a4886f96a700d804d6ee982f31e2b2cd3194af2a053c2710", 2_753_811, 2**26),
            _bbbc039("metadata", "a2c1f900bed9ba92a99553efd4c2ae98598433691c7401d818653ab61110deb2", 17_816, 2**24),
        ),
        "images/*.tif   masks/*.png   metadata/{training,validation,test}.txt, filenames_and_plates.csv",
        index_bbbc039,
    ),
}


def fetch(data_set: DataSet, out: str | os.PathLike[str]) -> Path:
    """Download, verify and unpack a data set into `out` and write its index.csv; returns the path of the index.

    What is there already is kept: an archive of the right checksum, an unpacked folder, an index. Nothing half-written
    stands under a final name. Raises FetchError.
    """
    out = Path(out).resolve()
    try:
        (out / "archives").mkdir(parents=True, exist_ok=True)
        for archive in data_set.archives:
            if not (out / archive.folder).is_dir():
                unpack(download(archive, out / "archives"), archive, out)
        if not (out / "index.csv").exists():
            write_index(data_set.index(out), out / "index.csv")
    except FetchError as error:
        needed = "\n".join(f"  {archive.url}\n    sha256 {archive.sha256}" for archive in data_set.archives)
        raise FetchError(
            f"{error}\nBy hand: put these archives into {out / 'archives'} and run this again, or unpack them to "
            f"{out} as\n  {data_set.layout}\n{needed}"
        ) from None
    except TableError as error:
        raise FetchError(str(error)) from None
    except OSError as error:
        raise FetchError(
            f"{error.filename or out}: {error.strerror or error}; give --out a folder you may write"
        ) from None
    return out / "index.csv"


def download(archive: Archive, folder: Path) -> Path:
    """Bring an archive into a folder, unless it is there; it gets its name when its checksum is right."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    path = folder / PurePosixPath(archive.url).name
    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == archive.sha256:
            return path
        raise FetchError(f"{path}: its SHA-256 is {found}, not {archive.sha256}; remove it")
    digest, received = hashlib.sha256(), 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with (
            replacing(path) as temporary,
            urllib.request.urlopen(archive.url, timeout=TIMEOUT) as answer,
            temporary.open("wb") as file,
            Progress(*columns, transient=True) as progress,
        ):
            task = progress.add_task(path.name, total=archive.size)
            while chunk := answer.read(CHUNK):
                received += len(chunk)
                if received > archive.size:
                    raise FetchError(f"{archive.url}: sends more than the {archive.size} bytes it should have")
                file.write(chunk)
                digest.update(chunk)
                progress.update(task, advance=len(chunk))
            if digest.hexdigest() != archive.sha256:
                raise FetchError(
                    f"{archive.url}: {received} bytes with SHA-256 {digest.hexdigest()} came, not {archive.sha256}: "
                    "the download broke off, or the file has changed; nothing was unpacked"
                )
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        why = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        raise FetchError(f"{archive.url}: cannot be downloaded ({why})") from None
    return path


def unpack(path: Path, archive: Archive, out: Path) -> None:
    """Unpack the archive's folder into `out`, whole or not at all; what leaves the folder or the bound is refused."""
    draft = out / f".{archive.folder}.{os.getpid()}.tmp"
    left = archive.unpacked
    try:
        with zipfile.ZipFile(path) as bundle:
            for member in bundle.infolist():
                inside = PurePosixPath(member.filename.replace("\\", "/"))
                if member.is_dir() or inside.parts[0] == "__MACOSX" or inside.name.startswith("."):
                    continue
                link = stat.S_ISLNK(member.external_attr >> 16)
                if link or ".." in inside.parts or inside.is_absolute() or inside.parts[0] != archive.folder:
                    raise FetchError(
                        f"{path}: holds {member.filename!r}, outside of {archive.folder}/; it is not trusted"
                    )
                target = draft.joinpath(*inside.parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(member) as source, target.open("wb") as file:
                    while chunk := source.read(min(CHUNK, left + 1)):
                        left -= len(chunk)
                        if left < 0:
                            raise FetchError(
                                f"{path}: unpacks to more than {archive.unpacked} bytes; it is not trusted"
                            )
                        file.write(chunk)
        if not draft.is_dir():
            raise FetchError(f"{path}: holds no folder {archive.folder}/")
        draft.rename(out / archive.folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise FetchError(f"{path}: is no readable zip ({error})") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch one data set and say what came, under which licence; returns the exit code (1: it could not be had)."""
    parser = argparse.ArgumentParser(
        prog="python -m phenokeep.datamodules.fetch",
        description="Download a public data set, check it, unpack it and write its index.",
        epilog="; ".join(f"{name} = {data_set.title}" for name, data_set in DATA_SETS.items()),
    )
    parser.add_argument("name", choices=list(DATA_SETS))
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to fill (default: ./NAME)")
    options = parser.parse_args(argv)
    data_set = DATA_SETS[options.name]
    print(f"{data_set.title}\nlicence: {data_set.licence}\ncite: {data_set.citation}", flush=True)
    try:
        index = fetch(data_set, options.out or Path(options.name))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = pd.read_csv(index, dtype=str)
    sides = ", ".join(f"{name} {count}" for name, count in table.get("split", pd.Series()).value_counts().items())
    print(f"{len(table)} fields of {table['plate'].nunique()} plates" + (f" ({sides})" if sides else ""))
    print(f"wrote {index}; train on it with data=hcs_nuclei data.root={index.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
