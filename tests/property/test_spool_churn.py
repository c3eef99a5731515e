"""Law of the spool: whatever order writers and restarts come in, each packet of each file comes once."""

from __future__ import annotations

import gzip
import json
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nsstream.capture.spool import SpoolSource
from nsstream.wire import pcap_header, write_records

FRAME = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
FILES = 16
PACKETS = 10
START_NS = 1_700_000_000_000_000_000


def capture_of(number: int) -> bytes:
    offset = np.arange(PACKETS + 1, dtype=np.int64) * len(FRAME)
    times_ns = START_NS + PACKETS * number + np.arange(PACKETS, dtype=np.int64)
    return pcap_header() + write_records(times_ns, offset, np.frombuffer(FRAME * PACKETS, np.uint8))


def write_files(spool: Path, chance: random.Random) -> None:
    """Files as capture tools and their helpers make them, at no particular pace."""
    for number in range(FILES):
        octets, path = capture_of(number), spool / f"{number}.pcap"
        manner = chance.choice(["whole", "renamed", "compressed", "compressed later", "in pieces", "appended to"])
        if manner == "renamed":
            (spool / f"{number}.tmp").write_bytes(octets)
            (spool / f"{number}.tmp").rename(path)
        elif manner == "compressed":
            (spool / f"{number}.pcap.gz").write_bytes(gzip.compress(octets))
        elif manner == "in pieces":
            with path.open("wb", buffering=0) as file:
                for at in range(0, len(octets), 100):
                    file.write(octets[at : at + 100])
                    time.sleep(0.003)
        elif manner == "appended to":
            cut = 24 + (16 + len(FRAME)) * chance.randint(1, PACKETS - 1)
            path.write_bytes(octets[:cut])
            time.sleep(0.1 * chance.random())
            with path.open("ab") as file:
                file.write(octets[cut:])
        else:
            path.write_bytes(octets)
        if manner == "compressed later":
            time.sleep(0.1 * chance.random())
            compress_as_gzip_does(path)
        time.sleep(0.03 * chance.random())


def compress_as_gzip_does(path: Path) -> None:
    status = path.stat()
    with Path(f"{path}.gz").open("wb") as file:
        file.write(gzip.compress(path.read_bytes()))
        file.flush()
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.unlink()


@pytest.mark.parametrize(
    ("is_polled", "has_ledger"),
    [(False, True), (True, True), (False, False)],
    ids=["inotify", "polled", "inotify, handed over"],
)
@pytest.mark.parametrize("seed", range(3))
def test_each_packet_comes_once_over_restarts(seed: int, is_polled: bool, has_ledger: bool, tmp_path: Path) -> None:
    chance = random.Random(seed)
    spool = tmp_path / "spool"
    spool.mkdir()
    writer = threading.Thread(target=write_files, args=(spool, random.Random(seed)))
    writer.start()
    came: list[int] = []
    offered = 0
    handover = None
    ledger = tmp_path / "ledger" if has_ledger else None
    until_s = time.monotonic() + 300
    is_last = False
    while not is_last:
        assert time.monotonic() < until_s, "not all came within 60 s"
        is_last = not writer.is_alive()  # then nothing is left to be written, and this turn reads what is there
        source = SpoolSource(spool, ledger, is_polled=is_polled, follow=not is_last, buffer_bytes=256)
        if handover is not None:
            source.take_over(json.loads(handover))
        source.open()
        for _ in range(chance.randint(5, 40)) if not is_last else iter(int, 1):
            batch = source.read_batch()
            if batch is None:
                break
            came += (batch.observation_time_ns - START_NS).tolist()
            source.tally.check()
        source.close()
        handover = None if has_ledger else json.dumps(source.handover())
        offered += source.tally.offered
    writer.join()
    assert sorted(came) == list(range(FILES * PACKETS))
    assert offered == FILES * PACKETS
