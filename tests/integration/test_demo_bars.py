"""The bars of the demo's twin, in small: a cut of the lab capture through every room, judged by the real tools.

`bench/lawful.py` holds a whole twin to all of them. A model of so few steps makes poor traffic, so the rates of
tshark's flags are not judged here; every frame must be lawful all the same.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsstream.score import Verification, verify_trace

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars.traces import count_frames, cut_first, lab_capture
from bars.veth import veth_pair

CUT_S = 60
STEPS = 80
SEED = 7

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with lab_capture() as lab:
        return cut_first(lab, CUT_S, tmp_path_factory.mktemp("real") / "lab.pcap")


@pytest.fixture(scope="module")
def twin(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("twin") / "twin.pcap"
    options = ["--chunk", "30s", "--steps", str(STEPS), "--seed", str(SEED), "--no-score"]
    command = [sys.executable, "-m", "nsstream_daemon", "twin", str(real), "-o", str(output), *options]
    made = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stderr
    return output


@pytest.fixture(scope="module")
def verification(real: Path, twin: Path) -> Verification:
    return verify_trace(real, twin)


def test_tshark_finds_no_bad_checksum(verification: Verification) -> None:
    assert verification.twin is not None, "tshark is not installed"
    assert verification.twin.packet_count == verification.packet_count > 1000
    assert verification.twin.tcp_packet_count > 100
    assert verification.twin.bad_checksum_count == {}


def test_tshark_finds_no_malformed_packet(verification: Verification) -> None:
    assert verification.twin is not None, "tshark is not installed"
    assert verification.twin.malformed_count == 0


def test_tshark_flags_no_kind_of_tcp_trouble_that_the_real_capture_lacks(verification: Verification) -> None:
    assert verification.twin is not None, "tshark is not installed"
    assert verification.real is not None
    assert verification.twin.analysis_count.keys() - verification.real.analysis_count.keys() == set()


def test_capinfos_reads_nanoseconds_in_strict_order_of_time(twin: Path) -> None:
    told = subprocess.run(["capinfos", "-M", "-o", "-c", "-t", twin], capture_output=True, text=True, check=True).stdout
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in told.splitlines())}
    assert facts["File type"] == "nsecpcap"
    assert facts["Strict time order"] == "True"
    assert int(facts["Number of packets"]) == count_frames(twin)[0]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_tcpreplay_sends_every_packet_over_a_veth_pair_and_every_octet_arrives(twin: Path) -> None:
    frames, octets = count_frames(twin)
    with veth_pair() as pair:
        sent = pair.send(twin, "--topspeed")
    assert (sent.attempted_count, sent.failed_count) == (frames, 0)
    assert (sent.received_count, sent.received_bytes) == (frames, octets)
    assert not {pair.sender, pair.receiver} & set(_namespaces())


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line]
