"""Laws of `Assembler` over tables in which nothing is lawful but the column types."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers import inet as scapy_inet
from scapy.layers.l2 import Ether
from scapy.utils import checksum

from nsstream.assemble import Assembler, Frames
from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "assemble"))

from made_tables import chance_table

DROPS = ("_dropped",)
MTU = 1500
IGMP = 2
SEEDS = st.integers(0, 2**32 - 1)


def datagram_of(frame: bytes) -> bytes:
    return frame[18:] if frame[12:14] == b"\x81\x00" else frame[14:]


def transport_of(datagram: bytes) -> tuple[int, bytes]:
    """The innermost protocol and what stands behind the headers; protocol -1 for a later fragment."""
    if datagram[0] >> 4 == 4:
        is_later = (datagram[6] & 0x1F) << 8 | datagram[7]
        return -1 if is_later else datagram[9], datagram[(datagram[0] & 15) * 4 :]
    protocol, at = datagram[6], 40
    if protocol == 0:
        protocol, at = datagram[40], 40 + 8 * (datagram[41] + 1)
    return -1 if protocol == 44 else protocol, datagram[at:]


def has_right_checksums(datagram: bytes) -> bool:
    is_4 = datagram[0] >> 4 == 4
    protocol, body = transport_of(datagram)
    if is_4 and checksum(datagram[: (datagram[0] & 15) * 4]):
        return False
    if protocol in (TCP, UDP) or (protocol == ICMPV6 and not is_4):
        if protocol == UDP and body[6:8] == b"\0\0":
            return False
        addresses = datagram[12:20] if is_4 else datagram[8:40]
        return checksum(addresses + len(body).to_bytes(4, "big") + protocol.to_bytes(4, "big") + body) == 0
    return protocol not in (ICMP, IGMP) or checksum(body) == 0


def assembled(seed: int, conversations: int = 6, payload: str = "template") -> tuple[Frames, Assembler, int]:
    table = chance_table(seed, conversations)
    assembler = Assembler(np.random.default_rng(seed), mtu=MTU, payload=payload)
    return assembler.assemble(table), assembler, len(table.observation_time_ns)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(["template", "zero", "random"]))
def test_every_frame_has_right_lengths_and_checksums(seed: int, payload: str) -> None:
    frames, _, _ = assembled(seed, payload=payload)
    for i in range(len(frames)):
        datagram = datagram_of(frames.frame(i))
        length = (
            int.from_bytes(datagram[2:4], "big") if datagram[0] >> 4 == 4 else int.from_bytes(datagram[4:6], "big") + 40
        )
        assert length == len(datagram) <= MTU
        assert has_right_checksums(datagram), datagram.hex()


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_scapy_builds_the_same_frames(seed: int) -> None:
    frames, _, _ = assembled(seed, 3)
    for i in range(len(frames)):
        parsed = Ether(frames.frame(i))
        if scapy_inet.TCP in parsed and ("EOL", None) in parsed[scapy_inet.TCP].options:
            continue  # scapy forgets the padding behind the end of options
        for layer in (scapy_inet.IP, scapy_inet.TCP, scapy_inet.UDP, scapy_inet.ICMP):
            if layer in parsed:
                parsed[layer].chksum = None
        assert scapy_inet.IP not in parsed or bytes(parsed) == frames.frame(i)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_every_packet_is_a_frame_or_a_counted_drop(seed: int) -> None:
    frames, assembler, packets = assembled(seed, 20)
    assert packets == len(frames) + sum(n for name, n in assembler.tally.items() if name.endswith(DROPS))


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_the_same_seed_gives_the_same_octets(seed: int) -> None:
    first, second = assembled(seed)[0], assembled(seed)[0]
    assert first.octets.tobytes() == second.octets.tobytes()
    assert first.observation_time_ns.tolist() == second.observation_time_ns.tolist()
