"""Columns agree field by field with scapy's dissection, on a corpus of mixed packets that scapy builds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, GRE, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Dot3, Ether, Loopback
from scapy.layers.l2 import LLC as LLC_HEADER
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Raw

EXTENSIONS = (IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, AH)
NUMBERS = {TCP: 6, UDP: 17, SCTP: 132, GRE: 47, ICMPv6EchoRequest: 58, ICMPv6ND_NS: 58}
MAC = "02:00:00:00:00:01"
LINKS = {
    "ethernet": (1, lambda: Ether(src=MAC, dst=MAC), Ether),
    "802.1Q": (1, lambda: Ether(src=MAC, dst=MAC) / Dot1Q(vlan=42, prio=3), Ether),
    "802.1ad": (1, lambda: Ether(src=MAC, dst=MAC) / Dot1AD(vlan=100) / Dot1Q(vlan=42), Ether),
    "SNAP": (1, lambda: Dot3(src=MAC, dst=MAC) / LLC_HEADER(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(), Dot3),
    "cooked v1": (113, CookedLinux, CookedLinux),
    "cooked v2": (276, CookedLinuxV2, CookedLinuxV2),
    "loopback": (0, Loopback, None),
    "raw": (101, None, None),
}


def transports(r: random.Random) -> Iterator[Packet]:
    load = Raw(r.randbytes(r.choice([0, 1, 20, 500])))
    options = r.choice([[], [("MSS", 1460), ("NOP", None), ("WScale", 7)], [("Timestamp", (1, 2))]])
    ports = {"sport": r.randrange(65536), "dport": r.randrange(65536)}
    numbers = {"seq": r.randrange(2**32), "ack": r.randrange(2**32), "window": r.randrange(65536)}
    yield TCP(**ports, **numbers, flags=r.randrange(512), options=options) / load
    yield UDP(**ports) / load
    yield SCTP(**ports) / SCTPChunkInit()
    yield GRE() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(**ports)


def ipv4_packets(r: random.Random) -> Iterator[Packet]:
    for payload in [*transports(r), ICMP(type=r.choice([0, 3, 8, 11]), code=r.randrange(4)) / Raw(bytes(8))]:
        yield (
            IP(
                src=".".join(map(str, r.randbytes(4))),
                dst=".".join(map(str, r.randbytes(4))),
                tos=r.randrange(256),
                ttl=r.randrange(256),
                id=r.randrange(65536),
                flags=r.choice(["", "DF", "MF"]),
                options=r.choice([[], [IPOption_RR()], [IPOption_Timestamp()]]),
            )
            / payload
        )
    yield IP(src="10.1.2.3", dst="10.3.2.1", frag=r.randrange(1, 8191), proto=6, flags="MF") / Raw(r.randbytes(24))


def ipv6_packets(r: random.Random) -> Iterator[Packet]:
    icmp = [ICMPv6EchoRequest(id=7), ICMPv6ND_NS(tgt="2001:db8::1")]
    chains: list[list[Packet]] = [
        [],
        [IPv6ExtHdrHopByHop()],
        [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["2001:db8::9"])],
        [IPv6ExtHdrFragment(id=r.randrange(2**32), m=1)],
        [AH(spi=5, seq=6, payloadlen=4, icv=bytes(12))],
    ]
    for payload in [*transports(r), *icmp]:
        for chain in chains:
            packet = IPv6(
                src=str(ip_address(r.randbytes(16))),
                dst=str(ip_address(r.randbytes(16))),
                tc=r.randrange(256),
                fl=r.randrange(2**20),
                hlim=r.randrange(256),
            )
            for header in [*chain, payload]:
                packet = packet / header.copy()
            if chain:
                packet[type(chain[-1])].nh = NUMBERS[type(payload)]
            yield packet


def expected_row(frame: Packet) -> dict[str, int | bytes]:
    """What scapy says that the columns should hold."""
    ip = next(layer for layer in layers_of(frame) if isinstance(layer, IP | IPv6))
    tags = [layer for layer in layers_of(frame) if isinstance(layer, Dot1Q | Dot1AD)]
    row: dict[str, int | bytes] = {
        "ip_version": ip.version,
        "vlan_id": tags[0].vlan if tags else 0,
        "source_address": mapped(ip.src),
        "destination_address": mapped(ip.dst),
    }
    fragment_offset = 0
    if isinstance(ip, IP):
        row |= {"ip_class_of_service": ip.tos, "ip_ttl": ip.ttl, "flow_label_ipv6": 0}
        row |= {"ip_total_length": ip.len, "ip_header_length": ip.ihl * 4, "protocol_identifier": ip.proto}
        row |= {"fragment_identification": ip.id, "fragment_offset": ip.frag, "fragment_flags": int(ip.flags) & 3}
        fragment_offset = ip.frag
        transport = ip.payload
    else:
        row |= {"ip_class_of_service": ip.tc, "ip_ttl": ip.hlim, "flow_label_ipv6": ip.fl}
        row |= {"fragment_identification": 0, "fragment_offset": 0, "fragment_flags": 0}
        header, protocol = ip, ip.nh
        while isinstance(header.payload, EXTENSIONS):
            header = header.payload
            protocol = header.nh
            if isinstance(header, IPv6ExtHdrFragment):
                row |= {"fragment_identification": header.id, "fragment_offset": header.offset}
                row |= {"fragment_flags": header.m}
        transport = header.payload
        if isinstance(transport, Raw):  # scapy does not look behind AH
            transport = {6: TCP, 17: UDP, 132: SCTP}.get(protocol, ICMPv6EchoRequest)(transport.original)
        row |= {"ip_total_length": 40 + ip.plen, "protocol_identifier": protocol}
        row |= {"ip_header_length": len(ip.original) - len(transport.original)}
    ports = transport if isinstance(transport, TCP | UDP | SCTP) and fragment_offset == 0 else None
    row |= {"source_transport_port": ports.sport if ports else 0}
    row |= {"destination_transport_port": ports.dport if ports else 0}
    tcp = transport if isinstance(transport, TCP) and fragment_offset == 0 else None
    row |= {
        "tcp_control_bits": int(tcp.flags) if tcp else 0,
        "tcp_sequence_number": tcp.seq if tcp else 0,
        "tcp_acknowledgement_number": tcp.ack if tcp else 0,
        "tcp_window_size": tcp.window if tcp else 0,
        "tcp_header_length": tcp.dataofs * 4 if tcp else 0,
    }
    is_icmp = row["protocol_identifier"] in (1, 58) and fragment_offset == 0
    row |= {"icmp_type": transport.type if is_icmp else 0, "icmp_code": transport.code if is_icmp else 0}
    return row


def layers_of(packet: Packet) -> Iterator[Packet]:
    while packet:
        yield packet
        packet = packet.payload


def mapped(address: str) -> bytes:
    packed = ip_address(address).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("version", [4, 6])
def test_columns_agree_with_scapy(link: str, version: int, capture: Callable[..., bytes], read: Callable) -> None:
    link_type, make_link, link_class = LINKS[link]
    r = random.Random(f"{link}{version}")
    ip_class, packets = (IP, ipv4_packets) if version == 4 else (IPv6, ipv6_packets)
    built = [packet for _ in range(4) for packet in packets(r)]
    frames = [bytes(make_link() / packet) if make_link else bytes(packet) for packet in built]
    if link == "loopback" and version == 6:
        frames = [b"\x1e\0\0\0" + bytes(packet) for packet in built]  # scapy knows the family of Linux only
    batch, tally = read(capture(frames, link_type))
    assert tally.kept == tally.offered == len(frames)
    for i, frame in enumerate(frames):
        row = {name: column[i].tolist() for name, column in batch.columns().items()}
        row |= {
            "source_address": bytes(row["source_address"]),
            "destination_address": bytes(row["destination_address"]),
        }
        del row["observation_time_ns"]
        oracle = (link_class or ip_class)(frame[4:] if link == "loopback" else frame)
        assert row == expected_row(oracle)


def test_arp_is_counted_among_ip(capture: Callable[..., bytes], read: Callable) -> None:
    arp = ARP(psrc="10.0.0.1", hwsrc=MAC)
    tagged = Dot1Q(vlan=2) / ARP(psrc="10.0.0.1", hwsrc=MAC)
    frames = [
        bytes(Ether(dst=MAC, src=MAC) / packet) for packet in (arp, IP(src="10.0.0.1", dst="10.0.0.2") / UDP(), tagged)
    ]
    _, tally = read(capture(frames))
    assert (tally.kept, dict(tally.unsupported)) == (1, {"arp": 2})
