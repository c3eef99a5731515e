"""Packets to flow records: what ends a flow, what a record says."""

import numpy as np
import pytest
from made_traffic import CLIENT, MS, SERVER, START_NS, back, batch_of, connection, packet, tcp

from nsstream.trace import FlowEndReason, PacketBatch
from nsstream.trace.fields import ACK, FIN, ICMP, ICMPV6, PSH, RST, SYN, TCP, UDP
from nsstream.trace.metering import FlowMeter

SECOND_MS = 1000


def metered(*rows, **options):
    meter = FlowMeter(**options)
    ended = meter.push(batch_of(rows))
    return ended, meter.flush()


def reasons(table):
    return [FlowEndReason(int(r)) for r in table.flow_end_reason]


def test_no_packets_are_no_flows():
    meter = FlowMeter()
    assert (len(meter.push(PacketBatch.empty())), len(meter.advance_to(1 << 60)), len(meter.flush())) == (0, 0, 0)
    assert meter.now_ns is None


def test_a_record_says_key_times_and_counts():
    rows = [packet(t, octets=100, ip_class_of_service=40, vlan_id=12) for t in (3, 1, 9)]
    _, table = metered(*rows)
    assert len(table) == 1
    assert ((table.flow_start_ns - START_NS) // MS).tolist() == [1]
    assert ((table.flow_end_ns - START_NS) // MS).tolist() == [9]
    assert table.source_address[0].tobytes() == rows[0]["source_address"].tobytes()
    assert table.destination_address[0].tobytes() == rows[0]["destination_address"].tobytes()
    assert (int(table.source_transport_port[0]), int(table.destination_transport_port[0])) == (CLIENT[1], SERVER[1])
    assert (int(table.protocol_identifier[0]), int(table.ip_version[0]), int(table.vlan_id[0])) == (UDP, 4, 12)
    assert (int(table.packet_delta_count[0]), int(table.octet_delta_count[0])) == (3, 3 * 128)
    assert (int(table.ip_class_of_service[0]), int(table.sampling_interval[0])) == (40, 1)
    assert reasons(table) == [FlowEndReason.FORCED_END]


@pytest.mark.parametrize(
    "other",
    [
        packet(1, (CLIENT[0], 40_001)),
        packet(1, ("192.0.2.2", 40_000)),
        packet(1, SERVER, CLIENT),
        packet(1, vlan_id=4),
        packet(1, protocol=TCP),
        packet(1, ip_version=6),  # an IPv6 packet between mapped addresses
    ],
)
def test_another_way_port_address_protocol_version_or_vlan_is_another_flow(other):
    assert len(metered(packet(0), other)[1]) == 2


def test_class_of_service_parts_flows_only_when_asked():
    rows = packet(0), packet(1, ip_class_of_service=8)
    assert len(metered(*rows)[1]) == 1
    assert metered(*rows, by_class_of_service=True)[1].ip_class_of_service.tolist() == [0, 8]


def test_idle_flow_ends_when_the_clock_has_passed_its_timeout():
    late = packet(15 * SECOND_MS, ("192.0.2.7", 1))
    ended, _ = metered(packet(0), packet(1), late)
    assert len(ended) == 0
    late = packet(15 * SECOND_MS + 1, ("192.0.2.7", 1))
    ended, rest = metered(packet(0), packet(1), late)
    assert (reasons(ended), len(rest)) == ([FlowEndReason.IDLE_TIMEOUT], 1)


def test_long_flow_is_cut_at_the_active_timeout():
    rows = [packet(t * SECOND_MS) for t in range(31)]
    ended, rest = metered(*rows, active_timeout_s=20)
    assert reasons(ended) == [FlowEndReason.ACTIVE_TIMEOUT]
    assert (ended.packet_delta_count.tolist(), rest.packet_delta_count.tolist()) == ([20], [11])


def test_records_come_in_the_order_of_their_end():
    hosts = [(f"192.0.2.{i}", 9) for i in (1, 2, 3)]
    rows = [packet(t, host) for t, host in enumerate(hosts)] + [packet(10, hosts[0])]
    ended, _ = metered(*rows, packet(40 * SECOND_MS))
    assert [int(a[15]) for a in ended.source_address] == [2, 3, 1]


@pytest.mark.parametrize("is_biflow", [False, True])
def test_closed_connection_ends_after_its_last_acknowledgement(is_biflow):
    rows = connection(0, CLIENT, SERVER, 3)
    ended, rest = metered(*rows, packet(1100), is_biflow=is_biflow)
    assert set(reasons(ended)) == {FlowEndReason.END_OF_FLOW}
    assert len(ended) == 2 - is_biflow
    assert int(ended.scaled_packet_count.sum()) == len(rows)
    assert (ended.tcp_control_bits == SYN | ACK | FIN | PSH).all()
    assert len(rest) == 1


@pytest.mark.parametrize("is_biflow", [False, True])
def test_reset_ends_both_ways(is_biflow):
    rows = tcp(0, SYN), back(1, RST | ACK), packet(1100)
    ended, _ = metered(*rows, is_biflow=is_biflow)
    assert set(reasons(ended)) == {FlowEndReason.END_OF_FLOW}
    assert int(ended.scaled_packet_count.sum()) == 2


def test_one_fin_is_no_end():
    ended, rest = metered(tcp(0, FIN | ACK), tcp(1, FIN | ACK), packet(1100))
    assert (len(ended), len(rest)) == (0, 2)


def test_syn_on_an_ended_connection_begins_a_record_at_once():
    first, second = connection(0, CLIENT, SERVER, 1), connection(100, CLIENT, SERVER, 1)
    ended, rest = metered(*first, *second, is_biflow=True)
    assert reasons(ended) == [FlowEndReason.END_OF_FLOW]
    assert (int(ended.scaled_packet_count[0]), int(rest.scaled_packet_count[0])) == (len(first), len(second))


def test_biflow_is_forward_as_its_first_packet():
    for ends in (CLIENT, SERVER), (SERVER, CLIENT):
        _, table = metered(
            packet(0, *ends, octets=2), packet(1, *ends[::-1], octets=70), packet(2, *ends), is_biflow=True
        )
        assert len(table) == 1
        assert (int(table.source_transport_port[0]), int(table.destination_transport_port[0])) == (
            ends[0][1],
            ends[1][1],
        )
        assert (int(table.packet_delta_count[0]), int(table.octet_delta_count[0])) == (2, 58)
        assert (int(table.reverse_packet_delta_count[0]), int(table.reverse_octet_delta_count[0])) == (1, 98)


def test_biflow_parts_the_control_bits_by_way():
    _, table = metered(tcp(0, SYN), back(1, SYN | ACK), tcp(2, ACK | PSH), is_biflow=True)
    assert int(table.tcp_control_bits[0]) == SYN | ACK | PSH
    assert int(table.reverse_tcp_control_bits[0]) == SYN | ACK


def test_icmp_has_type_and_code_for_ports():
    ends = (CLIENT[0], 0), (SERVER[0], 0)
    six = ("2001:db8::1", 0), ("2001:db8::2", 0)
    rows = (
        packet(0, *ends, ICMP, icmp_type=8),
        packet(1, *ends[::-1], ICMP, icmp_type=0),
        packet(2, *ends, ICMP, icmp_type=3, icmp_code=4),
        packet(3, *six, ICMPV6, icmp_type=135),
    )
    _, table = metered(*rows)
    assert table.icmp_type_code.tolist() == [8 << 8, 0, 3 << 8 | 4, 135 << 8]
    assert not table.source_transport_port.any()
    assert not table.destination_transport_port.any()
    _, table = metered(*rows[:2], is_biflow=True)
    assert (table.icmp_type_code.tolist(), table.reverse_packet_delta_count.tolist()) == ([8 << 8], [1])


def test_later_fragments_join_the_flow_of_the_first():
    first = packet(0, octets=1480, fragment_flags=1, fragment_identification=77)
    rest = [
        packet(t, (CLIENT[0], 0), (SERVER[0], 0), fragment_offset=185 * t, fragment_identification=77) for t in (1, 2)
    ]
    stranger = packet(3, (CLIENT[0], 0), (SERVER[0], 0), fragment_offset=185, fragment_identification=78)
    _, table = metered(first, *rest, stranger)
    assert table.packet_delta_count.tolist() == [3, 1]
    assert table.destination_transport_port.tolist() == [SERVER[1], 0]


def test_fragments_are_forgotten_after_a_minute_and_beyond_the_room():
    first = packet(0, fragment_flags=1, fragment_identification=77)
    rest = packet(60_000, (CLIENT[0], 0), (SERVER[0], 0), fragment_offset=1, fragment_identification=77)
    table = metered(first, rest, idle_timeout_s=90)[1]
    assert table.packet_delta_count.tolist() == [1, 1]
    many = [packet(1, fragment_flags=1, fragment_identification=1000 + i) for i in range(4096)]
    soon = {**rest, "observation_time_ns": first["observation_time_ns"] + 2 * MS}
    assert metered(first, *many[:-1], soon)[1].packet_delta_count.tolist() == [4097]
    assert metered(first, *many, soon)[1].packet_delta_count.tolist() == [4097, 1]


def test_least_recently_used_flow_makes_room():
    hosts = [(f"192.0.2.{i}", 9) for i in (1, 2, 3)]
    ended, rest = metered(*(packet(t, hosts[i]) for t, i in enumerate([0, 1, 0, 2])), max_flows=2)
    assert reasons(ended) == [FlowEndReason.LACK_OF_RESOURCES]
    assert [int(a[15]) for a in ended.source_address] == [2]
    assert [int(a[15]) for a in rest.source_address] == [1, 3]


def test_far_step_back_in_time_ends_what_was_open_and_starts_the_clock_anew():
    meter = FlowMeter(active_timeout_s=60)
    assert len(meter.push(batch_of([packet(10**9), packet(10**9, SERVER, CLIENT)]))) == 0
    ended = meter.push(batch_of([packet(0), packet(1)]))
    assert reasons(ended) == [FlowEndReason.FORCED_END] * 2
    assert meter.clock_steps_back == 1
    assert meter.now_ns == START_NS + MS
    assert reasons(meter.advance_to(START_NS + 20_000 * MS)) == [FlowEndReason.IDLE_TIMEOUT]


def test_small_step_back_is_counted_where_it_belongs():
    ended, rest = metered(packet(10_000), packet(0), packet(5_000))
    assert (len(ended), rest.packet_delta_count.tolist()) == (0, [3])
    assert (rest.flow_end_ns - rest.flow_start_ns).tolist() == [10_000 * MS]


def test_clock_can_be_moved_without_packets_and_never_back():
    meter = FlowMeter()
    meter.push(batch_of([packet(0), packet(1, SERVER, CLIENT)]))
    assert len(meter.advance_to(START_NS + 15_000 * MS)) == 1
    assert len(meter.advance_to(START_NS)) == 0
    assert meter.now_ns == START_NS + 15_000 * MS
    assert len(meter.advance_to(START_NS + 15_001 * MS)) == 1
    assert meter.open_flow_count == 0
    assert meter.ended[FlowEndReason.IDLE_TIMEOUT] == 2


def test_more_records_than_one_call_holds_come_in_one_table():
    n = 20_000
    columns = {name: column.copy() for name, column in PacketBatch.empty(n).columns().items()}
    columns["observation_time_ns"][:] = START_NS
    columns["source_transport_port"][:] = np.arange(n)
    columns["ip_total_length"][:] = 40
    meter = FlowMeter()
    assert len(meter.push(PacketBatch.from_columns(columns))) == 0
    assert meter.open_flow_count == n
    table = meter.push(batch_of([packet(60_000)]))
    assert table.source_transport_port.tolist() == list(range(n))
    assert len(meter.flush()) == 1


def test_times_at_the_end_of_an_int64_do_not_wrap():
    last = np.iinfo(np.int64).max - START_NS
    ended, rest = metered(packet(0), {**packet(0), "observation_time_ns": START_NS + last}, packet(1))
    assert reasons(ended) == [FlowEndReason.IDLE_TIMEOUT, FlowEndReason.FORCED_END]
    assert len(rest) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"idle_timeout_s": 0},
        {"idle_timeout_s": 20, "active_timeout_s": 10},
        {"active_timeout_s": float("nan")},
        {"active_timeout_s": 1e10},
        {"linger_s": -1},
        {"linger_s": 16},
        {"max_flows": 0},
        {"max_flows": 1 << 27},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        FlowMeter(**options)


def test_thousands_of_open_flows_are_told_apart_and_found_again():
    """More than the buckets that a meter begins with, several times over; some end in between, and make room."""
    ends = [(f"192.0.2.{i % 250}", 1000 + i // 250) for i in range(10_000)]
    meter = FlowMeter(idle_timeout_s=5, max_flows=10_000)
    early = meter.push(batch_of(packet(0, end) for end in ends[:3000]))
    late = meter.push(batch_of(packet(6000, end) for end in ends + ends[::-1]))
    assert (len(early), len(late), meter.open_flow_count) == (0, 3000, 10_000)
    flows = meter.flush()
    assert flows.packet_delta_count.tolist() == [2] * 10_000
    assert flows.source_transport_port.tolist() == [port for _, port in ends]
    assert meter.ended[FlowEndReason.LACK_OF_RESOURCES] == 0
