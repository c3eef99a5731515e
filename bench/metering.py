"""Measure how fast packets become flow records, beside nfpcapd and softflowd reading the same file in the same run.

    python bench/metering.py [--packets N] [--rounds N] [--json OUT]

Makes its own capture (`bars.flow_capture`). Every figure is packets per second of processor time, the best of the
rounds, in which all take turns. "Meter" is `FlowMeter` alone, from columns to columns; "to records" reads the file,
too; "to chunks" is what `nsstream ingest --flows` runs, journal and stored chunks included: as much as nfpcapd does,
which reads the file, meters with the same timeouts on the packets' clock, and writes its own files. softflowd reads the
file, meters without timeouts, since its clock is not the packets', and exports NetFlow v9 to a socket that nobody
reads. A peer is left out where it is missing.

Bars: all count the same packets and octets; ours to chunks takes less processor time than nfpcapd, ours to records less
than softflowd. Numbers of records are shown: nfpcapd looks only now and then for flows that are due.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bars.flow_capture import write_flow_capture
from bars.runs import run_main
from bars.verdict import Bar, as_dict, equal, finish, has_passed, show

from nsstream.capture import MeteredSource, PcapFileSource
from nsstream.chunk import ChunkStore
from nsstream.clock import SystemClock
from nsstream.errors import NsstreamError
from nsstream.pipeline.channel import WhenFull
from nsstream.pipeline.ingest_loop import IngestLoop
from nsstream.pipeline.intake import Intake, IntakeConfig
from nsstream.trace import FlowTable
from nsstream.trace.metering import FlowMeter

ACTIVE_S, IDLE_S = 60, 15


@dataclass(frozen=True, slots=True)
class Metered:
    """What a meter made of the file, and what that cost."""

    records: int
    packets: int
    octets: int
    cpu_s: float


class PeerError(NsstreamError):
    """A peer ran, and what it said cannot be read."""


def meter_alone(capture: Path, folder: Path) -> Metered:
    source, batches = PcapFileSource(capture), []
    source.open()
    while (batch := source.read_batch()) is not None:
        batches.append(batch)
    source.close()
    meter = _meter()
    began_s = time.process_time()
    tables = [meter.push(batch) for batch in batches]
    tables.append(meter.flush())
    return _sum(tables, time.process_time() - began_s)


def to_records(capture: Path, folder: Path) -> Metered:
    source, tables = MeteredSource(PcapFileSource(capture), _meter()), []
    began_s = time.process_time()
    source.open()
    while (table := source.read_batch()) is not None:
        tables.append(table)
    source.close()
    cpu_s = time.process_time() - began_s
    source.tally.check()
    return _sum(tables, cpu_s)


def to_chunks(capture: Path, folder: Path) -> Metered:
    clock = SystemClock()
    began_s = time.process_time()
    source = MeteredSource(PcapFileSource(capture), _meter(), clock=clock)
    intake = Intake(folder, "capture", IntakeConfig(allowed_lateness_s=source.lateness_s), clock=clock)
    try:
        tally = IngestLoop(source, intake, when_full=WhenFull.BLOCK, capacity_rows=1 << 18, clock=clock).run()
    finally:
        intake.close()
    cpu_s = time.process_time() - began_s
    if tally.kept != tally.offered:
        raise AssertionError(f"rows were lost: {tally}")
    store = ChunkStore(folder / "chunks")
    return _sum([store.read(info.path).flows for info in store.list()], cpu_s)


def nfpcapd(capture: Path, folder: Path) -> Metered:
    timeouts = f"{ACTIVE_S},{IDLE_S}"
    _, cpu_s = _run("nfpcapd", "-r", str(capture), "-w", str(folder), "-e", timeouts, "-t", "86400")
    told, _ = _run("nfdump", "-R", str(folder), "-I")
    counts = [_count(told, rf"^{name}: (\d+)$") for name in ("Flows", "Packets", "Bytes")]
    return Metered(counts[0], counts[1], counts[2], cpu_s)


def softflowd(capture: Path, folder: Path) -> Metered:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        told, cpu_s = _run(
            "softflowd", "-d", "-6", "-r", str(capture), "-n", f"127.0.0.1:{sink.getsockname()[1]}", "-v", "9",
            "-m", "10000000", "-p", str(folder / "pid"), "-c", "none",
        )  # fmt: skip
    by_protocol = re.findall(r"^\s*\S+ \(\d+\):\s+(\d+)\s+(\d+)", told, re.MULTILINE)
    if not by_protocol:
        raise PeerError(f"softflowd tells of no packets: {told.strip()[-200:]!r}")
    octets, packets = (sum(int(row[at]) for row in by_protocol) for at in (0, 1))
    return Metered(_count(told, r"\((\d+) records\)"), packets, octets, cpu_s)


def _meter() -> FlowMeter:
    return FlowMeter(active_timeout_s=ACTIVE_S, idle_timeout_s=IDLE_S)


def _sum(tables: list[FlowTable], cpu_s: float) -> Metered:
    packets, octets = (
        sum(int(getattr(table, name).sum()) for table in tables) for name in ("packet_delta_count", "octet_delta_count")
    )
    return Metered(sum(map(len, tables)), packets, octets, cpu_s)


def _run(*command: str) -> tuple[str, float]:
    """What a tool says, and the processor time that it took, system calls included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise PeerError(f"exit status {done.returncode} of {' '.join(command)}: {done.stderr.strip()[-200:]}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout + done.stderr, cpu_s


def _count(text: str, pattern: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise PeerError(f"{pattern!r} is not in what a peer said: {text.strip()[-200:]!r}")
    return int(found[1])


WAYS: dict[str, Callable[[Path, Path], Metered]] = {
    "meter": meter_alone,
    "to records": to_records,
    "to chunks": to_chunks,
    "nfpcapd": nfpcapd,
    "softflowd": softflowd,
}


def measure(packets: int, rounds: int) -> dict[str, Metered]:
    """The best round of each."""
    ways = {name: way for name, way in WAYS.items() if " " in name or name == "meter" or shutil.which(name)}
    best: dict[str, Metered] = {}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        capture, small = folder / "capture.pcap", folder / "small.pcap"
        write_flow_capture(capture, packets)
        write_flow_capture(small, 1000)
        for at in range(rounds + 1):
            for name, way in ways.items():
                where = folder / f"{name} {at}"
                where.mkdir()
                metered = way(capture if at else small, where)  # the first one compiles, or loads what was compiled
                shutil.rmtree(where)
                if at and (name not in best or metered.cpu_s < best[name].cpu_s):
                    best[name] = metered
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    best = measure(arguments.packets, arguments.rounds)
    octets = best["meter"].octets
    bars: list[Bar] = []
    for name, metered in best.items():
        bars.append(Bar(f"{name}, packets per CPU-s", round(arguments.packets / metered.cpu_s)))
        bars.append(equal(f"{name}, packets", metered.packets, arguments.packets, metered.records))
        bars.append(equal(f"{name}, octets", metered.octets, octets))
    for peer, ours in (("nfpcapd", "to chunks"), ("softflowd", "to records")):
        times = best[peer].cpu_s / best[ours].cpu_s if peer in best else None
        bars.append(Bar(f"{ours}, times as fast as {peer}", times, "> 1", None if times is None else times > 1))
    show(f"{arguments.packets:,} packets to flow records, {ACTIVE_S} s active, {IDLE_S} s idle", bars, "records")
    return finish(as_dict(bars), arguments.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
