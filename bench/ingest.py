"""Measure the way from a capture file to closed chunks on the disk, and to conversations, and where the time goes.

    python bench/ingest.py [--packets N] [--flows N] [--state DIR] [--json OUT]

Makes its own input: a classic pcap of 96-octet snaplen, TCP and UDP over IPv4 and IPv6 in `--flows` conversations that
are interleaved, a million packets a minute, so that a minute is a chunk. The file is read once before anything is
timed. One thread; each stage is timed by itself as the path runs, and "whole path" is the wall clock around all of it,
files synced. The second row is the same with the journal, committed each second, as `nsstream ingest` runs it; its
source is read in a second thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from nsstream.capture import PcapFileSource
from nsstream.chunk import Chunker, ChunkStore
from nsstream.clock import SystemClock
from nsstream.pipeline.channel import WhenFull
from nsstream.pipeline.ingest_loop import IngestLoop
from nsstream.pipeline.intake import Intake, IntakeConfig
from nsstream.trace.grouping import OpenConversations, group_conversations
from nsstream.wire import pcap_header

MINUTE_NS = 60_000_000_000
CHUNK_PACKETS = 1_000_000
START_S = 28_000_000 * 60
SNAPLEN = 96
FLOOR_PPS = 2_000_000


def write_capture(path: Path, packets: int, flows: int, *, seed: int = 0) -> None:
    """Frames of 96 captured octets; packet i is at i / CHUNK_PACKETS minutes."""
    rng = np.random.default_rng(seed)
    templates = np.stack([_frame(rng, i) for i in range(flows)])
    with path.open("wb") as file:
        file.write(pcap_header(snaplen=SNAPLEN))
        for first in range(0, packets, 100_000):
            n = min(100_000, packets - first)
            chosen = (rng.random(n) ** 2 * flows).astype(np.int64)  # some conversations are long, most are short
            records = np.empty((n, 16 + SNAPLEN), np.uint8)
            time_ns = (first + np.arange(n)) * (MINUTE_NS // CHUNK_PACKETS)
            header = np.empty((n, 4), "<u4")
            header[:, 0], header[:, 1] = START_S + time_ns // 10**9, time_ns % 10**9
            header[:, 2], header[:, 3] = SNAPLEN, 600
            records[:, :16] = header.view(np.uint8)
            records[:, 16:] = templates[chosen]
            sequence = rng.integers(0, 1 << 32, n, np.uint32).astype(">u4")
            is_tcp4 = (records[:, 16 + 12] == 8) & (records[:, 16 + 23] == 6)
            records[is_tcp4, 16 + 38 : 16 + 42] = sequence[is_tcp4].view(np.uint8).reshape(-1, 4)
            file.write(records.tobytes())


def _frame(rng: np.random.Generator, at: int) -> np.ndarray:
    ports = struct.pack("!HH", 1024 + at % 60_000, int(rng.choice([80, 443, 53, 22])))
    protocol = 6 if rng.random() < 0.75 else 17
    transport = ports + (rng.bytes(8) + b"\x50\x10\x01\xf5\0\0\0\0" if protocol == 6 else b"\x02\x24\0\0")
    if rng.random() < 0.8:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 568, 1, 0x4000, 64, protocol, 0) + b"\x0a" + rng.bytes(7)
        frame = b"\2\0\0\0\0\1\2\0\0\0\0\2\x08\0" + head + transport
    else:
        head = struct.pack("!IHBB", 0x60000000, 528, protocol, 64) + b"\x20\x01\x0d\xb8" + rng.bytes(28)
        frame = b"\2\0\0\0\0\1\2\0\0\0\0\2\x86\xdd" + head + transport
    return np.frombuffer(frame.ljust(SNAPLEN, b"\0")[:SNAPLEN], np.uint8)


def measure_stages(path: Path, folder: Path) -> dict[str, float]:
    """Seconds and CPU-seconds by stage, and of the whole path, in one thread."""
    seconds = dict.fromkeys(("decode", "chunker", "store", "group"), 0.0)
    cpu_seconds = dict(seconds)
    source, store = PcapFileSource(path), ChunkStore(folder)
    chunker = Chunker(MINUTE_NS, allowed_future_ns=3_600_000_000_000)
    before = OpenConversations()
    conversations = 0
    began = now = time.perf_counter()
    cpu_began = cpu_now = time.process_time()

    def lap(stage: str) -> None:
        nonlocal now, cpu_now
        then, now = now, time.perf_counter()
        cpu_then, cpu_now = cpu_now, time.process_time()
        seconds[stage] += now - then
        cpu_seconds[stage] += cpu_now - cpu_then

    source.open()
    while True:
        batch = source.read_batch()
        lap("decode")
        closed = chunker.flush() if batch is None else chunker.push(batch)
        lap("chunker")
        for chunk in closed:
            store.write(chunk)
            lap("store")
            table, before = group_conversations(chunk.packets, before)
            conversations += len(table)
            lap("group")
        if batch is None:
            break
    source.close()
    chunker.tally.check()
    seconds["whole path"] = time.perf_counter() - began
    cpu_seconds["whole path"] = time.process_time() - cpu_began
    told = {f"cpu of {stage}": cpu for stage, cpu in cpu_seconds.items()}
    return seconds | told | {"packets": chunker.tally.kept, "conversations": conversations}


def measure_loop(path: Path, state: Path) -> dict[str, float]:
    """Seconds of the real thing, journal and all."""
    clock = SystemClock()
    began, cpu_began = time.perf_counter(), time.process_time()
    intake = Intake(state, str(path), IntakeConfig(), clock=clock)
    loop = IngestLoop(PcapFileSource(path), intake, when_full=WhenFull.BLOCK, capacity_rows=1 << 18, clock=clock)
    tally = loop.run()
    intake.close()
    cpu_s = time.process_time() - cpu_began
    return {"whole path": time.perf_counter() - began, "cpu of whole path": cpu_s, "packets": tally.kept}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=4_000_000)
    parser.add_argument("--flows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--state", type=Path, help="Where to write; a temporary directory.")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.state) as directory:
        folder = Path(directory)
        small, large = folder / "small.pcap", folder / "large.pcap"
        write_capture(small, 1000, 100)
        write_capture(large, arguments.packets, arguments.flows)
        measure_stages(small, folder / "warm-up")  # compiles, or loads what was compiled
        large.read_bytes()
        rounds = [measure_stages(large, folder / f"chunks-{i}") for i in range(arguments.rounds)]
        loops = [measure_loop(large, folder / f"state-{i}") for i in range(arguments.rounds)]
    best = min(rounds, key=lambda seconds: seconds["whole path"])
    best_loop = min(loops, key=lambda seconds: seconds["whole path"])
    packets = best["packets"]
    title = f"{packets:,.0f} packets, {best['conversations']:,.0f} conversations by chunk"
    table = Table("stage", "seconds", "packets/s", "CPU-seconds", "packets/CPU-second", title=title)
    rows = [(stage, best, stage) for stage in ("decode", "chunker", "store", "group", "whole path")]
    for name, figures, stage in [*rows, ("with journal, without grouping", best_loop, "whole path")]:
        wall_s, cpu_s = figures[stage], figures[f"cpu of {stage}"]
        table.add_row(name, f"{wall_s:.3f}", f"{packets / wall_s:,.0f}", f"{cpu_s:.3f}", f"{packets / cpu_s:,.0f}")
    Console().print(table)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak_mb:,.0f} MB")
    if arguments.json is not None:
        figures = {"stages": best, "with_journal": best_loop, "peak_mb": peak_mb}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if packets / best["whole path"] >= FLOOR_PPS else 1


if __name__ == "__main__":
    raise SystemExit(main())
