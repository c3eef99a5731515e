"""A run through the real server whose frames stand in a lab of two sides; tshark reads what came."""

import json
import lzma
import subprocess
import sys
from pathlib import Path

import nsstream_daemon
import numpy as np
import pytest

from nsstream.errors import ReplayError
from nsstream.replay import RefusedError, spawn_server
from nsstream.replay.batch import End, PacketBatch

LAB = Path(nsstream_daemon.__file__).parent / "data" / "lab.pcap.xz"
PACKETS = 3000
TESTBED = {
    "a": {
        "rules": [{"prefix": "10.20.0.0/16", "target": "192.168.0.0/16"}],
        "gateway_mac": "02:00:00:00:aa:01",
        "host_mac": "02:00:00:00:aa:02",
        "vlan": 11,
    },
    "b": {
        "rules": [{"prefix": "198.51.100.0/24", "target": "172.16.1.0/24"}],
        "gateway_mac": "02:00:00:00:bb:01",
        "host_mac": "02:00:00:00:bb:02",
        "vlan": 0,
    },
}


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    whole = tmp_path_factory.mktemp("lab") / "whole.pcap"
    whole.write_bytes(lzma.decompress(LAB.read_bytes()))
    cut = whole.with_name("cut.pcap")
    subprocess.run(["editcap", "-F", "nsecpcap", "-r", whole, cut, f"1-{PACKETS}"], check=True)
    return cut


def tshark(path, *fields):
    checks = [part for name in ("ip", "tcp", "udp") for part in ("-o", f"{name}.check_checksum:TRUE")]
    command = ["tshark", "-n", "-r", path, *checks, "-T", "fields", "-E", "occurrence=f"]
    command += [part for field in fields for part in ("-e", field)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in out.splitlines()]


def nsstream(*arguments):
    command = [sys.executable, "-m", "nsstream_daemon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def lab_address(text):
    first, _, third, last = text.split(".")
    if first == "10":
        return f"192.168.{third}.{last}"
    return f"172.16.1.{last}"


def test_a_recording_is_played_into_a_lab_whose_sides_have_their_addresses_vlans_and_macs(capture, tmp_path):
    path = tmp_path / "lab.pcap"
    with spawn_server() as client:
        done = nsstream(
            "send", "start", "--endpoint", client.endpoint, "--stream", json.dumps(recorded(capture)), "--mtu", 9216,
            "--testbed", json.dumps(TESTBED), "--output", path, "--wait",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        status = client.status()
    assert f"{status.tally['testbed_not_ip']:,} testbed_not_ip" in done.stderr
    real = [row for row in tshark(capture, "ip.src", "ip.dst", "ip.id", "arp.opcode") if row[0] and not row[3]]
    rows = tshark(
        path, "ip.src", "ip.dst", "ip.id", "vlan.id", "eth.src", "eth.dst", "ip.checksum.status",
        "tcp.checksum.status", "udp.checksum.status",
    )  # fmt: skip
    stay = [row for row in rows if not row[0]]  # IPv6 between a link's neighbours
    assert {row[1][:2] for row in tshark(path, "ip.src", "ipv6.src") if not row[0]} <= {"fe", "::"}
    rows = [row for row in rows if row[0]]
    assert [row[:3] for row in rows] == [[lab_address(a), lab_address(b), number] for a, b, number, _ in real]
    assert "0" not in {value for row in rows for value in row[6:9]}
    ways = {(row[0][:7], row[1][:7]): set() for row in rows}
    for row in rows:
        ways[row[0][:7], row[1][:7]].add(tuple(row[3:6]))
    assert ways["192.168", "172.16."] == {("11", "02:00:00:00:aa:02", "02:00:00:00:aa:01")}
    assert ways["172.16.", "192.168"] == {("", "02:00:00:00:bb:02", "02:00:00:00:bb:01")}
    assert len(rows) + len(stay) == status.packets_written
    tally = status.tally
    assert tally["recorded_frames"] == status.packets_written + tally["testbed_not_ip"] + tally["testbed_elsewhere"]
    assert min(tally["testbed_not_ip"], tally["testbed_elsewhere"]) > 0


def test_the_sides_of_a_lab_reach_the_sink(capture):
    with spawn_server() as client:
        items = client.packets("lab")
        sink = {"kind": "subscribers", "wait_for": 1}
        scenario = {"hosts": ["198.51.100.0/24"], "limits": {"packets": 500}}
        client.start(recorded(capture), sink, mtu=9216, testbed=TESTBED, scenario=scenario)
        batches = []
        while not isinstance(item := next(items), End):
            assert isinstance(item, PacketBatch)
            batches.append(item)
        items.close()
    sides = np.concatenate([batch.side for batch in batches])
    macs = [batch.frame(i)[6:12] for batch in batches for i in range(len(batch))]
    assert len(sides) == 500
    assert set(sides) == {0, 1}
    assert macs == [bytes.fromhex("02000000bb02" if side else "02000000aa02") for side in sides]


def test_a_lab_of_other_prefixes_fails_the_run_and_one_that_cannot_be_is_refused(capture, tmp_path):
    elsewhere = {**TESTBED, "a": {**TESTBED["a"], "rules": [{"prefix": "203.0.113.0/24", "target": "192.168.0.0/16"}]}}
    sink = {"kind": "pcap", "path": tmp_path / "lab.pcap"}
    with spawn_server() as client:
        client.start(recorded(capture), sink, testbed=elsewhere, scenario={"hosts": ["10.20.0.0/16"]})
        with pytest.raises(ReplayError, match="testbed: nothing of the stream is in its prefixes"):
            client.wait()
        assert client.status().tally["testbed_elsewhere"] > 0
        for fields, sentence in (
            ({"testbed": {"a": TESTBED["a"]}}, "^testbed: b: "),
            ({"testbed": {**TESTBED, "b": {**TESTBED["b"], "vlan": 4095}}}, r"^testbed: b\.vlan: "),
            ({"payload": "zero"}, "^payload: the frames of a recording"),
            ({"oversize": "segment"}, "^oversize: the frames of a recording"),
        ):
            with pytest.raises(RefusedError, match=sentence) as refused:
                client.start(recorded(capture), sink, **fields)
            assert refused.value.code == "invalid"
    assert list(tmp_path.iterdir()) == []


def recorded(path):
    return {"kind": "recorded", "path": str(path)}
