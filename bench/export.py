"""Measure how fast flows and frames become exports, beside nfreplay and softflowd in the same run.

    python bench/export.py [--flows N] [--packets N] [--rounds N] [--json OUT]

Three figures a version, all of processor time, system calls included, best of the rounds:
- encode: flow columns to datagrams in memory;
- send: the same flows to a UDP socket that nobody reads, as the sink does without its limit; nfreplay sends the same
  flows of one of our files for nfdump, without its pause between datagrams (it knows v5 and v9);
- frames: a made capture through the sink, meter included; softflowd exports the same file, and times nothing out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bars.flow_capture import write_flow_capture
from bars.runs import run_main
from bars.verdict import Bar, as_dict, finish, has_passed, show

from nsstream.assemble.frames import Frames
from nsstream.replay.registry import make_sink
from nsstream.replay.sink import Sink, SinkContext
from nsstream.trace import FlowTable
from nsstream.wire import RecordIndex
from nsstream.wire.netflow.export import FlowExporter
from nsstream.wire.pcap import HEADER_BYTES, PcapHeader, scan_records

FLOOR_PER_S = 1_000_000
BATCH = 4096
NOW_NS = 1_700_000_000 * 10**9
VERSIONS = {5: "v5", 9: "v9", 10: "IPFIX"}


def made_flows(n: int) -> FlowTable:
    """Flows of IPv4 alone, so that every version carries all of them."""
    rng = np.random.default_rng(1)
    addresses = rng.integers(0, 256, (2, n, 16), np.uint8)
    addresses[:, :, :12] = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
    start = NOW_NS + np.sort(rng.integers(0, 60 * 10**9, n))
    packets = rng.integers(1, 1000, n).astype(np.uint64)
    return FlowTable.from_columns(
        {
            "flow_start_ns": start,
            "flow_end_ns": start + rng.integers(0, 10**10, n),
            "ip_version": np.full(n, 4, np.uint8),
            "source_address": addresses[0],
            "destination_address": addresses[1],
            "protocol_identifier": rng.choice(np.array([6, 17], np.uint8), n),
            "source_transport_port": rng.integers(1024, 65536, n).astype(np.uint16),
            "destination_transport_port": rng.integers(1, 1024, n).astype(np.uint16),
            "packet_delta_count": packets,
            "octet_delta_count": packets * np.uint64(700),
            "tcp_control_bits": rng.integers(0, 64, n).astype(np.uint16),
        }
    )


def made_frames(packets: int, path: Path) -> Frames:
    """The packets of a made capture, which is written to `path`, as frames whose times rise strictly."""
    write_flow_capture(path, packets)
    octets = np.fromfile(path, np.uint8)
    index = RecordIndex.with_room_for(packets)
    count, _, _ = scan_records(
        octets, HEADER_BYTES, len(octets), PcapHeader.parse(octets[:HEADER_BYTES].tobytes()), index
    )
    lengths = index.captured_length[:count]
    offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    at = np.repeat(index.start[:count] - offset[:-1], lengths) + np.arange(offset[-1])
    rank = np.arange(count)
    times = np.maximum.accumulate(index.time_ns[:count] - rank) + rank
    return Frames(times, offset, octets[at])


def cpu_s(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def encode(table: FlowTable, version: int) -> float:
    blocks = [table.take(slice(k, k + BATCH)) for k in range(0, len(table), BATCH)]
    exporter = FlowExporter(version, NOW_NS - 10**12)  # type: ignore[arg-type]
    taken_s = cpu_s(lambda: [exporter.export(block, NOW_NS) for block in blocks] + [exporter.flush(NOW_NS)])
    if exporter.record_count != len(table) or exporter.waiting_count:
        raise AssertionError(f"{len(table)} flows were given, {exporter.record_count} taken")
    return len(table) / taken_s


def sink_to(port: int, version: int) -> Sink:
    fields = {"kind": "netflow", "address": "127.0.0.1", "port": port, "version": version, "datagrams_per_s": 1e7}
    return make_sink(fields, SinkContext())


def send(table: FlowTable, version: int, port: int) -> float:
    blocks = [table.take(slice(k, k + BATCH)) for k in range(0, len(table), BATCH)]
    sink = sink_to(port, version)
    sink.open()

    def work() -> None:
        for block in blocks:
            sink.write_flows(block)  # type: ignore[attr-defined]
        sink.close()

    taken_s = cpu_s(work)
    if sink.counters["flows_sent"] != len(table):
        raise AssertionError(f"not all was sent: {dict(sink.counters)}")
    return len(table) / taken_s


def play(frames: Frames, version: int, port: int) -> float:
    sink = sink_to(port, version)
    sink.open()

    def work() -> None:
        for start in range(0, len(frames), BATCH):
            sink.write(frames.slice(start, start + BATCH))
        sink.close()

    taken_s = cpu_s(work)
    if sink.counters["frames_metered"] != len(frames):
        raise AssertionError(f"not all was metered: {dict(sink.counters)}")
    return len(frames) / taken_s


def peer_s(*command: str) -> float | None:
    """Processor time of a tool from its start to its end; None where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return None
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime if child.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flows", type=int, default=500_000)
    parser.add_argument("--packets", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    table = made_flows(given.flows)
    bars: list[Bar] = []
    with (
        tempfile.TemporaryDirectory(prefix="nsstream-export-") as temporary,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread,
    ):
        unread.bind(("127.0.0.1", 0))
        port = unread.getsockname()[1]
        capture, file = Path(temporary, "made.pcap"), Path(temporary, "flows")
        frames = made_frames(given.packets, capture)
        sink = make_sink({"kind": "nfcapd", "path": str(file)}, SinkContext())
        sink.open()
        began_s = time.process_time()
        sink.write_flows(table)  # type: ignore[attr-defined]
        sink.close()
        bars.append(Bar("nfcapd file, records per CPU-s", round(len(table) / (time.process_time() - began_s))))
        play(frames.slice(0, 1000), 10, port)  # compile
        for version, name in VERSIONS.items():
            rounds = range(given.rounds)
            encoded = max(encode(table, version) for _ in rounds)
            sent = max(send(table, version, port) for _ in rounds)
            played = max(play(frames, version, port) for _ in rounds)
            nfreplay = None if version == 10 else least(
                given.rounds, "nfreplay", "-r", str(file), "-H", "127.0.0.1", "-p", str(port), "-v", str(version),
                "-d", "0",
            )  # fmt: skip
            softflowd = least(
                given.rounds, "softflowd", "-d", "-6", "-r", str(capture), "-n", f"127.0.0.1:{port}", "-v",
                str(version), "-m", "10000000", "-p", str(Path(temporary, "pid")), "-c", "none",
            )  # fmt: skip
            bars.append(
                Bar(f"{name}, encode, records per CPU-s", round(encoded), f">= {FLOOR_PER_S:,}", encoded >= FLOOR_PER_S)
            )
            beside = nfreplay and f"nfreplay {len(table) / nfreplay:,.0f}"
            bars.append(Bar(f"{name}, send, records per CPU-s", round(sent), beside=beside))
            beside = softflowd and f"softflowd {len(frames) / softflowd:,.0f}"
            bars.append(Bar(f"{name}, frames per CPU-s", round(played), beside=beside))
    show(f"{len(table):,} flows and {len(frames):,} frames to exports", bars, "peer")
    return finish(as_dict(bars), given.json, passed=has_passed(bars))


def least(rounds: int, *command: str) -> float | None:
    taken_s = [taken for _ in range(rounds) if (taken := peer_s(*command)) is not None]
    return min(taken_s, default=None)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
