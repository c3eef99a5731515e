"""Measure the memory of `nsstream ingest FILE --state DIR`: at its peak, as the kernel counts it, whatever the file.

    python bench/ingest_memory.py [--packets N] [--flows N] [--state DIR] [--json OUT]

Makes the capture of `bench/ingest.py` in a process of its own, and the same with every two packets swapped, and ingests
them by the command line: by the minute, as one chunk, out of order, with most conversations sampled out, and some rows
late. A first run is not counted: it compiles what is compiled once, which takes more. What the kernel keeps of files in
its cache is not counted either: it takes that back when it needs it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bars.runs import run_main, run_nsstream
from bars.verdict import Bar, as_dict, at_most, finish, has_passed, show

MOST_MB = 250
RECORD_OCTETS = 16 + 96
HEADER_OCTETS = 24
WRITE = (
    "import sys, pathlib, ingest; ingest.write_capture(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
)


def write_capture(path: Path, packets: int, flows: int) -> None:
    """In another process: what a parent takes before it starts a child counts as the child's."""
    command = [sys.executable, "-c", WRITE, str(path), str(packets), str(flows)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent)


def swap_neighbours(ordered: Path, swapped: Path) -> None:
    with ordered.open("rb") as source, swapped.open("wb") as target:
        target.write(source.read(HEADER_OCTETS))
        while pair := source.read(2 * RECORD_OCTETS):
            target.write(pair[RECORD_OCTETS:] + pair[:RECORD_OCTETS])


def measure(folder: Path, packets: int, flows: int) -> list[Bar]:
    small, ordered, swapped = folder / "small.pcap", folder / "ordered.pcap", folder / "swapped.pcap"
    write_capture(small, 1000, 100)
    write_capture(ordered, packets, flows)
    swap_neighbours(ordered, swapped)
    for source in (small, swapped):
        run_nsstream("ingest", source, "--state", folder / f"warm-up-{source.stem}", "--max-rows", 1 << 19)
    bars = [Bar("1,000 packets, MB", run_nsstream("ingest", small, "--state", folder / "base").peak_bytes / 1e6)]
    for name, source, options in (
        ("chunks of a million packets", ordered, []),
        ("one chunk", ordered, ["--chunk", "1h"]),
        ("one chunk, out of order", swapped, ["--chunk", "1h"]),
        ("one chunk, sampled to fit", ordered, ["--chunk", "1h", "--max-rows", packets // 3]),
        ("chunks of 1 s, out of order", swapped, ["--chunk", "1s", "--lateness", "0s"]),
    ):
        cost = run_nsstream("ingest", source, "--state", folder / name.replace(" ", "-"), *options)
        bars.append(at_most(f"{packets:,} packets, {name}, MB", cost.peak_bytes / 1e6, MOST_MB, f"{cost.cpu_s:.1f} s"))
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=4_000_000)
    parser.add_argument("--flows", type=int, default=50_000)
    parser.add_argument("--state", type=Path, help="Where to write; a temporary directory.")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.state) as directory:
        bars = measure(Path(directory), arguments.packets, arguments.flows)
    show("Peak memory of nsstream ingest", bars, beside="CPU")
    return finish(as_dict(bars), arguments.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
