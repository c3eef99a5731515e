"""Measure how fast exports become flow columns, beside nfcapd and the Python library `netflow` in the same run.

    python bench/netflow.py [--datagrams N] [--json OUT]

Makes its own exports: datagrams of 30 records (v5) or of what fits 1,450 octets (v9, IPFIX), templates every 20th, in
batches of 256. Every figure is flow records per second of processor time. nfcapd gets the same datagrams by a loopback
socket, at a rate that it keeps up with, and writes its files; it is left out where it is not installed, `netflow` too.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bars.runs import run_main
from bars.verdict import Bar, as_dict, finish, show

from nsstream.wire.netflow import ExportDecoder

FLOOR_PER_S = 5_000_000
BATCH = 256
TEMPLATE_EVERY = 20
NOW_S = 1_800_000_000
UPTIME_MS = 900_000_000
EXPORTER = bytes(10) + b"\xff\xff" + socket.inet_aton("192.0.2.1")

# (element, octets), as Debian's pmacctd and Cisco's IOS send them.
V9_FIELDS = (
    (8, 4), (12, 4), (15, 4), (10, 4), (14, 4), (2, 4), (1, 4), (22, 4), (21, 4), (7, 2), (11, 2), (6, 1), (4, 1),
    (5, 1), (61, 1), (16, 4), (17, 4), (9, 1), (13, 1),
)  # fmt: skip
IPFIX_FIELDS = (
    (8, 4), (12, 4), (10, 4), (14, 4), (2, 4), (1, 4), (152, 8), (153, 8), (7, 2), (11, 2), (6, 2), (4, 1), (5, 1),
    (136, 1), (58, 2),
)  # fmt: skip


def run(json_path: Path | None, datagrams: int) -> int:
    rng = np.random.default_rng(0)
    makers: dict[str, Callable[[np.random.Generator, int], tuple[list[bytes], int]]] = {
        "v5": v5_datagrams,
        "v9": v9_datagrams,
        "IPFIX": ipfix_datagrams,
    }
    bars: list[Bar] = []
    for name, make in makers.items():
        messages, records = make(rng, datagrams)
        ours = measure_ours(messages, records)
        nfcapd = measure_nfcapd(messages, records)
        library = measure_library(messages[: len(messages) // 20])
        beside = nfcapd and f"nfcapd {nfcapd:,.0f}"
        bars.append(Bar(f"{name}, records per CPU-s", ours, f">= {FLOOR_PER_S:,}", ours >= FLOOR_PER_S, beside))
        bars.append(Bar(f"{name}, times as fast as nfcapd", nfcapd and ours / nfcapd))
        bars.append(Bar(f"{name}, times as fast as netflow (Python)", library and ours / library))
    show("NetFlow to columns, one thread", bars, "peer")
    return finish(as_dict(bars), json_path, passed=all(bar.passed is not False for bar in bars))


def measure_ours(messages: list[bytes], records: int) -> float:
    batches = []
    for at in range(0, len(messages), BATCH):
        part = messages[at : at + BATCH]
        batches.append(
            (
                np.frombuffer(b"".join(part), np.uint8),
                np.cumsum([0, *map(len, part)], dtype=np.int64),
                np.tile(np.frombuffer(EXPORTER, np.uint8), (len(part), 1)),
                np.full(len(part), (NOW_S + 1) * 10**9, np.int64),
            )
        )
    best = 0.0
    for _ in range(5):
        decoder = ExportDecoder()
        began_s = time.process_time()
        kept = sum(len(decoder.decode(*batch)) for batch in batches)
        taken_s = time.process_time() - began_s
        decoder.tally.check()
        if kept != records:
            raise AssertionError(f"{records} records were made, {kept} were read")
        best = max(best, records / taken_s)
    return best


def measure_nfcapd(messages: list[bytes], records: int) -> float | None:
    """Processor time of nfcapd from its start to its end, sockets and files included; None where it cannot be run."""
    if shutil.which("nfcapd") is None or shutil.which("nfdump") is None:
        return None
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        child = subprocess.Popen(
            ["nfcapd", "-w", directory, "-p", str(port), "-b", "127.0.0.1", "-B", "8388608"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if not _is_bound(port):
                return None
            began_s = time.perf_counter()
            for i, message in enumerate(messages):
                sender.sendto(message, ("127.0.0.1", port))
                if i % 64 == 63:  # about 15,000 a second: nfcapd loses nothing
                    time.sleep(max(0.0, began_s + i / 15_000 - time.perf_counter()))
            deadline_s = time.monotonic() + 20
            while _queued(port) and time.monotonic() < deadline_s:
                time.sleep(0.05)
            child.send_signal(signal.SIGTERM)
        finally:
            _, _, used = os.wait4(child.pid, 0)
            child.returncode = 0
        written = subprocess.run(["nfdump", "-R", directory, "-I"], capture_output=True, text=True, check=True).stdout
        flows = next(int(line.split(":")[1]) for line in written.splitlines() if line.startswith("Flows:"))
        if flows < 0.9 * records:
            return None
        return flows / (used.ru_utime + used.ru_stime)


def _is_bound(port: int) -> bool:
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        if _udp_row(port):
            return True
        time.sleep(0.02)
    return False


def _queued(port: int) -> int:
    row = _udp_row(port)
    return int(row[4].split(":")[1], 16) if row else 0


def _udp_row(port: int) -> list[str]:
    rows = (line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    return next((row for row in rows if row[1].endswith(f":{port:04X}")), [])


def measure_library(messages: list[bytes]) -> float | None:
    """The library `netflow` of bitkeks, from the Python Package Index."""
    here = [path for path in sys.path if Path(path).resolve() == Path(__file__).resolve().parent]
    sys.path = [path for path in sys.path if path not in here]  # this file has the library's name
    try:
        netflow = importlib.import_module("netflow")
    except ImportError:
        return None
    finally:
        sys.path = here + sys.path
    templates: dict[str, dict[int, object]] = {"netflow": {}, "ipfix": {}}
    began_s = time.process_time()
    count = 0
    for message in messages:
        count += sum(1 for flow in netflow.parse_packet(message, templates).flows)
    return count / (time.process_time() - began_s)


def v5_datagrams(rng: np.random.Generator, count: int) -> tuple[list[bytes], int]:
    messages = []
    for i in range(count):
        body = b"".join(
            struct.pack(
                "!4s4s4sHHIIIIHHxBBBHHBBxx",
                b"\x0a" + rng.bytes(3), b"\xc0\xa8" + rng.bytes(2), b"\0\0\0\0", 1, 2, 10, 9000,
                UPTIME_MS - 9000, UPTIME_MS - 1000, int(rng.integers(1024, 65535)), 443, 0x1B, 6, 0,
                64500, 64501, 24, 24,
            )
            for _ in range(30)
        )  # fmt: skip
        messages.append(struct.pack("!HHIIIIBBH", 5, 30, UPTIME_MS, NOW_S, 0, 30 * i, 0, 1, 0x4000 | 100) + body)
    return messages, 30 * count


def v9_datagrams(rng: np.random.Generator, count: int) -> tuple[list[bytes], int]:
    messages, total = [], 0
    for i in range(count):
        template = template_set(0, V9_FIELDS) if i % TEMPLATE_EVERY == 0 else b""
        data, records = data_set(rng, V9_FIELDS, 1450 - 20 - len(template))
        head = struct.pack("!HHIIII", 9, records + bool(template), UPTIME_MS, NOW_S, i, 7)
        messages.append(head + template + data)
        total += records
    return messages, total


def ipfix_datagrams(rng: np.random.Generator, count: int) -> tuple[list[bytes], int]:
    messages, total = [], 0
    for i in range(count):
        template = template_set(2, IPFIX_FIELDS) if i % TEMPLATE_EVERY == 0 else b""
        data, records = data_set(rng, IPFIX_FIELDS, 1450 - 16 - len(template))
        length = 16 + len(template) + len(data)
        messages.append(struct.pack("!HHIII", 10, length, NOW_S, total, 7) + template + data)
        total += records
    return messages, total


def template_set(set_id: int, fields: tuple[tuple[int, int], ...]) -> bytes:
    record = struct.pack("!HH", 256, len(fields)) + b"".join(struct.pack("!HH", *field) for field in fields)
    return struct.pack("!HH", set_id, 4 + len(record)) + record


def data_set(rng: np.random.Generator, fields: tuple[tuple[int, int], ...], room: int) -> tuple[bytes, int]:
    known = {
        2: 10, 1: 9000, 22: UPTIME_MS - 9000, 21: UPTIME_MS - 1000, 152: (NOW_S - 9) * 1000, 153: NOW_S * 1000,
        6: 0x1B, 4: 6, 136: 3, 61: 0, 58: 5,
    }  # fmt: skip
    records = min(30, (room - 8) // sum(length for _, length in fields))
    body = b"".join(
        known[element].to_bytes(length, "big") if element in known else rng.bytes(length)
        for _ in range(records)
        for element, length in fields
    )
    body += bytes(-len(body) % 4)
    return struct.pack("!HH", 256, 4 + len(body)) + body, records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datagrams", type=int, default=20_480)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    return run(arguments.json, arguments.datagrams)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
