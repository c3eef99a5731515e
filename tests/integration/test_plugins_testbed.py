"""nsstream testbed, with the real tcpreplay and tcpprep, on two veth pairs in a network namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from nsstream_plugins.lab import LAB

from nsstream.replay.tcpprep_cache import cache_file

TOOLS = ("tcpreplay", "tcpprep", "tcpdump", "editcap")
pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")
PACKETS = 2000
CLIENTS, SERVERS = (
    {"prefix": "10.20.0.0/16", "target": "192.168.0.0/16"},
    {
        "prefix": "198.51.100.0/24",
        "target": "172.16.1.0/24",
    },
)
MAP = {
    "a": {"rules": [CLIENTS], "gateway_mac": "02:00:00:00:aa:01", "vlan": 0},
    "b": {"rules": [SERVERS], "gateway_mac": "02:00:00:00:bb:01", "vlan": 0},
}
PATIENCE_S = 300.0


@pytest.fixture
def inside() -> Iterator[list[str]]:
    """A network namespace with cA and sA, whose other ends are cB and sB."""
    name = f"nst{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for side in "cs":
            ends = [f"{side}A", "type", "veth", "peer", "name", f"{side}B"]
            subprocess.run(["ip", "-n", name, "link", "add", *ends], check=True)
            for end in "AB":
                subprocess.run(["ip", "-n", name, "link", "set", f"{side}{end}", "mtu", "9216", "up"], check=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def nsstream(*words: object, inside: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*(inside or []), sys.executable, "-P", "-m", "nsstream_daemon", "testbed", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def scenario(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("testbed")
    (place / "map.json").write_text(json.dumps(MAP))
    done = nsstream(
        "write", place / "lab", "--client", "cA", "--server", "sA", "--packets", PACKETS,
        "--testbed", place / "map.json", "--mtu", 9000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in place.iterdir()) == ["lab", "map.json"]
    return place / "lab"


def test_the_sides_are_split_as_tcpprep_splits_them(scenario, tmp_path):
    """By the source's network, which a list of IPv4 networks says of IPv4."""
    told = json.loads((scenario / "scenario.json").read_text())
    assert told["client_packets"] + told["server_packets"] == PACKETS
    theirs = tmp_path / "theirs.cache"
    clients = "--cidr=192.168.0.0/16"
    subprocess.run(
        ["tcpprep", clients, f"--pcap={scenario / 'twin.pcap'}", f"--cachefile={theirs}"],
        check=True,
        capture_output=True,
    )
    said = subprocess.run(["tcpprep", "-S", scenario / "twin.cache"], capture_output=True, text=True, check=True).stdout
    assert f"Primary packets:\t{told['client_packets']}" in said
    assert f"Secondary packets:\t{told['server_packets']}" in said
    ours = (scenario / "twin.cache").read_bytes()
    octets = theirs.read_bytes()
    data = -(-PACKETS // 4)
    others = "not (src net 192.168.0.0/16 or src net 172.16.1.0/24)"
    command = ["tcpdump", "-n", "-r", scenario / "twin.pcap", others]
    neither = subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("\n")
    differ = np.unpackbits(np.frombuffer(ours[-data:], np.uint8) ^ np.frombuffer(octets[-data:], np.uint8)).sum()
    assert differ <= neither < PACKETS / 20
    assert ours[:22] == octets[:22]


def test_a_cache_of_any_length_is_read(tmp_path):
    for count in (0, 1, 4, 5):
        path = tmp_path / f"{count}.cache"
        path.write_bytes(cache_file(np.arange(count) % 2 == 0, "of a test"))
        said = subprocess.run(["tcpprep", "-S", path], capture_output=True, text=True, check=count > 0).stdout
        if count:
            assert f"Total packets:\t\t{count}" in said


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_scenario_runs_on_two_interfaces_and_is_counted(scenario, inside, tmp_path):
    told = json.loads((scenario / "scenario.json").read_text())
    clients = ["src", "net", "192.168.0.0/16"]
    sent = subprocess.run(
        ["tcpdump", "-n", "-t", "-r", scenario / "twin.pcap", *clients], capture_output=True, text=True
    )
    count = len(sent.stdout.splitlines())
    command = [
        "tcpdump",
        "-Z",
        "root",
        "-i",
        "cB",
        "-n",
        "--immediate-mode",
        "-s",
        "9300",
        "-B",
        "32768",
        "-w",
        tmp_path / "c.pcap",
    ]
    listener = subprocess.Popen([*inside, *command, "-c", str(count), *clients], stderr=subprocess.PIPE, text=True)
    assert listener.stderr is not None
    while "listening on" not in (line := listener.stderr.readline()):
        assert line
    done = nsstream("run", scenario, "--watch", "cB:client", "--watch", "sB", "--topspeed", inside=inside)
    listener.communicate(timeout=PATIENCE_S)
    result = json.loads((scenario / "result.json").read_text())
    assert done.returncode == 1
    assert "pass  arrived at cB" in done.stdout
    assert "FAIL  arrived at sB" in done.stdout  # where only the servers' do
    by_name = {check["name"]: check for check in result["checks"]}
    assert by_name["sent by tcpreplay"]["found"] == PACKETS
    assert by_name["left by cA"]["expected"] == told["client_packets"]
    assert by_name["left by cA"]["is_met"]
    assert by_name["left by sA"]["is_met"]
    assert result["counters"]["cB"]["rx_packets"] >= told["client_packets"]
    seen = subprocess.run(["tcpdump", "-n", "-t", "-r", tmp_path / "c.pcap"], capture_output=True, text=True).stdout
    assert seen == sent.stdout
    assert count > told["client_packets"] / 2
    done = nsstream("run", scenario, "--watch", "cB:client", "--watch", "sB:server", "--pps=4000", inside=inside)
    assert done.returncode == 0, done.stdout
    assert "passed in" in done.stdout
    bare = subprocess.run([*inside, scenario / "replay.sh", "--topspeed"], capture_output=True, text=True, cwd="/")
    assert f"Actual: {PACKETS} packets" in bare.stdout, bare.stdout + bare.stderr


def test_what_cannot_be_is_refused_in_one_sentence(scenario, tmp_path):
    for words, sentence in (
        (("run", tmp_path), "scenario.json: no such file"),
        (("run", scenario), "there is no such interface"),
        (("write", scenario, "--client", "a", "--server", "b"), "is there already"),
    ):
        done = nsstream(*words)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert LAB.is_file()
