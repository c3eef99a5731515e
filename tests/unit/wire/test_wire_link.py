"""Every link layer finds the same IP packet, and says what is not IP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nsstream.errors import WireError
from nsstream.wire import PcapReader, pcap_header

MACS = bytes.fromhex("020000000002 020000000001")
IPV4 = bytes.fromhex("4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000")
IPV6 = (
    bytes.fromhex("60000000 0008 11 40") + bytes(15) + b"\1" + bytes(15) + b"\1" + bytes.fromhex("d431 0035 0008 0000")
)
SLL = bytes.fromhex("0000 0001 0006 020000000001 0000")
SLL2 = bytes.fromhex("0000 00000002 0001 00 06 020000000001 0000")

LINK_LAYERS = {
    "ethernet": (1, MACS + b"\x08\x00" + IPV4, 0),
    "ethernet, IPv6": (1, MACS + b"\x86\xdd" + IPV6, 0),
    "802.1Q": (1, MACS + bytes.fromhex("8100 602a 0800") + IPV4, 42),
    "802.1Q, IPv6": (1, MACS + bytes.fromhex("8100 002a 86dd") + IPV6, 42),
    "802.1ad": (1, MACS + bytes.fromhex("88a8 0064 8100 002a 0800") + IPV4, 100),
    "QinQ of old": (1, MACS + bytes.fromhex("9100 0064 8100 002a 0800") + IPV4, 100),
    "eight tags": (1, MACS + bytes.fromhex("8100 0007") * 8 + b"\x08\x00" + IPV4, 7),
    "802.2 SNAP": (1, MACS + bytes.fromhex("0024 aaaa03 000000 0800") + IPV4, 0),
    "raw, 12": (12, IPV4, 0),
    "raw, 14": (14, IPV4, 0),
    "raw, 101": (101, IPV4, 0),
    "raw, 101, IPv6": (101, IPV6, 0),
    "IPv4 only": (228, IPV4, 0),
    "IPv6 only": (229, IPV6, 0),
    "cooked v1": (113, SLL + b"\x08\x00" + IPV4, 0),
    "cooked v1, IPv6": (113, SLL + b"\x86\xdd" + IPV6, 0),
    "cooked v1, tagged": (113, SLL + bytes.fromhex("8100 002a 0800") + IPV4, 42),
    "cooked v2": (276, b"\x08\x00" + SLL2 + IPV4, 0),
    "cooked v2, IPv6": (276, b"\x86\xdd" + SLL2 + IPV6, 0),
    "null, little endian": (0, bytes.fromhex("02000000") + IPV4, 0),
    "null, big endian": (0, bytes.fromhex("00000002") + IPV4, 0),
    "null, IPv6 of macOS": (0, bytes.fromhex("1e000000") + IPV6, 0),
    "null, IPv6 of FreeBSD, big endian": (0, bytes.fromhex("0000001c") + IPV6, 0),
    "loop": (108, bytes.fromhex("00000002") + IPV4, 0),
    "loop, IPv6 of OpenBSD": (108, bytes.fromhex("00000018") + IPV6, 0),
    "loop, little endian": (108, bytes.fromhex("02000000") + IPV4, 0),
}


@pytest.mark.parametrize("case", LINK_LAYERS)
def test_ip_packet_is_found(case: str, capture: Callable[..., bytes], read: Callable) -> None:
    link_type, frame, vlan_id = LINK_LAYERS[case]
    batch, tally = read(capture([frame], link_type))
    assert tally.kept == 1
    assert batch.ip_version[0] == (6 if "IPv6" in case else 4)
    assert batch.destination_transport_port[0] == 53
    assert batch.vlan_id[0] == vlan_id


@pytest.mark.parametrize("case", LINK_LAYERS)
def test_cut_anywhere_is_counted_or_kept(case: str, fate_of: Callable[..., str]) -> None:
    link_type, frame, _ = LINK_LAYERS[case]
    needed = len(frame) - 4  # all but the UDP length and checksum
    assert {fate_of(frame, link_type, n) for n in range(needed)} <= {"cut_by_snaplen", "llc"}
    assert {fate_of(frame, link_type, n) for n in range(needed, len(frame))} == {"kept"}


@pytest.mark.parametrize(
    ("reason", "link_type", "frame"),
    [
        ("arp", 1, MACS + b"\x08\x06" + bytes(28)),
        ("arp", 1, MACS + bytes.fromhex("8100 002a 0806") + bytes(28)),
        ("arp", 113, SLL + b"\x08\x06" + bytes(28)),
        ("eapol", 1, MACS + b"\x88\x8e" + bytes(10)),
        ("lldp", 1, MACS + b"\x88\xcc" + bytes(10)),
        ("mpls", 1, MACS + b"\x88\x47" + bytes(4) + IPV4),
        ("mpls", 1, MACS + b"\x88\x48" + bytes(4) + IPV4),
        ("pppoe", 1, MACS + b"\x88\x63" + bytes(10)),
        ("pppoe", 1, MACS + b"\x88\x64" + bytes(10)),
        ("llc", 1, MACS + bytes.fromhex("0026 424203") + bytes(35)),
        ("llc", 1, MACS + bytes.fromhex("0026 aaaa03 00000c 2000") + bytes(35)),
        ("llc", 1, MACS + bytes.fromhex("0026 aaaa03 000000 0806") + bytes(35)),
        ("llc", 113, SLL + b"\x00\x04" + bytes(10)),
        ("non_ip", 1, MACS + b"\x88\xf7" + bytes(10)),
        ("non_ip", 0, bytes.fromhex("07000000") + IPV4),
        ("non_ip", 113, bytes.fromhex("0004 0338 0000 0000000000000000 0000") + IPV4),
        ("non_ip", 276, bytes.fromhex("0000 0000 00000002 0338 00 00 0000000000000000") + IPV4),
        ("vlan_stack", 1, MACS + bytes.fromhex("8100 0007") * 9 + b"\x08\x00" + IPV4),
        ("bad_ip_version", 101, b"\x10" + IPV4[1:]),
        ("bad_ip_version", 228, IPV6),
        ("bad_ip_version", 229, IPV4),
        ("short_frame", 113, SLL),
        ("short_frame", 276, SLL2),
        ("short_frame", 0, b"\x02\0\0"),
        ("short_frame", 1, MACS + bytes.fromhex("8100 00")),
    ],
)
def test_what_is_not_ip_is_counted_by_name(
    reason: str, link_type: int, frame: bytes, fate_of: Callable[..., str]
) -> None:
    assert fate_of(frame, link_type) == reason


def test_link_type_that_is_not_supported_is_refused_by_name() -> None:
    with pytest.raises(WireError, match=r"link type 105 \(IEEE 802.11\) is not supported"):
        PcapReader().feed(pcap_header(105))
    with pytest.raises(WireError, match=r"link type 4242 is not supported"):
        PcapReader().feed(pcap_header(4242))


def test_frame_check_sequence_bits_are_not_link_type(read: Callable, capture: Callable[..., bytes]) -> None:
    octets = bytearray(capture([MACS + b"\x08\x00" + IPV4]))
    octets[20:24] = (0x24000001).to_bytes(4, "little")
    assert read(bytes(octets))[1].kept == 1
