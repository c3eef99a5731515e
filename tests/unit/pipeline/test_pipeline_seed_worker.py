import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk import read_chunk
from nsstream.errors import InputError
from nsstream.pipeline.plan import MOST_PACKETS
from nsstream.pipeline.seed_worker import gather

DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")
S = 10**9


def capture(path: Path, first_s: int, packets: int, last_s: int) -> Path:
    """A raw-IP capture of datagrams, evenly from one time to another."""
    times_us = np.linspace(first_s * 10**6, last_s * 10**6, packets).astype(np.int64)
    record = np.frombuffer(struct.pack("<IIII", 0, 0, len(DATAGRAM), len(DATAGRAM)) + DATAGRAM, np.uint8)
    records = np.tile(record, (packets, 1))
    records[:, :8] = np.column_stack([times_us // 10**6, times_us % 10**6]).astype("<u4").view("u1")
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + records.tobytes())
    return path


def test_captures_of_other_years_follow_one_another_in_one_chunk(tmp_path: Path):
    one = capture(tmp_path / "one.pcap", 1_200, 7, 1_300)  # minutes 20 and 21
    other = capture(tmp_path / "other.pcap", 1_700_000_010, 5, 1_700_000_020)
    path, packets = gather([one, other], tmp_path / "out")
    chunk = read_chunk(path)
    assert packets == len(chunk.packets) == 12
    assert (chunk.start_ns, chunk.end_ns) == (1_200 * S, (1_200 + 180) * S)
    times = chunk.packets.observation_time_ns
    assert times[0] == 1_200 * S
    first_of_other = (1_200 + 120 + 1_700_000_010 % 60) * S
    assert times[7:].tolist() == (first_of_other + np.arange(5) * 2_500_000_000).tolist()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [path.name]
    again, _ = gather([one, other], tmp_path / "out")
    assert (again, read_chunk(again).digest) == (path, chunk.digest)


def test_each_capture_has_its_share_and_ends_with_the_minute_that_fills_it(tmp_path: Path):
    share = MOST_PACKETS // 2
    long = capture(tmp_path / "long.pcap", 0, 3 * share, 599)  # a tenth of it a minute
    short = capture(tmp_path / "short.pcap", 6_000, 100, 6_050)
    chunk = read_chunk(gather([long, short], tmp_path / "out")[0])
    assert (chunk.end_ns - chunk.start_ns) // (60 * S) == 4 + 1
    assert share <= len(chunk.packets) - 100 < share * 1.35


def test_what_is_no_capture_is_said_in_one_line(tmp_path: Path):
    (tmp_path / "junk").write_bytes(b"no capture at all")
    with pytest.raises(InputError, match="junk"):
        gather([tmp_path / "junk"], tmp_path / "out")
    told = json.dumps({"captures": [str(tmp_path / "none")], "out": str(tmp_path / "out")})
    command = [sys.executable, "-m", "nsstream.pipeline.seed_worker"]
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["event"] == "error"
    assert "none does not exist" in last["message"]
