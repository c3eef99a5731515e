"""Traces scored from files: the laboratory capture against itself, and input that cannot be scored."""

from importlib.resources import as_file, files
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import wrpcap

from nsstream.errors import InputError
from nsstream.score import score_traces, verify_trace

ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
LAB = files("nsstream_daemon") / "data" / "lab.pcap.xz"


@pytest.mark.slow
def test_the_laboratory_capture_against_itself_is_the_same_lawful_and_a_copy() -> None:
    with as_file(LAB) as lab:
        score = score_traces(lab, lab)
    assert all(m.value == pytest.approx(0, abs=1e-9) for m in score.measures)
    assert all(share == 1 for share in score.copying.synthetic.values())
    assert all(share > 0.99 for share in score.consistency.synthetic.values())
    assert score.packet_count[0] >= 20_000
    assert score.flow_count[0] >= 2_000


@pytest.mark.slow
def test_analysis_flags_of_the_laboratory_capture_are_within_its_own() -> None:
    with as_file(LAB) as lab:
        verification = verify_trace(lab, lab)
    assert verification.twin is not None
    assert verification.twin.analysis_count["retransmission"] > 0
    assert all(verification.is_within(kind) for kind in verification.twin.analysis_count)


def test_a_trace_without_ip_is_refused_by_name(tmp_path: Path) -> None:
    arp = tmp_path / "arp.pcap"
    wrpcap(str(arp), [ETHERNET / ARP()])
    with pytest.raises(InputError, match=r"arp\.pcap: .*no IP packet"):
        score_traces(arp, arp)


def test_a_trace_of_one_conversation_is_refused_by_name(tmp_path: Path) -> None:
    single = tmp_path / "single.pcap"
    wrpcap(str(single), [ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)])
    with pytest.raises(InputError, match=r"single\.pcap: .*two conversations"):
        score_traces(single, single)


def test_a_trace_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pcap"):
        score_traces(tmp_path / "nowhere.pcap", tmp_path / "nowhere.pcap")
