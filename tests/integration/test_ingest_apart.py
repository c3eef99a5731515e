"""nsstream ingest and nsstream chunk with late and future rows, as a user runs them."""

import struct
import subprocess
import sys
from pathlib import Path

from nsstream.capture import read_trace

START_S = 1_700_000_040
DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")


def nsstream(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsstream_daemon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def write_capture(path: Path, times_s: list[int]) -> Path:
    records = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    records += [struct.pack("<IIII", START_S + time_s, 0, 28, 28) + DATAGRAM for time_s in times_s]
    path.write_bytes(b"".join(records))
    return path


def test_late_and_future_rows_are_listed_shown_and_exported_apart(tmp_path: Path):
    trace, state = write_capture(tmp_path / "x.pcap", [0] * 8 + [1, 130, 2, 3, 131, 999_999]), tmp_path / "state"
    done = nsstream("ingest", trace, "--state", state)
    assert done.returncode == 0, done.stderr
    account = dict(line.rsplit(None, 1) for line in done.stdout.splitlines())
    assert {name: account[name] for name in ("kept", "late", "future", "stored apart")} == {
        "kept": "11", "late": "2", "future": "1", "stored apart": "3",
    }  # fmt: skip
    assert len(nsstream("chunk", "list", state).stdout.splitlines()) == 3
    listed = [line.split() for line in nsstream("chunk", "list", "--apart", state).stdout.splitlines()[1:]]
    assert [(words[0][-7:], words[4]) for words in listed] == [("0s-late", "2"), ("-future", "1")]
    shown = nsstream("chunk", "show", state, listed[0][0]).stdout.splitlines()
    assert "fate          late" in shown
    exported = nsstream("chunk", "export", state, "--apart", "--format", "pcap", "-o", tmp_path / "apart.pcap")
    assert exported.returncode == 0, exported.stderr
    times_ns = read_trace(tmp_path / "apart.pcap")[0].observation_time_ns
    assert sorted((times_ns // 10**9 - START_S).tolist()) == [2, 3, 999_999]
    one = nsstream("chunk", "export", state, listed[0][0], "--format", "csv", "-o", tmp_path / "late.csv")
    assert (one.returncode, len((tmp_path / "late.csv").read_text().splitlines())) == (0, 3)
    trained = nsstream("train", state / "apart" / f"{listed[0][0]}.arrow", "-o", tmp_path / "models", "--steps", "1")
    assert trained.returncode == 1
    assert trained.stderr.endswith("holds late rows, which are to be looked at and not learned from\n")


def test_nothing_is_stored_apart_where_there_is_to_be_no_room(tmp_path: Path):
    trace, state = write_capture(tmp_path / "x.pcap", [0, 130, 2]), tmp_path / "state"
    done = nsstream("ingest", trace, "--state", state, "--apart-rows", "0")
    assert ["late", "1"] in [line.split() for line in done.stdout.splitlines()]
    assert "stored apart" not in done.stdout
    listed = nsstream("chunk", "list", "--apart", state)
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 1)
