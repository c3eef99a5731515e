"""Packets to conversations: who belongs together, who began, what is still open."""

import numpy as np
import pytest
from made_traffic import CLIENT, SERVER, back, batch_of, connection, octets_of, packet, tcp

from nsstream.trace import PacketBatch
from nsstream.trace.fields import ACK, FIN, ICMP, ICMPV6, PSH, RST, SCTP, SYN, TCP, UDP
from nsstream.trace.grouping import OpenConversations, group_conversations


def table_of(*rows, before=None):
    return group_conversations(batch_of(rows), before)[0]


def initiator_of(table, i=0):
    return table.initiator_address[i].tobytes(), int(table.initiator_port[i])


def end(endpoint):
    return octets_of(endpoint[0]).tobytes(), endpoint[1]


def test_no_packets_are_no_conversations():
    table, left = group_conversations(PacketBatch.empty())
    assert (len(table), len(left)) == (0, 0)


def test_both_directions_are_one_conversation_with_a_direction_a_packet():
    table = table_of(packet(0), packet(1, SERVER, CLIENT), packet(2))
    assert len(table) == 1
    assert table.direction.tolist() == [0, 1, 0]
    assert initiator_of(table) == end(CLIENT)
    assert (table.responder_address[0].tobytes(), int(table.responder_port[0])) == end(SERVER)


@pytest.mark.parametrize(
    "other",
    [
        packet(1, (CLIENT[0], 40_001)),
        packet(1, ("192.0.2.2", 40_000)),
        packet(1, CLIENT, (SERVER[0], 81)),
        packet(1, CLIENT, ("198.51.100.3", 80)),
        packet(1, protocol=SCTP),
        packet(1, (SERVER[0], 40_000), (CLIENT[0], 80)),
    ],
)
def test_another_port_address_or_protocol_is_another_conversation(other):
    assert len(table_of(packet(0), other)) == 2


def test_a_host_that_talks_to_itself_is_one_conversation():
    table = table_of(packet(0, CLIENT, CLIENT), packet(1, CLIENT, CLIENT))
    assert (len(table), table.direction.tolist()) == (1, [0, 0])


def test_conversations_stand_in_order_of_their_first_packet_whatever_the_order_of_rows():
    rows = [packet(5, ("192.0.2.5", 5000)), packet(1, ("192.0.2.9", 5000)), packet(3), packet(0.5, ("192.0.2.5", 5000))]
    table = table_of(*rows)
    first = table.observation_time_ns[table.packet_offset[:-1]]
    assert (np.diff(first) > 0).all()
    assert [int(a[15]) for a in table.initiator_address] == [5, 9, 1]


def test_later_fragments_are_apart_from_the_ports_of_the_first():
    first = packet(0, octets=1480, fragment_flags=1)
    rest = [packet(t, (CLIENT[0], 0), (SERVER[0], 0), fragment_offset=185 * t) for t in (1, 2)]
    table = table_of(first, *rest)
    assert table.is_fragment.tolist() == [0, 1]
    assert table.packet_count.tolist() == [1, 2]


def test_a_later_fragment_of_tcp_tells_no_flags():
    table = table_of(tcp(0, 0x55, fragment_offset=100))
    assert (int(table.control[0]), int(table.tcp_header_length[0])) == (0, 0)


@pytest.mark.parametrize(
    ("first", "initiator"),
    [
        (tcp(0, SYN), CLIENT),
        (tcp(0, SYN, ends=(SERVER, CLIENT)), SERVER),  # even from a service port
        (back(0, SYN | ACK), CLIENT),
        (tcp(0, SYN | ACK), SERVER),
        (back(0, ACK | PSH, octets=10), CLIENT),  # from a service
        (tcp(0, ACK), CLIENT),
        (packet(0, SERVER, CLIENT), CLIENT),
        (packet(0, CLIENT, SERVER), CLIENT),
        (packet(0, ("192.0.2.1", 5000), ("192.0.2.2", 6000)), ("192.0.2.1", 5000)),
        (packet(0, ("192.0.2.9", 5000), ("192.0.2.2", 6000)), ("192.0.2.9", 5000)),
        (packet(0, ("192.0.2.1", 53), ("192.0.2.2", 53)), ("192.0.2.1", 53)),
    ],
)
def test_the_first_packet_says_who_began(first, initiator):
    table = table_of(first)
    assert initiator_of(table) == end(initiator)
    assert table.direction.tolist() == [int(first["source_address"].tobytes() != octets_of(initiator[0]).tobytes())]


def test_who_began_is_carried_over_from_the_chunk_before():
    ends = ("192.0.2.9", 5000), ("192.0.2.2", 6000)
    _, left = group_conversations(batch_of([packet(0, *ends)]))
    table = table_of(packet(60_000, *ends[::-1]), packet(60_001, *ends), before=left)
    assert initiator_of(table) == end(ends[0])
    assert table.direction.tolist() == [1, 0]
    assert table.continues_from_before.tolist() == [1]


