"""Take every case of bad input through its door: python benchmarks/bad_input.py [--only TEXT] [--out FILE.md|FILE.csv].

Each case meets its door in a forked child that may use 1 GB more than the imports and 10 seconds; a table says what
came back. Exit code 1 where a case is no clear error.
"""

import argparse
import csv
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow's own reserves a gigabyte of addresses

import cv2
import torch

import phenokeep.run  # noqa: F401  everything heavy, once, before the forks

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from corpus import CASES, Case, meet

SECONDS, MEGABYTES = 10.0, 1024
ALLOWED = 512  # more than this leans on the limit


class Line(NamedTuple):
    """What came of a case: time and the memory above the imports' that it took, the message, and "" or the fault."""

    name: str
    seconds: float
    megabytes: float
    message: str
    fault: str


def _child(case: Case, folder: Path, report: Path) -> None:
    """Meets the case under a limit of memory and writes what came back; never returns."""
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        argument = case.build(folder)
        report.write_text(json.dumps([0.0, 0.0, "", "the child was ended by its limits"]))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _memory("VmHWM")
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + MEGABYTES * 2**20,) * 2)
        started = time.monotonic()
        outcome = meet(case, argument, folder)
        took = [time.monotonic() - started, (_memory("VmHWM") - before) / 2**20]
        report.write_text(json.dumps([*took, outcome.message, outcome.fault]))
    except BaseException as error:
        report.write_text(json.dumps([0.0, 0.0, str(error)[:300], f"{type(error).__name__} in the case itself"]))
    finally:
        os._exit(0)


def _memory(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def take(case: Case) -> Line:
    """One case in a child of its own."""
    with tempfile.TemporaryDirectory(prefix="bad_input_") as name:
        folder, report = Path(name) / "input", Path(name) / "report.json"
        folder.mkdir()
        child = os.fork()
        if child == 0:
            _child(case, folder, report)
        status = _wait(child, report)
        found = json.loads(report.read_text()) if report.exists() else [0.0, 0.0, "", "died while it was built"]
        if status is None:
            found = [SECONDS, 0.0, "", f"ran longer than {SECONDS:.0f} s"]
        elif status != 0:
            found[3] = f"the child died of signal {status & 127}"
        elif found[1] > ALLOWED and not found[3]:
            found[3] = f"took more than {ALLOWED} MB"
        return Line(case.name, found[0], found[1], found[2].replace(name, ""), found[3])


def _wait(child: int, report: Path) -> int | None:
    """The child's status; None where it had to be killed. The clock starts when the input is built."""
    started = None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if started is None and report.exists():
            started = time.monotonic()
        if started is not None and time.monotonic() - started > SECONDS:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.005)


def write(lines: list[Line], out: Path) -> None:
    """The table as CSV or Markdown, by suffix."""
    if out.suffix == ".csv":
        with out.open("w", newline="") as file:
            csv.writer(file).writerows([Line._fields, *lines])
        return
    rows = ["| case | s | MB | message | ok |", "|---|---|---|---|---|"]
    for line in lines:
        message = " ".join(line.message.split()).replace("|", "\\|")
        rows.append(f"| {line.name} | {line.seconds:.2f} | {line.megabytes:.0f} | {message} | {line.fault or 'yes'} |")
    out.write_text("\n".join([*rows, "", summary(lines), ""]))


def summary(lines: list[Line]) -> str:
    slowest, largest = max(lines, key=lambda line: line.seconds), max(lines, key=lambda line: line.megabytes)
    return (
        f"{len(lines)} cases, {sum(not line.fault for line in lines)} end in one clear error; slowest "
        f"{slowest.seconds:.2f} s ({slowest.name}), most memory {largest.megabytes:.0f} MB ({largest.name})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--out", type=Path, help="table to write, .md or .csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    lines = []
    for case in CASES:
        if options.only.lower() in case.name.lower():
            lines.append(line := take(case))
            text = " ".join(line.message.split())
            print(f"{'ok  ' if not line.fault else 'BAD '} {line.seconds:5.2f} s {line.megabytes:5.0f} MB  {line.name}")
            print(f"     {text[:230]}" + (f"\n     FAULT: {line.fault}" if line.fault else ""), flush=True)
    if not lines:
        raise SystemExit(f"no case is named like {options.only!r}")
    print(summary(lines))
    if options.out:
        write(lines, options.out)
    return int(any(line.fault for line in lines))


if __name__ == "__main__":
    sys.exit(main())
