"""kill -9 at fifty random moments: nothing that was committed is lost, nothing comes twice, no chunk is half."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from ingest_nursery import CONFIG

from nsstream.chunk import ChunkStore
from nsstream.chunk.chunk import digest_of
from nsstream.clock import ManualClock
from nsstream.counters import Tally
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
        nursery.wait(timeout=300)
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
    n = 500_000
    trace, state = tmp_path / "x.pcap", tmp_path / "state"
    trace.write_bytes(capture_of(np.arange(n)))
    ingest_with_kills(trace, state, np.random.default_rng(5).integers(1, 40, 4))
    store = ChunkStore(state / "chunks")
    times_ns = np.concatenate([store.read(info.id).packets.observation_time_ns for info in store.list()])
    np.testing.assert_array_equal(times_ns, 1_700_000_040 * 10**9 + np.arange(n) * 10**6)
    assert sum(info.tally.offered for info in store.list()) == n


def ingest_with_kills(trace: Path, state: Path, chunk_counts: np.ndarray, *options: str) -> None:
    """Ingest a file, killed whenever so many chunks are stored, and then to its end."""
    command = [sys.executable, "-m", "nsstream_daemon", "ingest", str(trace), "--state", str(state), "--chunk", "10s"]
    for wanted in (*np.sort(chunk_counts), None):
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while wanted is not None and process.poll() is None and len(list(state.glob("chunks/*.arrow"))) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if wanted is not None:
            process.kill()
        process.wait(timeout=300)


def capture_of(times_ms: np.ndarray) -> bytes:
    """Datagrams at these times, in order; each second another source port."""
    record = np.frombuffer(struct.pack("<IIII", 0, 0, len(DATAGRAM), len(DATAGRAM)) + DATAGRAM, np.uint8)
    records = np.tile(record, (len(times_ms), 1))
    header = np.column_stack([1_700_000_040 + times_ms // 1000, times_ms % 1000 * 1000])
    records[:, :8] = header.astype("<u4").view("u1")
    records[:, 36:38] = (times_ms // 1000).astype(">u2").view("u1").reshape(-1, 2)
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + records.tobytes()


def test_a_file_metered_again_after_kills_gives_each_flow_once_and_accounts_for_each_packet(tmp_path: Path):
    n = 400_000
    trace, state = tmp_path / "x.pcap", tmp_path / "state"
    trace.write_bytes(capture_of(np.arange(n)))
    kills = np.random.default_rng(6).integers(1, 30, 3)
    ingest_with_kills(trace, state, kills, "--flows", "--idle-timeout", "1s")
    packets, in_flows = behind_the_chunks(state)
    assert packets == Tally(offered=n, kept=n)
    assert in_flows == n
    assert sum(info.row_count for info in ChunkStore(state / "chunks").list()) == n // 1000


def behind_the_chunks(state: Path) -> tuple[Tally, int]:
    """What became of the packets, over all chunks; and how many the flows in them count."""
    store, told = ChunkStore(state / "chunks"), Tally(behind=Tally())
    for info in store.list():
        info.tally.check()
        told.add(info.tally)
    assert told.behind is not None
    return told.behind, sum(int(store.read(info.id).flows.packet_delta_count.sum()) for info in store.list())


def test_a_metered_pipe_accounts_for_the_packets_that_a_killed_process_had_in_open_flows(tmp_path: Path):
    pipe, state = tmp_path / "pipe", tmp_path / "state"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "nsstream_daemon", "ingest", str(pipe), "--state", str(state), "--chunk", "10s"]
    committed = 0
    for run in range(3):
        before = commit_in(state)["number"]
        process = subprocess.Popen([*command, "--flows"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        writer = os.open(pipe, os.O_WRONLY)
        try:
            os.write(writer, capture_of(np.arange(run * 60_000, run * 60_000 + 50_000, 100)))
            deadline = time.monotonic() + 300
            while (commit := commit_in(state))["number"] == before or commit["behind"]["offered"] < 500:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            if run < 2:
                process.kill()
                process.wait(timeout=300)
                committed += commit_in(state)["behind"]["offered"]
        finally:
            os.close(writer)
        process.wait(timeout=300)
    packets, in_flows = behind_the_chunks(state)
    assert packets.offered == committed + 500 == 1500
    assert packets.kept == in_flows
    assert packets.dropped.keys() == {"restart"}  # at the last packet the flows of 15 s were open


def commit_in(state: Path) -> dict[str, Any]:
    """The number of the journal's last commit, and the account of packets in it."""
    path = state / "journal" / "commit.json"
    if not path.exists():
        return {"number": 0}
    commit = json.loads(path.read_text())
    return {"number": commit["number"], "behind": commit["progress"]["total"].get("behind", {"offered": 0})}


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
        deadline = time.monotonic() + 300
        while not nursery.stdout.readline().startswith("gone"):
            assert time.monotonic() < deadline
    finally:
        nursery.stdin.close()
        nursery.wait(timeout=300)
        nursery.stdout.close()
    Intake(tmp_path / "state", "other", CONFIG, clock=ManualClock()).close()
