"""Frames around the transport: link, IP, ICMP, services, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from made_tables import Packet, table_of
from scapy.layers.dns import DNS
from scapy.layers.inet import ICMP, IP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Dot1Q, Ether

from nsstream.assemble import Assembler, Frames
from nsstream.assemble.catalogue import SERVICES
from nsstream.assemble.fills import PROTOCOL_FILLS, TCP_FILLS, UDP_FILLS
from nsstream.assemble.services import compile_services
from nsstream.trace.fields import ICMP as ICMP_NUMBER
from nsstream.trace.fields import ICMPV6, SCTP
from nsstream.trace.fields import UDP as UDP_NUMBER

DNS_CONVERSATION = {"protocol_identifier": UDP_NUMBER, "responder_port": 53}


def assembled(fields: dict[str, object], *packets: Packet, mtu: int = 1500) -> tuple[list[Ether], Assembler]:
    assembler = Assembler(np.random.default_rng(1), mtu=mtu)
    frames = assembler.assemble(table_of((fields, packets)))
    return [Ether(frames.frame(i)) for i in range(len(frames))], assembler


def test_an_empty_table_makes_no_frames() -> None:
    assert len(Assembler(np.random.default_rng(1)).assemble(table_of())) == 0


def test_equal_times_are_pushed_by_a_nanosecond() -> None:
    packets = (Packet(0, 0, 60), Packet(0, 0, 60))
    frames = Assembler(np.random.default_rng(1)).assemble(table_of((DNS_CONVERSATION, packets)))
    assert np.diff(frames.observation_time_ns).tolist() == [1]


def test_frames_refuse_times_that_stand_still() -> None:
    with pytest.raises(ValueError, match="strictly"):
        Frames(np.zeros(2, np.int64), np.zeros(3, np.int64), np.zeros(0, np.uint8))


def test_a_slice_of_frames_holds_its_own_octets() -> None:
    packets = [Packet(k, 0, 60 + k) for k in range(4)]
    frames = Assembler(np.random.default_rng(1)).assemble(table_of((DNS_CONVERSATION, packets)))
    assert [frames.slice(1, 3).frame(k) for k in range(2)] == [frames.frame(1), frames.frame(2)]


def test_a_frame_knows_which_side_it_comes_from() -> None:
    packets = [Packet(k, side, 60) for k, side in enumerate((0, 1, 1, 0))]
    frames = Assembler(np.random.default_rng(1)).assemble(table_of((DNS_CONVERSATION, packets)))
    assert frames.side.tolist() == [0, 1, 1, 0]
    assert frames.slice(1, 4).side.tolist() == [1, 1, 0]
    assert not frames.side.flags.writeable


def test_frames_of_no_known_side_are_of_side_0() -> None:
    octets = np.zeros(3, np.uint8)
    assert Frames(np.array([1, 2]), np.array([0, 1, 3]), octets).side.tolist() == [0, 0]
    with pytest.raises(ValueError, match="side must have 2 rows"):
        Frames(np.array([1, 2]), np.array([0, 1, 3]), octets, np.zeros(1, np.uint8))


def test_a_vlan_tag_stands_before_the_datagram() -> None:
    (frame,), _ = assembled(DNS_CONVERSATION | {"vlan_id": 7}, Packet(0, 0, 60))
    assert (frame[Dot1Q].vlan, len(frame)) == (7, 78)


@pytest.mark.parametrize(
    ("group", "mac"),
    [
        ("224.129.130.3", "01:00:5e:01:82:03"),
        ("255.255.255.255", "ff:ff:ff:ff:ff:ff"),
        ("ff02::1:ff00:7", "33:33:ff:00:00:07"),
    ],
)
def test_groups_have_group_macs(group: str, mac: str) -> None:
    version = 6 if ":" in group else 4
    fields = DNS_CONVERSATION | {"responder_address": group, "ip_version": version}
    if version == 6:
        fields["initiator_address"] = "fd00::1"
    (frame,), assembler = assembled(fields, Packet(0, 1, 100, ip_header_length=40 if version == 6 else 20))
    assert frame.dst == mac
    assert int(frame.src[:2], 16) & 3 == 2
    assert assembler.tally["group_source_turned"] == 1


def test_a_dns_query_and_its_answer_share_an_id_at_any_length() -> None:
    for length in range(47, 600, 7):
        (query, answer), assembler = assembled(DNS_CONVERSATION, Packet(0, 0, length), Packet(5, 1, length))
        assert query[DNS].id == answer[DNS].id
        assert (query[DNS].qr, answer[DNS].qr) == (0, 1)
        assert len(query) == 14 + length
        assert not assembler.tally


def test_a_datagram_longer_than_the_mtu_is_cut_and_counted() -> None:
    (frame,), assembler = assembled(DNS_CONVERSATION, Packet(0, 0, 1501))
    assert frame[IP].len == 1500
    assert assembler.tally == {"mtu_clamped": 1}


def test_a_datagram_shorter_than_its_headers_is_enlarged_and_counted() -> None:
    (frame,), assembler = assembled(DNS_CONVERSATION, Packet(0, 0, 3))
    assert frame[IP].len == 28
    assert assembler.tally == {"length_enlarged": 1}


def test_times_that_fall_are_raised_and_counted() -> None:
    frames, assembler = assembled(DNS_CONVERSATION, Packet(9, 0, 60), Packet(0, 1, 100))
    assert [frame[UDP].dport for frame in frames] == [53, 50_000]
    assert assembler.tally == {"time_raised": 1}


def test_a_silent_ttl_is_the_default() -> None:
    (frame,), assembler = assembled(DNS_CONVERSATION | {"responder_ttl": 0}, Packet(0, 1, 100))
    assert frame[IP].ttl == 64
    assert assembler.tally == {"ttl_defaulted": 1}


def test_echo_and_reply_share_id_and_number() -> None:
    rows = (Packet(0, 0, 84, 8 << 8), Packet(1, 1, 84), Packet(2, 0, 84, 8 << 8), Packet(3, 1, 84))
    frames, _ = assembled({"protocol_identifier": ICMP_NUMBER, "initiator_port": 0, "responder_port": 0}, *rows)
    assert [frame[ICMP].seq for frame in frames] == [1, 1, 2, 2]
    assert len({frame[ICMP].id for frame in frames}) == 1


def test_an_icmp_error_quotes_a_datagram_of_its_receiver() -> None:
    fields = {"protocol_identifier": ICMP_NUMBER, "initiator_port": 0, "responder_port": 0}
    (frame,), assembler = assembled(fields, Packet(0, 1, 30, 3 << 8 | 3))
    quoted = frame[IPerror]
    assert (quoted.src, quoted.dst) == ("10.0.0.1", "10.0.0.2")
    assert frame[UDPerror].len == quoted.len - 20
    assert assembler.tally == {"body_resized": 1}


def test_neighbour_discovery_has_hop_limit_255() -> None:
    fields = {
        "initiator_address": "fe80::1",
        "responder_address": "ff02::1:ff00:7",
        "ip_version": 6,
        "protocol_identifier": ICMPV6,
        "initiator_port": 0,
        "responder_port": 0,
    }
    (frame,), _ = assembled(fields, Packet(0, 0, 72, 135 << 8, ip_header_length=40))
    assert frame[IPv6].hlim == 255
    assert frame[ICMPv6ND_NS].tgt == "fe80::7"


def test_later_fragments_have_an_offset_and_no_ports() -> None:
    (frame,), _ = assembled(DNS_CONVERSATION | {"is_fragment": 1}, Packet(0, 0, 500))
    assert (frame[IP].frag, int(frame[IP].flags), UDP in frame) == (185, 0, False)


def test_sctp_carries_a_chunk_that_fills_it() -> None:
    (frame,), _ = assembled({"protocol_identifier": SCTP}, Packet(0, 0, 100))
    assert bytes(frame[IP].payload)[12:16] == bytes([4, 0, 0, 68])


def test_no_service_is_listed_twice() -> None:
    for transport, fills in (("tcp", TCP_FILLS), ("udp", UDP_FILLS), ("protocols", PROTOCOL_FILLS)):
        ports = [port for service in SERVICES for port in getattr(service, transport)]
        ports += [port for _, _, group in fills for port in group]
        assert len(ports) == len(set(ports))


def test_ports_without_a_service_have_row_zero() -> None:
    table = compile_services(SERVICES, TCP_FILLS, UDP_FILLS, PROTOCOL_FILLS)
    assert table.of_port[0, 50_123] == 0
    assert table.of_port[1, 53] == table.of_port[1, 5353] > 0


def test_an_mtu_below_576_is_refused() -> None:
    with pytest.raises(ValueError, match="got 500"):
        Assembler(np.random.default_rng(1), mtu=500)
