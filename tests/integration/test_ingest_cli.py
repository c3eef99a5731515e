"""nsstream ingest as a user runs it: files, a pipe, signals, a second run, exports."""

import bz2
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nsstream.capture import read_trace
from nsstream.chunk import ChunkStore

START_S = 1_700_000_040
DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")


def nsstream(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsstream_daemon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def capture_of(times_s: list[float]) -> bytes:
    records = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    for time_s in times_s:
        header = struct.pack("<IIII", START_S + int(time_s), int(time_s % 1 * 1e6), len(DATAGRAM), len(DATAGRAM))
        records.append(header + DATAGRAM)
    return b"".join(records)


def rows_in(state: Path) -> int:
    return sum(info.row_count for info in ChunkStore(state / "chunks").list())


def test_a_file_is_ingested_listed_shown_and_exported(tmp_path: Path):
    trace, state = tmp_path / "x.pcap", tmp_path / "state"
    trace.write_bytes(capture_of([at / 2 for at in range(400)]))
    done = nsstream("ingest", trace, "--state", state, "--chunk", "60s")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "400 rows kept" in done.stderr
    assert ["offered", "400"] in [line.split() for line in done.stdout.splitlines()]
    listed = nsstream("chunk", "list", state).stdout.splitlines()
    assert [line.split()[4] for line in listed[1:]] == ["120", "120", "120", "40"]
    chunk_id = listed[1].split()[0]
    assert "rows          120" in nsstream("chunk", "show", state, chunk_id).stdout
    assert nsstream("chunk", "pin", state, chunk_id).returncode == 0
    assert [line.split()[-1] for line in nsstream("chunk", "list", state).stdout.splitlines()[1:]][:1] == ["pinned"]
    assert nsstream("chunk", "unpin", state, chunk_id).returncode == 0
    for kind, ids in (("pcap", []), ("csv", [chunk_id]), ("parquet", [])):
        output = tmp_path / f"out.{kind}"
        done = nsstream("chunk", "export", state, *ids, "--format", kind, "-o", output)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert len(read_trace(tmp_path / "out.pcap")[0]) == 400
    again = nsstream("chunk", "export", state, "--format", "csv", "-o", tmp_path / "out.csv")
    assert (again.returncode, again.stderr) == (
        1,
        f"nsstream: {tmp_path / 'out.csv'} exists already; give another name\n",
    )
    again = nsstream("ingest", trace, "--state", state)
    assert (again.returncode, rows_in(state)) == (0, 400)


def test_packets_are_metered_into_flows_on_request(tmp_path: Path):
    trace, state = tmp_path / "x.pcap", tmp_path / "state"
    trace.write_bytes(capture_of([at / 2 for at in range(400)]))
    done = nsstream("ingest", trace, "--state", state, "--flows", "--active-timeout", "60s")
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()].count(["kept", "400"]) == 1
    store = ChunkStore(state / "chunks")
    flows = [store.read(info.path).flows for info in store.list()]
    assert sum(int(table.packet_delta_count.sum()) for table in flows) == 400
    assert sum(map(len, flows)) == 4
    assert "late" not in done.stdout
    assert sum(info.tally.behind.kept for info in store.list() if info.tally.behind) == 400
    shown = nsstream("chunk", "show", state, store.list()[0].id).stdout
    assert "packets behind\n  offered     400\n  kept        400\n" in shown
    again = nsstream("ingest", trace, "--state", state, "--flows", "--active-timeout", "60s")
    assert (again.returncode, rows_in(state)) == (0, 4)
    packets = nsstream("ingest", trace, "--state", state)  # other rows of the same file: none of them is known
    assert (packets.returncode, rows_in(state)) == (0, 404)
    table = tmp_path / "flows.csv"
    table.write_text("ts_first,duration,proto,src_ip,dst_ip,src_port,dst_port,packets,bytes\n0,1,17,::1,::2,1,2,3,4\n")
    again = nsstream("ingest", table, "--state", tmp_path / "again", "--flows")
    assert (again.returncode, "only packets can be metered" in again.stderr) == (1, True), again.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_ingest_of_a_pipe_cleanly_and_a_second_run_goes_on(tmp_path: Path, number: signal.Signals):
    pipe, state = tmp_path / "pipe", tmp_path / "state"
    for run in range(2):
        if not run:
            os.mkfifo(pipe)
        command = [sys.executable, "-m", "nsstream_daemon", "ingest", str(pipe), "--state", str(state), "--no-live"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        writer = os.open(pipe, os.O_WRONLY)
        try:
            os.write(writer, capture_of([run * 20 + at / 10 for at in range(100)]))
            commit = state / "journal" / "commit.json"
            deadline = time.monotonic() + 300
            last_ns = (START_S + run * 20 + 9) * 10**9
            while not (commit.exists() and json.loads(commit.read_text())["latest_ns"] > last_ns):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(number)
        finally:
            os.close(writer)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "Traceback" not in err
        assert ["kept", "100"] in [line.split() for line in out.splitlines()]
    infos = ChunkStore(state / "chunks").list()
    assert [info.row_count for info in infos] == [100, 100]
    assert [info.is_partial for info in infos] == [True, True]
    assert [info.id[20:] for info in infos] == ["", "-p1"]


def test_a_signal_ends_a_metered_pipe_with_records_of_the_flows_that_are_open(tmp_path: Path):
    pipe, state = tmp_path / "pipe", tmp_path / "state"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "nsstream_daemon", "ingest", str(pipe), "--state", str(state), "--flows"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    writer = os.open(pipe, os.O_WRONLY)
    try:
        os.write(writer, capture_of([at / 100 for at in range(100)]))
        commit = state / "journal" / "commit.json"
        deadline = time.monotonic() + 300
        while not (commit.exists() and '"parked": 100' in commit.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)  # with the pipe still open: it is no end of the input
    finally:
        os.close(writer)
    assert process.returncode == 0, err
    assert [line.split() for line in out.splitlines()].count(["kept", "100"]) == 1
    assert "parked" not in out
    (info,) = ChunkStore(state / "chunks").list()
    assert ChunkStore(state / "chunks").read(info.id).flows.packet_delta_count.tolist() == [100]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_full_disk_is_counted_and_told(tmp_path: Path):
    trace, disk = tmp_path / "x.pcap", tmp_path / "disk"
    trace.write_bytes(capture_of([at / 2000 for at in range(40_000)]))
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=True)
    try:
        done = nsstream("ingest", trace, "--state", disk / "state")
        assert list((disk / "state" / "chunks").iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert ["dropped", "disk", "40,000"] in [line.split() for line in done.stdout.splitlines()]
    assert "40,000 rows were lost" in done.stderr.splitlines()[-1]


def test_options_that_make_no_sense_are_told_in_one_sentence(tmp_path: Path):
    trace = tmp_path / "x.pcap"
    trace.write_bytes(capture_of([1]))
    for options, words in (
        (["--chunk", "1.5s"], "--chunk must be whole seconds"),
        (["--max-memory", "much"], "is not a size"),
        (["--keep-for", "long"], "is not a duration"),
        (["-O", "snaplen"], "is not NAME=VALUE"),
        (["-O", "nonsense=1"], "nonsense"),
    ):
        done = nsstream("ingest", trace, "--state", tmp_path / "state", *options)
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    done = nsstream("ingest", tmp_path / "nothing.pcap", "--state", tmp_path / "state")
    assert (done.returncode, "nothing.pcap" in done.stderr) == (1, True)


def test_a_spool_is_read_once_over_runs(tmp_path: Path):
    spool, state = tmp_path / "spool", tmp_path / "state"
    spool.mkdir()
    (spool / "1.pcap").write_bytes(capture_of([0, 1, 2]))
    (spool / "2.pcap.bz2").write_bytes(bz2.compress(capture_of([3, 4])))
    (spool / "readme").write_text("no capture at all")
    arguments = ("ingest", f"spool:{spool}", "--state", state, "--option", "follow=false")
    offered = []
    for new in ("", "3.pcap", ""):
        if new:
            (spool / new).write_bytes(capture_of([70, 71, 72, 73]))
        done = nsstream(*arguments)
        assert done.returncode == 0, done.stderr
        assert ("readme: " in done.stderr) == (not offered)  # a bad file is named, once
        offered += [line.split()[1] for line in done.stdout.splitlines() if line.startswith("offered")]
    assert offered == ["6", "4", "0"]
    assert sorted(path.name for path in state.iterdir() if "sqlite" in path.name) == []
    assert rows_in(state) == 9
