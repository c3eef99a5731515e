"""Frames made by scapy, an independent truth, then broken in one place each."""

from collections.abc import Callable

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from nsstream.score.lawful import Fault, faults

ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")  # given, so that scapy looks nothing up
V4 = IP(src="10.0.0.1", dst="10.0.0.2")
V6 = IPv6(src="fd00::1", dst="fd00::2")
ODD = Raw(b"odd")
LAWFUL = {
    "tcp": ETHERNET / V4 / TCP(sport=1, dport=2, options=[("MSS", 1460)]) / ODD,
    "udp": ETHERNET / V4 / UDP(sport=1, dport=2) / ODD,
    "udp without checksum": ETHERNET / V4 / UDP(sport=1, dport=2, chksum=0) / ODD,
    "icmp": ETHERNET / V4 / ICMP() / ODD,
    "tcp6": ETHERNET / V6 / TCP(sport=1, dport=2) / ODD,
    "udp6 behind an option header": ETHERNET / V6 / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / ODD,
    "icmp6": ETHERNET / V6 / ICMPv6EchoRequest() / ODD,
    "tagged": ETHERNET / Dot1Q(vlan=7) / V4 / UDP(sport=1, dport=2),
    "fragment": ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2", frag=3, proto=17) / ODD,
    "padded": ETHERNET / V4 / UDP(sport=1, dport=2) / ODD / Raw(b""),
}


def _fault(frame: bytes) -> Fault:
    octets = np.frombuffer(frame, np.uint8)
    return Fault(faults(octets, np.array([0]), np.array([len(frame)]))[0])


def _flip(at: int) -> Callable[[bytes], bytes]:
    return lambda frame: frame[:at] + bytes([frame[at] ^ 0xFF]) + frame[at + 1 :]


@pytest.mark.parametrize("name", LAWFUL)
def test_a_lawful_frame_has_no_fault(name: str) -> None:
    assert _fault(bytes(LAWFUL[name])) is Fault.NONE
    assert _fault(bytes(LAWFUL[name]) + b"\0" * 18) is Fault.NONE  # Ethernet padding belongs to no datagram


@pytest.mark.parametrize(
    ("name", "at", "fault"),
    [
        ("tcp", 24, Fault.IP_CHECKSUM),
        ("tcp", -1, Fault.TCP_CHECKSUM),
        ("tcp6", -1, Fault.TCP_CHECKSUM),
        ("udp", -1, Fault.UDP_CHECKSUM),
        ("udp6 behind an option header", -1, Fault.UDP_CHECKSUM),
        ("icmp", -1, Fault.ICMP_CHECKSUM),
        ("icmp6", -1, Fault.ICMPV6_CHECKSUM),
        ("udp", 39, Fault.UDP_LENGTH),
        ("tcp", 46, Fault.TCP_HEADER),
    ],
)
def test_a_changed_octet_is_found_for_what_it_is(name: str, at: int, fault: Fault) -> None:
    frame = bytes(LAWFUL[name])
    assert _fault(_flip(at % len(frame))(frame)) is fault


def test_a_missing_udp_checksum_is_a_fault_in_ipv6_only() -> None:
    missing: Packet = ETHERNET / V6 / UDP(sport=1, dport=2, chksum=0) / ODD
    assert _fault(bytes(missing)) is Fault.UDP_CHECKSUM


def test_a_frame_cut_anywhere_is_never_lawful() -> None:
    for frame in map(bytes, LAWFUL.values()):
        assert {_fault(frame[:end]) for end in range(len(frame))} <= {Fault.CUT}


def test_what_is_not_ip_is_said_to_be_so() -> None:
    assert _fault(bytes(ETHERNET / ARP())) is Fault.NOT_IP
