"""nsstream ingest on a spool with a backlog, killed with -9 or stopped ten times: each row of each file comes once."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nsstream.chunk import ChunkStore
from nsstream.counters import Tally

DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")
START_S = 1_700_000_040
KILLS = 8
STOPS = 2
SMALL, SMALL_ROWS, LARGE_ROWS = 400, 300, 120_000
ROWS = SMALL * SMALL_ROWS + LARGE_ROWS
DEADLINE_S = 300.0


def capture_of(first: int, count: int) -> bytes:
    """Datagrams a millisecond apart; each second another source port."""
    at_ms = np.arange(first, first + count)
    records = np.tile(np.frombuffer(bytes(8) + struct.pack("<II", 28, 28) + DATAGRAM, np.uint8), (count, 1))
    records[:, :8] = np.column_stack([START_S + at_ms // 1000, at_ms % 1000 * 1000]).astype("<u4").view("u1")
    records[:, 36:38] = (at_ms // 1000).astype(">u2").view("u1").reshape(-1, 2)
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + records.tobytes()


def fill(spool: Path) -> None:
    """Many small files, some compressed, with a large one and one that is no capture in their midst."""
    spool.mkdir()
    first = 0
    for number in range(SMALL + 2):
        path = spool / f"{number}.pcap"
        if number == SMALL // 2:
            path.write_text("no capture at all")
        else:
            count = LARGE_ROWS if number == SMALL // 2 + 1 else SMALL_ROWS
            octets = capture_of(first, count)
            path.write_bytes(gzip.compress(octets) if number % 10 == 0 else octets)
            first += count
        os.utime(path, (START_S + number, START_S + number))
    assert first == ROWS


def command(spool: Path, state: Path, *options: str) -> list[str]:
    ingest = [sys.executable, "-m", "nsstream_daemon", "ingest", f"spool:{spool}", "--state", str(state)]
    return [*ingest, "--chunk", "2s", "-O", "follow=false", *options]


def ingest_with_kills(ingest: list[str], state: Path, chunk_counts: np.ndarray, rng: np.random.Generator) -> int:
    """Ingest, ended at random moments once so many chunks are stored, each fourth time cleanly; how many kills."""
    kills = 0
    for number, wanted in enumerate(np.sort(chunk_counts)):
        process = subprocess.Popen(ingest, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until_s = time.monotonic() + DEADLINE_S
        while process.poll() is None and len(list(state.glob("chunks/*.arrow"))) < wanted:
            assert time.monotonic() < until_s
            time.sleep(0.001)
        end = process.terminate if number % 4 == 3 else process.kill
        killer = threading.Timer(float(rng.uniform(0.0, 0.08)), end)
        killer.start()
        kills += process.wait(timeout=DEADLINE_S) < 0
        killer.join()
    return kills


def account(ingest: list[str]) -> dict[str, str]:
    """Of one life that comes to its end."""
    done = subprocess.run(ingest, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if " " in line.strip())


def stored(state: Path) -> tuple[Tally, Iterator[np.ndarray]]:
    """The account of all chunks, and the times of their rows, in milliseconds."""
    store, told = ChunkStore(state / "chunks"), Tally()
    for info in store.list():
        told.add(info.tally)
    told.check()
    times_ns = (store.read(info.id).table.observation_time_ns for info in store.list())
    return told, ((times - START_S * 10**9) // 10**6 for times in times_ns)


def test_each_row_of_a_backlog_comes_once_over_kills(tmp_path: Path) -> None:
    spool, state = tmp_path / "spool", tmp_path / "state"
    fill(spool)
    rng = np.random.default_rng(11)
    ingest = command(spool, state)
    chunks = ROWS // 2000
    counts = rng.integers(1, chunks - 5, KILLS + STOPS)
    counts[0] = 0  # before anything is stored
    assert ingest_with_kills(ingest, state, counts, rng) >= KILLS - 1
    account(ingest)
    told, times_ms = stored(state)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(times_ms))), np.arange(ROWS))
    assert (told.kept, told.malformed) == (ROWS, {"refused_file": 1})
    assert len(list((state / "handover").iterdir())) == 1
    again = account(command(Path(os.path.relpath(spool)), state))
    assert again["offered"] == "0"
    for path in spool.iterdir():
        path.unlink()
    (spool / "new.pcap").write_bytes(capture_of(ROWS, 7))
    assert account(ingest)["kept"] == "7"


def test_packets_of_a_metered_backlog_are_in_one_flow_or_lost_by_name(tmp_path: Path) -> None:
    spool, state = tmp_path / "spool", tmp_path / "state"
    fill(spool)
    rng = np.random.default_rng(12)
    ingest = command(spool, state, "--flows", "--idle-timeout", "1s")
    assert ingest_with_kills(ingest, state, rng.integers(10, 100, 3), rng) > 0
    account(ingest)
    store, told = ChunkStore(state / "chunks"), Tally(behind=Tally())
    for info in store.list():
        told.add(info.tally)
    assert told.behind is not None
    in_flows = sum(int(store.read(info.id).flows.packet_delta_count.sum()) for info in store.list())
    assert told.behind.kept == in_flows
    assert told.behind.offered == ROWS + told.behind.malformed["refused_file"]
    assert told.behind.dropped.keys() <= {"restart"}
    commit = json.loads((state / "journal" / "commit.json").read_text())
    assert commit["progress"]["handover"] is not None
