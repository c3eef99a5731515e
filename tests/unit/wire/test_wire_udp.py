from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from nsstream.wire.link import ETHERNET, RAW
from nsstream.wire.udp import CUT, FATE_COUNT, FRAGMENT, GIVEN, NOT_UDP, find_payloads

PORT = 2055
UDP_LAYER = UDP(sport=1000, dport=PORT)


def payloads_of(
    frames: list[bytes], *, link_type: int = ETHERNET, time_ns: int = 7
) -> tuple[list[bytes], np.ndarray, list[int]]:
    """Payloads, their senders, and the counts by fate."""
    n = len(frames)
    octets = np.frombuffer(b"".join(frames), np.uint8)
    lengths = np.array([len(frame) for frame in frames], np.int64)
    is_wanted = np.zeros(1 << 16, np.bool_)
    is_wanted[PORT] = True
    out, offset = np.zeros(len(octets), np.uint8), np.zeros(n + 1, np.int64)
    sender, received_ns = np.zeros((n, 16), np.uint8), np.zeros(n, np.int64)
    counts = find_payloads(
        octets,
        np.full(n, time_ns, np.int64),
        np.cumsum(lengths) - lengths,
        lengths,
        np.full(n, link_type, np.int64),
        n,
        is_wanted,
        out,
        offset,
        sender,
        received_ns,
    )
    given_count = int(counts[GIVEN])
    assert (received_ns[:given_count] == time_ns).all()
    found = [out[offset[i] : offset[i + 1]].tobytes() for i in range(given_count)]
    return found, sender[:given_count], counts.tolist()


def octets_of(packet: Packet) -> bytes:
    return bytes(packet)


@pytest.mark.parametrize(
    ("packet", "sender"),
    [
        (Ether() / IP(src="192.0.2.7") / UDP_LAYER / b"payload", bytes(10) + b"\xff\xff\xc0\0\2\7"),
        (Ether() / Dot1Q(vlan=5) / IP(src="192.0.2.7") / UDP_LAYER / b"payload", bytes(10) + b"\xff\xff\xc0\0\2\7"),
        (Ether() / IPv6(src="2001:db8::1") / UDP_LAYER / b"payload", b"\x20\x01\x0d\xb8" + bytes(11) + b"\1"),
        (
            Ether() / IPv6(src="2001:db8::1") / IPv6ExtHdrDestOpt() / UDP_LAYER / b"payload",
            b"\x20\x01\x0d\xb8" + bytes(11) + b"\1",
        ),
    ],
)
def test_payload_and_sender_are_found_behind_every_header(packet: Packet, sender: bytes) -> None:
    found, senders, counts = payloads_of([octets_of(packet)])
    assert (found, senders.tobytes(), counts) == ([b"payload"], sender, [1, 0, 0, 0])


def test_payloads_come_in_order_and_padding_is_left_out() -> None:
    frames = [octets_of(Ether() / IP() / UDP_LAYER / Raw(b"%d" % i)).ljust(60, b"\xff") for i in range(5)]
    assert payloads_of(frames)[0] == [b"0", b"1", b"2", b"3", b"4"]
    assert payloads_of([frame[14:] for frame in frames], link_type=RAW)[0] == [b"0", b"1", b"2", b"3", b"4"]


def test_what_is_not_for_the_port_is_told_apart_from_what_is_cut() -> None:
    whole = octets_of(Ether() / IP() / UDP_LAYER / Raw(bytes(100)))
    lying = bytearray(whole)
    lying[38:40] = (4).to_bytes(2, "big")  # a UDP length below the header's own
    frames = [
        octets_of(Ether() / ARP()),
        octets_of(Ether() / IP() / TCP(dport=PORT)),
        octets_of(Ether() / IP() / UDP(dport=53) / b"x"),
        whole[:-1],
        bytes(lying),
        octets_of(Ether() / IP(flags="MF") / UDP_LAYER / Raw(bytes(100))),
        octets_of(Ether() / IP(frag=10) / UDP_LAYER / Raw(bytes(100))),
        octets_of(Ether() / IPv6() / IPv6ExtHdrFragment(m=1) / UDP_LAYER / Raw(bytes(100))),
    ]
    found, _, counts = payloads_of(frames)
    assert found == []
    assert counts[NOT_UDP] == 4
    assert counts[CUT] == 2
    assert counts[FRAGMENT] == 2


def test_frame_without_a_time_is_not_given() -> None:
    assert payloads_of([octets_of(Ether() / IP() / UDP_LAYER / b"x")], time_ns=-2)[0] == []


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_any_octets_give_counts_of_every_record(frames: list[bytes]) -> None:
    _, _, counts = payloads_of(frames)
    assert len(counts) == FATE_COUNT
    assert sum(counts) == len(frames)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_changed_octet_never_gives_more_than_was_there(at: int, value: int) -> None:
    frame = bytearray(octets_of(Ether() / IP() / UDP_LAYER / Raw(bytes(range(100)))))
    frame[at % len(frame)] = value
    found, _, counts = payloads_of([bytes(frame)])
    assert sum(counts) == 1
    assert all(len(payload) <= 100 for payload in found)
