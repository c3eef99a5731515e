"""A twin's frames in a lab's addresses, VLANs and MACs, read back by scapy and by the independent check."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from made_tables import Packet, chance_table, table_of
from scapy.layers.inet import ICMP, IP, TCP, IPerror, UDPerror, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet as ScapyPacket
from scapy.utils import checksum

from nsstream.assemble import Assembler, Frames
from nsstream.assemble.testbed import Testbed, check_testbed
from nsstream.errors import InputError
from nsstream.score.lawful import Fault, faults

SYN, ACK = 0x02, 0x10
CLIENT = {
    "rules": [{"prefix": "10.0.0.0/8", "target": "192.168.0.0/16"}, {"prefix": "fd00::/8", "target": "fd55:a::/32"}],
    "gateway_mac": "02:00:00:00:aa:01",
    "vlan": 11,
}
SERVER = {
    "rules": [
        {
            "prefix": "10.1.0.0/16",
            "target": "172.16.1.0/24",
            "gateway": "10.1.0.254",
            "target_gateway": "172.16.1.1",
        }
    ],
    "gateway_mac": "02:00:00:00:bb:01",
    "host_mac": "02:00:00:00:bb:02",
    "vlan": 0,
}
LAB = {"a": CLIENT, "b": SERVER}


def frames_of(*conversations: tuple[dict[str, object], list[Packet]]) -> Frames:
    return Assembler(np.random.default_rng(1)).assemble(table_of(*conversations))


def mapped(spec: dict[str, object], frames: Frames) -> tuple[list[Ether], Frames, Testbed]:
    testbed = Testbed(check_testbed(spec))
    out = testbed.apply(frames)
    return [Ether(out.frame(i)) for i in range(len(out))], out, testbed


def faults_of(frames: Frames) -> set[Fault]:
    return {Fault(f) for f in np.unique(faults(frames.octets, frames.offset[:-1], np.diff(frames.offset)))}


HANDSHAKE = [Packet(0, 0, 60, SYN, 40), Packet(9, 1, 60, SYN | ACK, 40), Packet(20, 0, 300, ACK, 32)]


def test_each_side_has_its_prefix_vlan_and_macs() -> None:
    given = frames_of(({"initiator_address": "10.0.3.4", "responder_address": "10.1.7.9"}, HANDSHAKE))
    (syn, syn_ack, _), out, _ = mapped(LAB, given)
    assert (syn[IP].src, syn[IP].dst) == ("192.168.3.4", "172.16.1.9")
    assert (syn_ack[IP].src, syn_ack[IP].dst) == ("172.16.1.9", "192.168.3.4")
    assert (syn.dst, syn_ack.dst) == ("02:00:00:00:aa:01", "02:00:00:00:bb:01")
    assert (syn.src, syn_ack.src) == (Ether(given.frame(0)).src, "02:00:00:00:bb:02")
    assert syn[Dot1Q].vlan == 11
    assert Dot1Q not in syn_ack
    assert out.side.tolist() == [0, 1, 0]
    assert faults_of(out) == {Fault.NONE}


def test_hosts_of_one_side_speak_to_each_other_directly() -> None:
    given = frames_of(({"initiator_address": "10.0.3.4", "responder_address": "10.0.3.5"}, HANDSHAKE[:1]))
    (syn,), _, _ = mapped(LAB, given)
    assert syn.dst == Ether(given.frame(0)).dst


@pytest.mark.parametrize(
    ("twin", "lab"),
    [
        ("10.1.0.254", "172.16.1.1"),  # the gateway
        ("10.1.3.1", "172.16.1.2"),  # would have been the gateway's
        ("10.1.3.0", "172.16.1.2"),  # the network's, and the next is the gateway's
        ("10.1.3.255", "172.16.1.2"),  # the broadcast address
        ("10.1.255.255", "172.16.1.255"),  # broadcast stays broadcast
        ("224.0.0.251", "224.0.0.251"),
        ("255.255.255.255", "255.255.255.255"),
    ],
)
def test_roles_are_kept(twin: str, lab: str) -> None:
    fields = {"responder_address": twin, "protocol_identifier": 17, "responder_port": 50_001}
    (frame,), out, _ = mapped(LAB, frames_of((fields, [Packet(0, 0, 100)])))
    assert frame[IP].dst == lab
    assert faults_of(out) == {Fault.NONE}


def test_what_an_error_quotes_is_mapped_too() -> None:
    ends = {"initiator_address": "10.0.0.1", "responder_address": "10.1.0.2"}
    asked = ends | {"protocol_identifier": 17, "responder_port": 50_001}
    error = ends | {"protocol_identifier": 1}
    given = frames_of((asked, [Packet(0, 0, 100)]), (error, [Packet(9, 1, 128, 3 << 8 | 3)]))
    (_, frame), out, _ = mapped(LAB, given)
    assert (frame[IPerror].src, frame[IPerror].dst) == ("192.168.0.1", "172.16.1.2")
    assert checksum(bytes(frame[IPerror])[:20]) == 0
    assert bytes(frame[UDPerror]) == bytes(Ether(out.frame(0))[IP].payload)
    assert faults_of(out) == {Fault.NONE}


@pytest.mark.parametrize("seed", range(5))
def test_any_traffic_stays_lawful(seed: int) -> None:
    frames = Assembler(np.random.default_rng(seed)).assemble(chance_table(seed, 60))
    seen, out, testbed = mapped(LAB, frames)
    assert len(out) + testbed.tally.total() == len(frames)
    assert faults_of(out) == {Fault.NONE}
    for frame in seen:
        if IPv6 in frame and IP not in frame:
            assert frame[IPv6].src.startswith(("fd55:a:", "ff", "::"))


def test_a_rule_of_one_host_maps_it_to_a_host() -> None:
    server = SERVER | {"rules": [{"prefix": "10.9.9.9/32", "target": "172.20.0.0/24"}]}
    fields = {"responder_address": "10.9.9.9", "protocol_identifier": 17, "responder_port": 50_001}
    (frame,), out, _ = mapped({"a": CLIENT, "b": server}, frames_of((fields, [Packet(0, 0, 100)])))
    assert frame[IP].dst == "172.20.0.1"
    assert faults_of(out) == {Fault.NONE}


def frames_from(packets: list[ScapyPacket]) -> Frames:
    octets = [bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet) for packet in packets]
    offset = np.cumsum([0, *map(len, octets)]).astype(np.int64)
    return Frames(np.arange(len(octets)), offset, np.frombuffer(b"".join(octets), np.uint8).copy())


def test_a_ping_in_fragments_keeps_its_checksum() -> None:
    asked = fragment(IP(src="10.0.3.4", dst="10.1.7.9", id=7) / ICMP() / bytes(3000), 1480)
    seen, _, _ = mapped(LAB, frames_from(asked))
    assert len(seen) == 3
    assert {frame[IP].dst for frame in seen} == {"172.16.1.9"}
    assert checksum(b"".join(bytes(frame[IP].payload) for frame in seen)) == 0


def test_a_ping_over_ipv6_in_fragments_keeps_its_checksum() -> None:
    ping = ICMPv6EchoRequest(data=bytes(3000))
    asked = fragment6(IPv6(src="fd00::4", dst="fd00::9") / IPv6ExtHdrFragment(id=7) / ping, 1280)
    seen, _, _ = mapped(LAB, frames_from(asked))
    assert len(seen) == 3
    message = b"".join(bytes(frame[IPv6ExtHdrFragment].payload) for frame in seen)
    ends = [socket.inet_pton(socket.AF_INET6, end) for end in (seen[0][IPv6].src, seen[0][IPv6].dst)]
    assert ends[0].startswith(b"\xfd\x55")
    assert checksum(b"".join(ends) + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big") + message) == 0


def test_addresses_of_no_prefix_are_left_out_or_kept() -> None:
    frames = frames_of(({"responder_address": "8.8.8.8"}, HANDSHAKE))
    seen, _, testbed = mapped(LAB, frames)
    assert not seen
    assert testbed.tally == {"testbed_elsewhere": 3}
    seen, out, testbed = mapped(LAB | {"elsewhere": "keep"}, frames)
    assert [frame[IP].dst for frame in seen] == ["8.8.8.8", "192.168.0.1", "8.8.8.8"]
    assert seen[2][TCP].dport == 80
    assert faults_of(out) == {Fault.NONE}
    assert not testbed.tally


def test_what_is_not_ip_is_left_out() -> None:
    octets = np.frombuffer(bytes(12) + b"\x08\x06" + bytes(28) + bytes(9), np.uint8).copy()
    frames = Frames(np.array([1, 2]), np.array([0, 42, 51]), octets)
    seen, _, testbed = mapped(LAB, frames)
    assert not seen
    assert testbed.tally == {"testbed_not_ip": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vlan": 4095}, "a.vlan"),
        ({"gateway_mac": "01:00:00:00:00:01"}, "MAC of a group"),
        ({"gateway_mac": "2:0:0:0:0:1"}, "a.gateway_mac"),
        ({"rules": []}, "a.rules"),
        ({"rules": [{"prefix": "10.0.0.0/8", "target": "fd00::/64"}]}, "different IP versions"),
        ({"rules": [{"prefix": "10.0.0.0/8", "target": "172.16.0.0/12"}]}, "overlap"),
        ({"rules": [{"prefix": "10.1.0.0/16", "target": "192.168.0.0/16"}]}, "mapped twice"),
        ({"rules": [{"prefix": "10.0.0.0/8", "target": "192.168.1.0/30"}]}, "too narrow"),
        ({"rules": [{"prefix": "10.0.0.0/8", "target": "192.168.0.0/16", "gateway": "10.0.0.1"}]}, "go together"),
        ({"colour": 1}, "a.colour"),
    ],
)
def test_a_specification_that_cannot_be_met_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_testbed({"a": CLIENT | change, "b": SERVER})
