"""Captures put into a spool, and what a SpoolSource gives of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nsstream.capture.spool import SpoolSource
from nsstream.trace import PacketBatch
from nsstream.wire import pcap_header, write_records

FRAME = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
START_NS = 1_700_000_000_000_000_000
PACKETS_A_FILE = 10


def capture_of(number: int, count: int = PACKETS_A_FILE) -> bytes:
    """Packets whose times are ``10 * number`` and on, so that each is told from every other."""
    offset = np.arange(count + 1, dtype=np.int64) * len(FRAME)
    times_ns = START_NS + PACKETS_A_FILE * number + np.arange(count, dtype=np.int64)
    return pcap_header() + write_records(times_ns, offset, np.frombuffer(FRAME * count, np.uint8))


Make = Callable[..., SpoolSource]


def numbers(batches: list[PacketBatch]) -> list[int]:
    return (PacketBatch.concatenate(batches).observation_time_ns - START_NS).tolist()


def read_until(source: SpoolSource, is_enough: Callable[[list[PacketBatch]], bool]) -> list[int]:
    batches: list[PacketBatch] = []
    kept_before = source.tally.kept
    until_s = time.monotonic() + 300
    while not is_enough(batches):
        assert time.monotonic() < until_s, f"not enough in time: {numbers(batches)} {source.complaints}"
        batch = source.read_batch()
        assert batch is not None
        source.tally.check()
        batches.append(batch)
        assert source.tally.kept - kept_before == sum(map(len, batches))
    return numbers(batches)


def read(source: SpoolSource, count: int) -> list[int]:
    return read_until(source, lambda batches: sum(map(len, batches)) >= count)


def read_idle(source: SpoolSource, batches: int = 3) -> list[int]:
    """What comes until nothing did for so many batches."""
    return read_until(source, lambda got: len(got) >= batches and not any(map(len, got[-batches:])))


def rest(source: SpoolSource) -> list[int]:
    batches = []
    while (batch := source.read_batch()) is not None:
        batches.append(batch)
        source.tally.check()
    return numbers(batches)


def of(*files: int) -> list[int]:
    return [PACKETS_A_FILE * file + i for file in files for i in range(PACKETS_A_FILE)]


def put(path: Path, octets: bytes, mtime_s: float | None = None) -> None:
    path.write_bytes(octets)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
