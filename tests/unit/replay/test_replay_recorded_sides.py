"""Which side a captured frame is played from, where the frame has no ports of its own."""

from contextlib import closing

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.utils import wrpcap

from nsstream.replay.scenario import Scenario
from nsstream.replay.streams.recorded import RecordedFile

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
CLIENT_6, SERVER_6 = "fd00::1", "fd00::2"
ASKED = IP(src=CLIENT, dst=SERVER) / UDP(sport=50_000, dport=53) / bytes(20)
ANSWERED = IP(src=SERVER, dst=CLIENT, id=7) / UDP(sport=53, dport=50_000) / bytes(3000)
ANSWERED_6 = IPv6(src=SERVER_6, dst=CLIENT_6) / IPv6ExtHdrFragment(id=7) / UDP(sport=53, dport=50_000) / bytes(3000)
CASES = {
    "a datagram and its answer in fragments": ([ASKED, *fragment(ANSWERED, 1480)], [0, 1, 1, 1]),
    "the same over IPv6": (fragment6(ANSWERED_6, 1280), [1, 1, 1]),
    "a later fragment whose first did not come": (fragment(ANSWERED, 1480)[1:], [0, 0]),
    "ping": ([IP(src=CLIENT, dst=SERVER) / ICMP(), IP(src=SERVER, dst=CLIENT) / ICMP(type=0)], [0, 1]),
    "ping in fragments": (fragment(IP(src=SERVER, dst=CLIENT, id=8) / ICMP(type=0) / bytes(3000), 1480), [1, 1, 1]),
    "ping over IPv6": (
        [IPv6(src=CLIENT_6, dst=SERVER_6) / ICMPv6EchoRequest(), IPv6(src=SERVER_6, dst=CLIENT_6) / ICMPv6EchoReply()],
        [0, 1],
    ),
    "an error of the server's side": ([IP(src=SERVER, dst=CLIENT) / ICMP(type=3, code=3) / ASKED], [1]),
    "an error of the client's": (
        [IP(src=CLIENT, dst=SERVER) / ICMP(type=3, code=3) / fragment(ANSWERED, 1480)[0]],
        [0],
    ),
    "one over IPv6": (
        [IPv6(src=SERVER_6, dst=CLIENT_6) / ICMPv6DestUnreach() / IPv6(src=CLIENT_6, dst=SERVER_6) / ASKED[UDP]],
        [1],
    ),
    "ARP": ([ARP(psrc=SERVER, pdst=CLIENT, op=2)], [0]),
}


def play(packets, path, scenario):
    wrpcap(str(path), [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet for packet in packets])
    with closing(RecordedFile(path, scenario, 1, 9000, 1)) as stream:
        return np.concatenate([block.frames.side for block in iter(stream.read, None)]).tolist()


@pytest.mark.parametrize(("packets", "sides"), CASES.values(), ids=CASES)
def test_a_frame_comes_from_the_side_that_sent_it(packets, sides, tmp_path):
    assert play(packets, tmp_path / "a.pcap", Scenario()) == sides


def test_fragments_are_of_the_service_of_their_datagram(tmp_path):
    other = IP(src=SERVER, dst=CLIENT, id=9) / UDP(sport=123, dport=50_000) / bytes(3000)
    packets = [*fragment(ANSWERED, 1480), *fragment(other, 1480)]
    assert play(packets, tmp_path / "a.pcap", Scenario(services=["udp/53"])) == [1, 1, 1]
