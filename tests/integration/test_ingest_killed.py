"""kill -9 at fifty random moments: nothing that was committed is lost, nothing comes twice, no chunk is half."""

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from ingest_nursery import CONFIG

from nsstream.chunk import ChunkStore
from nsstream.chunk.chunk import digest_of
from nsstream.clock import ManualClock
from nsstream.pipeline.intake import Intake

DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")
KILLS = 50
UNREPORTED = 5 * 150  # rows between two reports
NURSERY = Path(__file__).with_name("ingest_nursery.py")


def test_fifty_kills_lose_no_committed_row_and_none_comes_twice(tmp_path: Path):
    rng = np.random.default_rng(3)
    state = tmp_path / "state"
    command = [sys.executable, str(NURSERY), str(tmp_path / "warm-up")]
    nursery = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    synced: dict[int, tuple[int, int, int]] = {}  # run -> first row, last row, and how many late ones were committed
    first = 0
    try:
        assert nursery.stdout.readline() == "ready\n"
        for run in range(KILLS):
            nursery.stdin.write(f"{state} {run} {first} {rng.integers(1 << 30)}\n")
            nursery.stdin.flush()
            pid = int(nursery.stdout.readline().removeprefix("born "))
            killer = threading.Timer(float(rng.uniform(0.0, 0.12)), os.kill, (pid, signal.SIGKILL))
            if run % 2:  # while it takes up what is left; the others once they have committed something
                killer.start()
            while not (line := nursery.stdout.readline()).startswith("gone"):
                if not run % 2 and run not in synced:
                    killer.start()
                synced[run] = first, int(line.split()[2]), int(line.split()[3])
            assert line == "gone -9\n"
            killer.join()
            # Behind all that the killed run may have committed and had no time to report: time does not go back.
            first = (synced[run][1] if run in synced else first) + UNREPORTED
    finally:
        nursery.stdin.close()
        nursery.wait(timeout=30)
        nursery.stdout.close()
    assert len(synced) >= KILLS // 2

    intake = Intake(state, "nursery", CONFIG, clock=ManualClock())
    intake.flush()
    intake.close()
    assert [path.name for path in (state / "journal").iterdir()] == ["commit.json"]
    store = ChunkStore(state / "chunks")
    assert {path.suffix for path in store.directory.iterdir()} == {".arrow"}
    found: dict[int, list[int]] = {}
    recovered = 0
    for info in store.list():
        chunk = store.read(info.id)
        assert digest_of(chunk.id, chunk.table) == chunk.digest
        chunk.tally.check()
        assert chunk.tally.kept == len(chunk.packets)
        recovered += chunk.recovered
        for run in np.unique(chunk.packets.tcp_acknowledgement_number):
            rows = chunk.packets.tcp_sequence_number[chunk.packets.tcp_acknowledgement_number == run]
            found.setdefault(int(run), []).extend(rows.tolist())
    assert recovered > 0
    for run, rows in found.items():
        assert len(rows) == len(set(rows)), f"run {run} holds rows twice"
    infos, apart = store.list(), ChunkStore(state / "apart").list()
    late = [ChunkStore(state / "apart").read(info.id).table for info in apart]
    late_run = np.concatenate([rows.tcp_acknowledgement_number for rows in late])
    late_row = np.concatenate([rows.tcp_sequence_number for rows in late])
    for run, (begin, last, late_count) in synced.items():
        assert set(range(begin, last + 1)) <= set(found[run]), f"run {run} lost committed rows"
        assert np.count_nonzero((late_run == run) & (late_row <= last)) == late_count, f"run {run} lost late rows"
    assert len(np.unique(np.stack([late_run, late_row]), axis=1).T) == len(late_run)
    assert len(late_run) == sum(info.tally.offered for info in apart) == sum(info.tally.late for info in infos)


def test_a_file_whose_ingest_was_killed_is_read_on_without_a_gap_and_without_a_row_twice(tmp_path: Path):
    rng = np.random.default_rng(5)
    n = 500_000
    record = np.frombuffer(struct.pack("<IIII", 0, 0, len(DATAGRAM), len(DATAGRAM)) + DATAGRAM, np.uint8)
    records = np.tile(record, (n, 1))
    records[:, :8] = (
        np.column_stack([1_700_000_040 + np.arange(n) // 1000, np.arange(n) % 1000]).astype("<u4").view("u1")
    )
    trace, state = tmp_path / "x.pcap", tmp_path / "state"
    trace.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + records.tobytes())
    command = [sys.executable, "-m", "nsstream_daemon", "ingest", str(trace), "--state", str(state), "--chunk", "10s"]
    for wanted in (*np.sort(rng.integers(1, 40, 4)), None):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while wanted is not None and process.poll() is None and len(list(state.glob("chunks/*.arrow"))) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if wanted is not None:
            process.kill()
        process.wait(timeout=120)
    store = ChunkStore(state / "chunks")
    times_ns = np.concatenate([store.read(info.id).packets.observation_time_ns for info in store.list()])
    expected = (1_700_000_040 + np.arange(n) // 1000) * 10**9 + np.arange(n) % 1000 * 1000
    np.testing.assert_array_equal(times_ns, expected)
    assert sum(info.tally.offered for info in store.list()) == n


def test_a_state_in_use_is_refused_and_free_again_once_its_process_is_dead(tmp_path: Path):
    command = [sys.executable, str(NURSERY), str(tmp_path / "warm-up")]
    nursery = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    try:
        nursery.stdout.readline()
        nursery.stdin.write(f"{tmp_path / 'state'} 1 0 1\n")
        nursery.stdin.flush()
        pid = int(nursery.stdout.readline().removeprefix("born "))
        assert nursery.stdout.readline().startswith("synced")
        refused = ""
        try:
            Intake(tmp_path / "state", "other", CONFIG, clock=ManualClock())
        except Exception as err:
            refused = str(err)
        os.kill(pid, signal.SIGKILL)
        assert "is in use by another ingest" in refused
        deadline = time.monotonic() + 30
        while not nursery.stdout.readline().startswith("gone"):
            assert time.monotonic() < deadline
    finally:
        nursery.stdin.close()
        nursery.wait(timeout=30)
        nursery.stdout.close()
    Intake(tmp_path / "state", "other", CONFIG, clock=ManualClock()).close()