def test_only_what_was_open_before_continues():
    closed = connection(0, ("192.0.2.1", 5000), SERVER, 1)
    opened = connection(0, ("192.0.2.2", 5000), SERVER, 1, is_closed=False)
    _, left = group_conversations(batch_of(closed + opened))
    later = [tcp(60_000, ACK, 181, 2000, ends=((f"192.0.2.{i}", 5000), SERVER)) for i in (1, 2, 3)]
    assert table_of(*later, before=left).continues_from_before.tolist() == [0, 1, 0]


def test_nothing_is_known_without_a_chunk_before():
    assert table_of(packet(0)).continues_from_before.tolist() == [0]
    assert table_of(packet(0), before=OpenConversations()).continues_from_before.tolist() == [0]


@pytest.mark.parametrize(
    ("rows", "is_open"),
    [
        (connection(0, CLIENT, SERVER, 2), 0),
        (connection(0, CLIENT, SERVER, 2, is_closed=False), 1),
        ([tcp(0, SYN, 9), back(1, RST | ACK, 0, 10)], 0),
        ([tcp(0, FIN | ACK, 100, 50), tcp(1, FIN | ACK, 100, 50)], 1),  # one side alone
        ([tcp(0, FIN | ACK, 100, 50), back(1, FIN | ACK, 50, 101)], 0),
        ([tcp(0, FIN | ACK, 100, 50), back(1, FIN | ACK, 50, 101), tcp(2, ACK, 101, 51)], 0),
        ([tcp(0, RST, 100), tcp(9, SYN, 7000)], 1),  # begun anew
        ([packet(0), packet(1, SERVER, CLIENT)], 1),  # UDP never closes
    ],
)
def test_tcp_is_open_until_both_sides_sent_fin_or_one_sent_rst(rows, is_open):
    table, left = group_conversations(batch_of(rows))
    assert table.is_open_at_end.tolist() == [is_open]
    assert len(left) == is_open


def test_ttl_and_marking_are_of_the_middle_packet_in_each_direction():
    table = table_of(
        packet(0, ip_ttl=99, vlan_id=7),
        packet(1, SERVER, CLIENT, ip_ttl=250),
        packet(2, ip_ttl=61, ip_class_of_service=4),
        packet(3, SERVER, CLIENT, ip_ttl=50, ip_class_of_service=8),
        packet(4, SERVER, CLIENT, ip_ttl=1),
        packet(5, ("192.0.2.7", 5000), ip_ttl=30),
    )
    assert table.initiator_ttl.tolist() == [61, 30]
    assert table.responder_ttl.tolist() == [50, 0]
    assert table.initiator_class_of_service.tolist() == [4, 0]
    assert table.responder_class_of_service.tolist() == [8, 0]
    assert table.vlan_id.tolist() == [7, 0]


def test_the_ttl_of_a_servers_syn_is_kept_apart():
    """A proxy in front of a server answers SYNs, and all else comes from behind it."""
    proxied = [
        tcp(0, SYN),
        back(1, SYN | ACK, ip_ttl=38),
        tcp(2, ACK),
        back(3, ACK, ip_ttl=230),
        back(4, ACK, ip_ttl=230),
    ]
    begun_before = [back(1, ACK, ip_ttl=38), back(2, ACK, ip_ttl=230)]
    for rows, ttls in ((proxied, (38, 230)), (begun_before, (230, 230)), ([tcp(0, SYN)], (0, 0))):
        table = table_of(*rows)
        assert (table.responder_syn_ttl.tolist(), table.responder_ttl.tolist()) == ([ttls[0]], [ttls[1]])


def test_a_conversation_of_answers_alone_has_no_ttl_of_its_initiator():
    table = table_of(back(0, SYN | ACK))
    assert (table.initiator_ttl.tolist(), table.responder_ttl.tolist()) == ([0], [64])


def test_control_is_flags_for_tcp_type_and_code_for_icmp_and_zero_for_all_else():
    six = ("2001:db8::1", 0), ("2001:db8::2", 0)
    table = table_of(
        tcp(0, SYN | 0x100),  # the reserved bits are not kept
        packet(1, (CLIENT[0], 0), (SERVER[0], 0), ICMP, icmp_type=3, icmp_code=1),
        packet(2, *six, ICMPV6, icmp_type=135),
        packet(3, protocol=UDP, tcp_control_bits=0x12, icmp_type=9),
    )
    assert table.control.tolist() == [SYN, 3 << 8 | 1, 135 << 8, 0]
    assert table.ip_version.tolist() == [4, 4, 6, 4]
    assert table.protocol_identifier.tolist() == [TCP, ICMP, ICMPV6, UDP]
    assert table.tcp_header_length.tolist() == [20, 0, 0, 0]


def test_more_conversations_than_the_table_begins_with_are_told_apart():
    n = 5000
    columns = {name: column.copy() for name, column in batch_of([packet(0)] * n).columns().items()}
    columns["source_transport_port"][:] = np.arange(n) % 2500
    table = group_conversations(PacketBatch.from_columns(columns))[0]
    assert table.packet_count.tolist() == [2] * 2500
    ports = np.stack([table.initiator_port, table.responder_port], axis=1)
    theirs = np.where(ports[:, 0] == SERVER[1], ports[:, 1], ports[:, 0])
    assert sorted(theirs.tolist()) == list(range(2500))
