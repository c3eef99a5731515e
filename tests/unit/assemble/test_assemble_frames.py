"""Frames around the transport: link, IP, ICMP, services, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from made_tables import Packet, table_of
from scapy.layers.dns import DNS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror, defragment
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6, IPv6ExtHdrFragment, defragment6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.utils import checksum

from nsstream.assemble import Assembler, Frames
from nsstream.assemble.catalogue import SERVICES
from nsstream.assemble.fills import PROTOCOL_FILLS, TCP_FILLS, UDP_FILLS
from nsstream.assemble.services import compile_services
from nsstream.trace.fields import ICMP as ICMP_NUMBER
from nsstream.trace.fields import ICMPV6, SCTP
from nsstream.trace.fields import TCP as TCP_NUMBER
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


@pytest.mark.parametrize("mtu", [576, 1500, 9000])
def test_a_syn_offers_segments_as_long_as_the_mtu_allows(mtu: int) -> None:
    (syn,), _ = assembled({}, Packet(0, 0, 60, 0x02, 40), mtu=mtu)
    assert dict(syn[TCP].options)["MSS"] == mtu - 40


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


def test_a_directed_broadcast_goes_to_everybody_s_mac_and_a_host_that_answers_has_its_own() -> None:
    fields: dict[str, object] = DNS_CONVERSATION | {"responder_address": "10.3.4.255", "responder_port": 138}
    (frame,), _ = assembled(fields, Packet(0, 0, 200))
    assert frame.dst == "ff:ff:ff:ff:ff:ff"
    (asked, answer), _ = assembled(fields, Packet(0, 0, 200), Packet(1, 1, 200))
    assert asked.dst == answer.src != "ff:ff:ff:ff:ff:ff"


def test_a_dns_query_and_its_answer_share_an_id_at_any_length() -> None:
    for length in range(47, 600, 7):
        (query, answer), assembler = assembled(DNS_CONVERSATION, Packet(0, 0, length), Packet(5, 1, length))
        assert query[DNS].id == answer[DNS].id
        assert (query[DNS].qr, answer[DNS].qr) == (0, 1)
        assert len(query) == 14 + length
        assert not assembler.tally


def test_a_client_that_asks_on_in_the_next_table_does_not_ask_under_the_same_ids() -> None:
    assembler = Assembler(np.random.default_rng(1))
    asked = []
    for k in range(20):
        packets = [Packet(1000 * k + i, i % 2, 80) for i in range(6)]
        frames = assembler.assemble(table_of((DNS_CONVERSATION, packets)))
        ids = [Ether(frames.frame(i))[DNS].id for i in range(6)]
        assert ids[0::2] == ids[1::2]
        asked += ids[0::2]
    assert len(set(asked)) == 60


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


def test_an_icmp_error_quotes_what_its_receiver_sent_before() -> None:
    error = {"protocol_identifier": ICMP_NUMBER, "initiator_port": 0, "responder_port": 0}
    asked = {"protocol_identifier": UDP_NUMBER, "responder_port": 4_321}
    elsewhere = asked | {"responder_address": "10.0.0.9"}
    for length in (36, 68, 400):
        table = table_of(
            (asked, [Packet(0, 0, 100), Packet(40, 0, 120)]),
            (elsewhere, [Packet(5, 0, 90)]),
            (error, [Packet(10, 1, 20 + length, 3 << 8 | 3)]),
        )
        assembler = Assembler(np.random.default_rng(1))
        frames = assembler.assemble(table)
        about, _, quoting = frames.frame(0), frames.frame(1), frames.frame(2)
        assert quoting[42:] == about[14:][: length - 8]
        assert assembler.tally == ({} if length < 100 else {"body_resized": 1})


def test_a_router_quotes_what_was_sent_to_another() -> None:
    error = {"protocol_identifier": ICMP_NUMBER, "responder_address": "10.0.0.254"}
    table = table_of(({"responder_port": 4_321}, [Packet(0, 0, 60, 2, 40)]), (error, [Packet(10, 1, 56, 11 << 8)]))
    frames = Assembler(np.random.default_rng(1)).assemble(table)
    assert frames.frame(1)[42:] == frames.frame(0)[14:42]


def test_an_icmp_error_to_a_host_that_sent_nothing_quotes_a_datagram_that_is_made_up() -> None:
    fields = {"protocol_identifier": ICMP_NUMBER, "initiator_port": 0, "responder_port": 0}
    (frame,), assembler = assembled(fields, Packet(0, 1, 30, 3 << 8 | 3))
    quoted = frame[IPerror]
    assert (quoted.src, quoted.dst) == ("10.0.0.1", "10.0.0.2")
    assert frame[UDPerror].len == quoted.len - 20
    assert assembler.tally == {"body_resized": 1, "quote_invented": 1}


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


@pytest.mark.parametrize(
    "fields",
    [
        {"protocol_identifier": UDP_NUMBER, "responder_port": 50_001},
        {"protocol_identifier": ICMP_NUMBER},
        DNS_CONVERSATION,
    ],
)
def test_fragments_of_a_long_datagram_reassemble(fields: dict[str, object]) -> None:
    control = 8 << 8 if fields["protocol_identifier"] == ICMP_NUMBER else 0
    later = fields | {"is_fragment": 1, "initiator_port": 0, "responder_port": 0}
    parts = [Packet(5, 0, 1500), Packet(6, 0, 1500), Packet(7, 0, 333)]
    assembler = Assembler(np.random.default_rng(1))
    frames = assembler.assemble(table_of((fields, [Packet(0, 0, 1500, control)]), (later, parts)))
    (whole,) = defragment([Ether(frames.frame(i)) for i in range(len(frames))])
    datagram = whole[IP]
    assert len(datagram) == 3 * 1480 + 313 + 20
    body = bytes(datagram.payload)
    if fields["protocol_identifier"] == UDP_NUMBER:
        assert datagram[UDP].len == len(body)
        pseudo = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 17]) + len(body).to_bytes(2, "big")
        assert checksum(pseudo + body) == 0
    else:
        assert checksum(body) == 0
    assert not assembler.tally


@pytest.mark.parametrize("protocol", [UDP_NUMBER, ICMPV6])
def test_fragments_of_a_long_ipv6_datagram_reassemble(protocol: int) -> None:
    fields: dict[str, object] = {
        "protocol_identifier": protocol, "ip_version": 6, "responder_port": 50_001,
        "initiator_address": "fd00::1", "responder_address": "fd00::2",
    }  # fmt: skip
    control = 128 << 8 if protocol == ICMPV6 else 0
    later = fields | {"is_fragment": 1, "initiator_port": 0, "responder_port": 0}
    parts = [Packet(5, 0, 1496, ip_header_length=48), Packet(6, 0, 333, ip_header_length=48)]
    assembler = Assembler(np.random.default_rng(1))
    first = Packet(0, 0, 1496, control, ip_header_length=48)
    frames = assembler.assemble(table_of((fields, [first]), (later, parts)))
    (whole,) = defragment6([Ether(frames.frame(i))[IPv6] for i in range(len(frames))])
    body = bytes(whole[IPv6].payload)
    assert len(body) == 2 * 1448 + 285
    pseudo = bytes.fromhex("fd00" + 13 * "00" + "01" + "fd00" + 13 * "00" + "02")
    assert checksum(pseudo + len(body).to_bytes(4, "big") + bytes([0, 0, 0, protocol]) + body) == 0
    assert not assembler.tally


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [UDP_NUMBER, "echo"])
def test_datagrams_beyond_the_mtu_are_sent_as_fragments_that_reassemble(version: int, protocol: object) -> None:
    fields: dict[str, object] = {"protocol_identifier": UDP_NUMBER, "responder_port": 50_001, "ip_version": version}
    control, header = 0, 20 if version == 4 else 40
    if protocol == "echo":
        fields |= {"protocol_identifier": ICMP_NUMBER if version == 4 else ICMPV6}
        control = (8 if version == 4 else 128) << 8
    if version == 6:
        fields |= {"initiator_address": "fd00::1", "responder_address": "fd00::2"}
    lengths = [4000, 100, 1501, 9000]
    packets = [Packet(10 * k, 0, length, control, ip_header_length=header) for k, length in enumerate(lengths)]
    assembler = Assembler(np.random.default_rng(1), oversize="segment")
    frames = assembler.assemble(table_of((fields, packets)))
    assert max(np.diff(frames.offset)) <= 1514
    sent = [Ether(frames.frame(i)) for i in range(len(frames))]
    if version == 4:
        bodies = [bytes(frame[IP].payload) for frame in defragment(sent)]
    else:
        bodies = [bytes(frame[IPv6].payload) for frame in sent if IPv6ExtHdrFragment not in frame]
        parts = [frame[IPv6] for frame in sent if IPv6ExtHdrFragment in frame]
        for number in {part[IPv6ExtHdrFragment].id for part in parts}:
            (whole,) = defragment6([part for part in parts if part[IPv6ExtHdrFragment].id == number])
            bodies.append(bytes(whole.payload))
    assert sorted(map(len, bodies)) == sorted(length - header for length in lengths)
    if protocol == UDP_NUMBER:
        assert all(int.from_bytes(body[4:6], "big") == len(body) for body in bodies)
    elif version == 4:
        assert all(checksum(body) == 0 for body in bodies)
    assert assembler.tally == {"fragmented": 3}


def test_ipv6_without_room_for_a_fragment_header_is_no_first_fragment() -> None:
    fields: dict[str, object] = DNS_CONVERSATION | {
        "ip_version": 6, "initiator_address": "fd00::1", "responder_address": "fd00::2",
    }  # fmt: skip
    later = (fields | {"is_fragment": 1}, [Packet(5, 0, 500, ip_header_length=48)])
    assembler = Assembler(np.random.default_rng(1))
    frames = assembler.assemble(table_of((fields, [Packet(0, 0, 1496, ip_header_length=40)]), later))
    assert Ether(frames.frame(1))[IPv6ExtHdrFragment].offset == 185
    assert assembler.tally == {"fragment_alone": 1}


def test_a_fragment_of_nothing_stays_alone_and_is_counted() -> None:
    fields = DNS_CONVERSATION | {"is_fragment": 1}
    short = (DNS_CONVERSATION, [Packet(0, 0, 301)])
    assembler = Assembler(np.random.default_rng(1))
    frames = assembler.assemble(table_of(short, (fields, [Packet(9, 0, 500)])))
    assert Ether(frames.frame(1))[IP].frag == 185
    assert assembler.tally == {"fragment_alone": 1}


def test_sctp_carries_a_chunk_that_fills_it() -> None:
    (frame,), _ = assembled({"protocol_identifier": SCTP}, Packet(0, 0, 100))
    assert bytes(frame[IP].payload)[12:16] == bytes([4, 0, 0, 68])


WEB = {"protocol_identifier": TCP_NUMBER, "responder_port": 443}
ELSEWHERE = {"protocol_identifier": UDP_NUMBER, "responder_port": 50_001}


def payload_of(kind: str, fields: dict[str, object], side: int = 0) -> bytes:
    is_tcp = fields["protocol_identifier"] == TCP_NUMBER
    packet = Packet(0, side, 20 + 20 + 300, 16, 20) if is_tcp else Packet(0, side, 20 + 8 + 300)
    frames = Assembler(np.random.default_rng(1), payload=kind).assemble(table_of((fields, [packet])))
    return frames.frame(0)[-300:]


def test_payload_of_kind_zero_is_zeros_whatever_the_port() -> None:
    for fields in (WEB, ELSEWHERE, DNS_CONVERSATION):
        assert payload_of("zero", fields) == bytes(300)


def test_payload_of_kind_random_keeps_the_heads_of_messages() -> None:
    assert len(set(payload_of("random", ELSEWHERE))) > 100
    assert payload_of("random", WEB)[:5] == payload_of("template", WEB)[:5] == bytes.fromhex("170303 0127")
    assert len(set(payload_of("random", WEB)[5:])) > 100
    assert payload_of("random", DNS_CONVERSATION, 0) == payload_of("template", DNS_CONVERSATION, 0)


def test_an_unknown_kind_of_payload_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'noise'"):
        payload_of("noise", WEB)


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
