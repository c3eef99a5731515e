"""Records of v5, v9 and IPFIX become flows: keys, counts, and what is in which column."""

from __future__ import annotations

import socket

import pytest
from made_exports import (
    BASE,
    EXPORTER,
    NOW_NS,
    NOW_S,
    OTHER_EXPORTER,
    REVERSE,
    VARIABLE,
    Field,
    address,
    arrays,
    data_set,
    decode,
    ipfix,
    options_template_set,
    record,
    reverse,
    rows,
    template_set,
    v5,
    v5_record,
    v9,
)

from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder

VERSIONS = [9, 10]


def message(version: int, *sets: bytes) -> bytes:
    return v9(*sets) if version == 9 else ipfix(*sets)


def one(
    fields: tuple[Field, ...],
    values: dict[int, int | bytes] | None = None,
    version: int = 10,
    decoder: ExportDecoder | None = None,
) -> dict[str, object]:
    """The one flow of a record of these fields."""
    sets = template_set(version, 256, fields), data_set(256, record(fields, values))
    (row,) = rows(decode(message(version, *sets), decoder=decoder))
    return row


def refused(fields: tuple[Field, ...], values: dict[int, int | bytes] | None = None) -> dict[str, int]:
    """Why the one record of these fields is no flow."""
    decoder = ExportDecoder()
    sets = template_set(10, 256, fields), data_set(256, record(fields, values))
    assert len(decode(ipfix(*sets), decoder=decoder)) == 0
    return dict(decoder.tally.unsupported)


def test_v5_record_fills_every_column_that_v5_has() -> None:
    (row,) = rows(decode(v5(v5_record(), nanoseconds=250, sampling=0x4000 | 100)))
    assert row == {
        "flow_start_ns": NOW_NS + 250 - 100 * 10**9,
        "flow_end_ns": NOW_NS + 250 - 50 * 10**9,
        "ip_version": 4,
        "source_address": address("10.0.0.1"),
        "destination_address": address("10.0.0.2"),
        "protocol_identifier": 6,
        "source_transport_port": 40000,
        "destination_transport_port": 443,
        "icmp_type_code": 0,
        "packet_delta_count": 5,
        "octet_delta_count": 700,
        "tcp_control_bits": 0x1B,
        "reverse_packet_delta_count": 0,
        "reverse_octet_delta_count": 0,
        "reverse_tcp_control_bits": 0,
        "ip_class_of_service": 0x28,
        "flow_end_reason": 0,
        "flow_direction": 255,
        "ingress_interface": 3,
        "egress_interface": 4,
        "bgp_source_as_number": 64500,
        "bgp_destination_as_number": 64501,
        "source_prefix_length": 24,
        "destination_prefix_length": 16,
        "ip_next_hop_address": address("10.0.0.254"),
        "vlan_id": 0,
        "sampling_interval": 100,
        "exporter_address": EXPORTER,
        "observation_domain_id": 1 << 8 | 2,
        "time_quality": 0,
        "label": 0,
    }


def test_v5_count_beyond_the_datagram_is_a_cut_record_and_the_rest_is_read() -> None:
    decoder = ExportDecoder()
    flows = decode(v5(v5_record(), v5_record(), count=3), decoder=decoder)
    assert len(flows) == 2
    assert dict(decoder.tally.malformed) == {"cut_record": 1}


def test_v5_octets_behind_its_count_are_not_read() -> None:
    assert len(decode(v5(v5_record(), v5_record(), count=1))) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_template_says_where_the_fields_are(version: int) -> None:
    row = one(BASE, version=version)
    assert row["source_address"] == address("10.0.0.1")
    assert row["destination_address"] == address("10.0.0.2")
    assert (row["protocol_identifier"], row["source_transport_port"], row["destination_transport_port"]) == (
        6,
        40000,
        443,
    )
    assert (row["packet_delta_count"], row["octet_delta_count"]) == (5, 700)
    assert (row["ip_version"], row["observation_domain_id"], row["exporter_address"]) == (4, 7, EXPORTER)


@pytest.mark.parametrize("version", VERSIONS)
def test_all_other_columns_are_read(version: int) -> None:
    fields: tuple[Field, ...] = (
        *BASE, (6, 2), (5, 1), (136, 1), (61, 1), (10, 4), (14, 2), (16, 4), (17, 2), (9, 1), (13, 1), (15, 4), (58, 2),
    )  # fmt: skip
    row = one(
        fields,
        {6: 0x0112, 5: 0xB8, 136: 3, 61: 1, 10: 70000, 14: 9, 16: 4200000000, 17: 3, 9: 24, 13: 8,
         15: socket.inet_aton("10.0.0.254"), 58: 42},
        version,
    )  # fmt: skip
    assert row["tcp_control_bits"] == 0x0112
    assert row["ip_class_of_service"] == 0xB8
    assert (row["flow_end_reason"], row["flow_direction"]) == (3, 1)
    assert (row["ingress_interface"], row["egress_interface"]) == (70000, 9)
    assert (row["bgp_source_as_number"], row["bgp_destination_as_number"]) == (4200000000, 3)
    assert (row["source_prefix_length"], row["destination_prefix_length"]) == (24, 8)
    assert row["ip_next_hop_address"] == address("10.0.0.254")
    assert row["vlan_id"] == 42


@pytest.mark.parametrize("version", VERSIONS)
def test_ipv6_record(version: int) -> None:
    fields: tuple[Field, ...] = ((27, 16), (28, 16), (29, 1), (30, 1), (62, 16), (2, 8), (1, 8))
    values = {
        27: address("2001:db8::1"),
        28: address("2001:db8::2"),
        29: 64,
        30: 48,
        62: address("fe80::1"),
        2: 1,
        1: 80,
    }
    row = one(fields, values, version)
    assert row["ip_version"] == 6
    assert (row["source_address"], row["destination_address"]) == (address("2001:db8::1"), address("2001:db8::2"))
    assert (row["source_prefix_length"], row["destination_prefix_length"]) == (64, 48)
    assert row["ip_next_hop_address"] == address("fe80::1")


def test_counts_use_all_64_bits() -> None:
    fields: tuple[Field, ...] = ((8, 4), (12, 4), (2, 8), (1, 8))
    row = one(fields, {2: 2**63 + 1, 1: 2**64 - 1})
    assert (row["packet_delta_count"], row["octet_delta_count"]) == (2**63 + 1, 2**64 - 1)


@pytest.mark.parametrize("octets", [1, 2, 3, 4, 5, 6, 7, 8])
def test_reduced_size_encoding_of_any_size(octets: int) -> None:
    fields: tuple[Field, ...] = ((8, 4), (12, 4), (2, octets), (1, octets))
    row = one(fields, {2: 200, 1: 256**octets - 1})
    assert (row["packet_delta_count"], row["octet_delta_count"]) == (200, 256**octets - 1)


class TestBothFamiliesInOneTemplate:
    FIELDS: tuple[Field, ...] = ((8, 4), (12, 4), (27, 16), (28, 16), (2, 4), (1, 4))

    def test_ip_version_decides(self) -> None:
        fields = (*self.FIELDS, (60, 1))
        values: dict[int, int | bytes] = {27: address("2001:db8::1"), 28: address("2001:db8::2")}
        assert one(fields, values | {60: 6})["source_address"] == address("2001:db8::1")
        assert one(fields, values | {60: 4})["source_address"] == address("10.0.0.1")

    def test_the_family_that_is_not_zero_decides_where_no_version_does(self) -> None:
        assert one(self.FIELDS)["ip_version"] == 4
        six = one(self.FIELDS, {8: 0, 12: 0, 27: address("2001:db8::1")})
        assert (six["ip_version"], six["source_address"]) == (6, address("2001:db8::1"))

    def test_of_two_headers_the_outer_one_comes_first(self) -> None:
        # Huawei's and Cisco's SRv6: IPv6 with protocol 4, then the IPv4 header inside with its ports
        outer: tuple[Field, ...] = ((27, 16), (28, 16), (2, 4), (1, 4), (4, 1), (7, 2), (11, 2))
        inner: tuple[Field, ...] = ((8, 4), (12, 4), (4, 1), (7, 2), (11, 2))
        six: dict[int, int | bytes] = {27: address("2001:db8::1"), 28: address("2001:db8::2")}
        octets = record(outer, six | {4: 4, 7: 0, 11: 0}) + record(inner, {4: 17})
        (row,) = rows(decode(ipfix(template_set(10, 256, (*outer, *inner)), data_set(256, octets))))
        assert (row["ip_version"], row["source_address"]) == (6, address("2001:db8::1"))
        assert (row["protocol_identifier"], row["source_transport_port"]) == (4, 0)

    def test_a_first_family_that_is_zero_gives_way(self) -> None:
        fields: tuple[Field, ...] = ((27, 16), (28, 16), (8, 4), (12, 4), (2, 4), (1, 4))
        assert one(fields)["ip_version"] == 4
        assert one(fields, {28: address("::1")})["ip_version"] == 6


class TestVariableLength:
    def test_fields_of_variable_length_are_skipped(self) -> None:
        fields: tuple[Field, ...] = ((96, VARIABLE), *BASE, (371, VARIABLE))
        records = [
            record(fields, {96: b"http", 11: 80}),
            record(fields, {96: bytes(300), 371: b"user", 11: 81}),
            record(fields, {11: 82}),
        ]
        flows = decode(ipfix(template_set(10, 256, fields), data_set(256, *records)))
        assert flows.destination_transport_port.tolist() == [80, 81, 82]

    def test_integer_of_variable_length_is_read(self) -> None:
        fields: tuple[Field, ...] = ((8, 4), (12, 4), (2, VARIABLE), (1, VARIABLE))
        row = one(fields, {2: b"\x07", 1: b"\x01\x00\x00"})
        assert (row["packet_delta_count"], row["octet_delta_count"]) == (7, 65536)

    def test_v9_may_use_it_too(self) -> None:
        fields: tuple[Field, ...] = (*BASE, (96, VARIABLE))
        assert one(fields, {96: b"varstring"}, version=9)["packet_delta_count"] == 5

    def test_record_that_leaves_its_set_is_cut(self) -> None:
        fields: tuple[Field, ...] = (*BASE, (96, VARIABLE))
        cut = record(fields, {96: b"12345678"})[:-3]
        decoder = ExportDecoder()
        flows = decode(ipfix(template_set(10, 256, fields), data_set(256, record(fields), cut)), decoder=decoder)
        assert len(flows) == 1
        assert dict(decoder.tally.malformed) == {"cut_record": 1}

    def test_padding_behind_records_of_variable_length_is_no_record(self) -> None:
        fields: tuple[Field, ...] = (*BASE, (96, VARIABLE))
        decoder = ExportDecoder()
        sets = template_set(10, 256, fields), data_set(256, record(fields, {96: b"x"}), padding=bytes(3))
        assert len(decode(ipfix(*sets), decoder=decoder)) == 1
        assert decoder.tally.offered == 1


def test_enterprise_elements_are_skipped() -> None:
    fields: tuple[Field, ...] = ((1, 4, 9), (8, 4, 9), *BASE[:-2], (12232, 8, 9), *BASE[-2:])
    row = one(fields, {1 << 32 | 9: 99, 8 << 32 | 9: 99})
    assert (row["source_address"], row["octet_delta_count"]) == (address("10.0.0.1"), 700)


def test_yafs_tcp_flags_are_the_union_of_first_and_later_ones() -> None:
    fields: tuple[Field, ...] = (*BASE, (14, 1, 6871), (15, 1, 6871))
    assert one(fields, {14 << 32 | 6871: 0x02, 15 << 32 | 6871: 0x18})["tcp_control_bits"] == 0x1A


def test_zero_length_fields_take_no_octets_and_tell_nothing() -> None:
    fields: tuple[Field, ...] = ((10, 0), *BASE, (2, 0), (14, 0))
    row = one(fields)
    assert (row["packet_delta_count"], row["ingress_interface"]) == (5, 0)


class TestCounts:
    ENDS: tuple[Field, ...] = ((8, 4), (12, 4))

    @pytest.mark.parametrize(("packets", "octets"), [(2, 1), (298, 231), (24, 23), (86, 85), (172, 171)])
    def test_any_pair_of_packets_and_octets_will_do(self, packets: int, octets: int) -> None:
        row = one((*self.ENDS, (octets, 4), (packets, 4)), {packets: 9, octets: 999})
        assert (row["packet_delta_count"], row["octet_delta_count"]) == (9, 999)

    def test_delta_goes_before_total_and_before_what_left_the_middlebox(self) -> None:
        fields: tuple[Field, ...] = (*self.ENDS, (86, 4), (85, 4), (24, 4), (23, 4), (2, 4), (1, 4))
        row = one(fields, {86: 900, 85: 90000, 24: 8, 23: 800, 2: 9, 1: 999})
        assert (row["packet_delta_count"], row["octet_delta_count"]) == (9, 999)

    def test_where_the_first_choice_counts_nothing_the_second_is_used(self) -> None:
        fields: tuple[Field, ...] = (*self.ENDS, (2, 4), (1, 4), (24, 4), (23, 4))
        row = one(fields, {2: 0, 1: 0, 24: 8, 23: 800})
        assert (row["packet_delta_count"], row["octet_delta_count"]) == (8, 800)

    def test_total_of_a_flow_whose_delta_is_zero_is_not_counted_again(self) -> None:
        fields: tuple[Field, ...] = (*self.ENDS, (86, 4), (85, 4), (2, 4), (1, 4))  # as Barracuda's firewalls do
        assert refused(fields, {86: 9, 85: 900, 2: 0, 1: 0}) == {"no_packets": 1}

    def test_octets_with_layer_2_headers_are_better_than_none(self) -> None:
        assert one((*self.ENDS, (2, 4), (352, 4)), {352: 64})["octet_delta_count"] == 64

    def test_initiator_and_responder_are_the_two_directions(self) -> None:
        fields: tuple[Field, ...] = (*self.ENDS, (231, 4), (232, 4), (298, 4), (299, 4))
        row = one(fields, {231: 100, 232: 2000, 298: 1, 299: 2})
        assert (row["packet_delta_count"], row["octet_delta_count"]) == (1, 100)
        assert (row["reverse_packet_delta_count"], row["reverse_octet_delta_count"]) == (2, 2000)

    def test_reverse_elements_of_rfc_5103(self) -> None:
        fields: tuple[Field, ...] = (
            *BASE,
            (6, 1),
            (2, 4, REVERSE),
            (1, 8, REVERSE),
            (6, 2, REVERSE),
            (152, 8, REVERSE),
        )
        row = one(fields, {6: 2, reverse(2): 3, reverse(1): 4000, reverse(6): 0x12})
        assert (row["packet_delta_count"], row["octet_delta_count"], row["tcp_control_bits"]) == (5, 700, 2)
        assert (row["reverse_packet_delta_count"], row["reverse_octet_delta_count"]) == (3, 4000)
        assert row["reverse_tcp_control_bits"] == 0x12

    def test_flow_of_the_reverse_direction_only_is_a_flow(self) -> None:
        fields: tuple[Field, ...] = (*BASE, (2, 4, REVERSE), (1, 4, REVERSE))
        row = one(fields, {2: 0, 1: 0, reverse(2): 3, reverse(1): 4000})
        assert (row["packet_delta_count"], row["reverse_packet_delta_count"]) == (0, 3)


class TestWhatIsNoFlow:
    def test_record_that_counts_no_packet(self) -> None:
        assert refused(BASE, {2: 0, 1: 0}) == {"no_packets": 1}

    def test_its_neighbours_are_kept_in_order(self) -> None:
        records = [record(BASE, {2: count, 11: port}) for port, count in enumerate([0, 1, 0, 0, 2, 3, 0] * 20)]
        decoder = ExportDecoder()
        flows = decode(ipfix(template_set(10, 256, BASE), data_set(256, *records)), decoder=decoder)
        assert flows.destination_transport_port.tolist() == [p for p in range(140) if p % 7 in (1, 4, 5)]
        assert flows.packet_delta_count.tolist() == [1, 2, 3] * 20
        assert decoder.tally.kept == 60
        assert dict(decoder.tally.unsupported) == {"no_packets": 80}

    def test_octets_without_a_count_of_packets(self) -> None:
        assert refused(((8, 4), (12, 4), (1, 4))) == {"no_packet_count": 1}

    def test_mac_addresses_only(self) -> None:
        assert refused(((56, 6), (80, 6), (2, 4), (1, 4))) == {"no_addresses": 1}

    def test_nat_event(self) -> None:
        assert refused(((8, 4), (225, 4), (12, 4), (230, 1), (323, 8)), {230: 4}) == {"nat_event": 1}

    def test_firewall_event_without_packets(self) -> None:
        assert refused(((8, 4), (12, 4), (233, 1), (323, 8), (231, 4), (232, 4))) == {"firewall_event": 1}

    def test_firewall_event_with_packets_is_a_flow_that_ends_when_it_was_seen(self) -> None:
        fields: tuple[Field, ...] = ((8, 4), (12, 4), (233, 1), (152, 8), (323, 8), (231, 4), (298, 4))
        row = one(fields, {233: 2, 152: NOW_S * 1000 - 5000, 323: NOW_S * 1000 - 1000, 231: 60, 298: 1})
        assert (row["flow_start_ns"], row["flow_end_ns"]) == (NOW_NS - 5 * 10**9, NOW_NS - 10**9)


class TestIcmp:
    def test_v5_has_type_and_code_in_the_destination_port(self) -> None:
        (row,) = rows(decode(v5(v5_record(protocol=1, port=0x0300 | 13))))
        assert (row["icmp_type_code"], row["destination_transport_port"]) == (0x0300 | 13, 0x0300 | 13)

    def test_tcps_port_is_no_icmp_type(self) -> None:
        assert one(BASE)["icmp_type_code"] == 0

    @pytest.mark.parametrize("element", [32, 139])
    def test_an_element_of_its_own_goes_before_the_port(self, element: int) -> None:
        assert one((*BASE, (element, 2)), {4: 1, 11: 9, element: 0x0800})["icmp_type_code"] == 0x0800

    @pytest.mark.parametrize(("kind", "code"), [(176, 177), (178, 179)])
    def test_type_and_code_may_be_apart(self, kind: int, code: int) -> None:
        assert one((*BASE, (kind, 1), (code, 1)), {4: 58, 11: 0, kind: 3, code: 4})["icmp_type_code"] == 0x0304


class TestSets:
    def test_length_that_is_no_multiple_of_4_is_followed(self) -> None:
        # softflowd 1.1.0 sends v9 sets of 29 and 1057 octets
        fields: tuple[Field, ...] = (*BASE, (5, 1))
        first = data_set(256, record(fields, {11: 1}), record(fields, {11: 2}), padding=bytes(1))
        flows = decode(v9(template_set(9, 256, fields), first, data_set(256, record(fields, {11: 3}))))
        assert len(first) % 4
        assert flows.destination_transport_port.tolist() == [1, 2, 3]

    def test_count_in_v9s_header_is_not_believed(self) -> None:
        lying = bytearray(v9(template_set(9, 256, BASE), data_set(256, record(BASE), record(BASE))))
        for count in (0, 1, 60000):
            lying[2:4] = count.to_bytes(2, "big")
            assert len(decode(bytes(lying))) == 2

    def test_zeros_that_fill_a_datagram_are_padding(self) -> None:
        decoder = ExportDecoder()  # as Palo Alto's do
        sets = template_set(9, 256, BASE), data_set(256, record(BASE)), bytes(800)
        assert len(decode(v9(*sets), decoder=decoder)) == 1
        assert decoder.tally.offered == 1

    def test_set_shorter_than_its_header_ends_the_message_and_is_counted(self) -> None:
        decoder = ExportDecoder()
        sets = template_set(9, 256, BASE), data_set(256, record(BASE)), b"\1\0\0\3", data_set(256, record(BASE))
        assert len(decode(v9(*sets), decoder=decoder)) == 1
        assert dict(decoder.tally.malformed) == {"bad_set_length": 1}

    def test_set_that_leaves_its_message_gives_its_whole_records(self) -> None:
        decoder = ExportDecoder()
        whole = v9(template_set(9, 256, BASE), data_set(256, record(BASE), record(BASE)))
        assert len(decode(whole[:-1], decoder=decoder)) == 1
        assert dict(decoder.tally.malformed) == {"cut_set": 1}

    def test_message_that_leaves_its_datagram_is_counted_once(self) -> None:
        decoder = ExportDecoder()
        whole = ipfix(template_set(10, 256, BASE), data_set(256, record(BASE), record(BASE)))
        assert len(decode(whole[:-1], decoder=decoder)) == 1
        assert dict(decoder.tally.malformed) == {"cut_message": 1}

    def test_octets_behind_an_ipfix_message_are_not_read(self) -> None:
        decoder = ExportDecoder()
        whole = ipfix(template_set(10, 256, BASE), data_set(256, record(BASE)))
        assert len(decode(whole + data_set(256, record(BASE)), decoder=decoder)) == 1
        assert decoder.tally.offered == 1

    def test_data_set_too_short_for_a_record_is_counted(self) -> None:
        decoder = ExportDecoder()
        decode(ipfix(template_set(10, 256, BASE), data_set(256, record(BASE)[:-1])), decoder=decoder)
        assert dict(decoder.tally.malformed) == {"short_set": 1}

    @pytest.mark.parametrize(("version", "set_id"), [(9, 2), (9, 255), (10, 0), (10, 1), (10, 4), (10, 5)])
    def test_reserved_set_ids(self, version: int, set_id: int) -> None:
        decoder = ExportDecoder()
        decode(message(version, data_set(set_id, bytes(8))), decoder=decoder)
        assert dict(decoder.tally.unsupported) == {"reserved_set": 1}


@pytest.mark.parametrize(
    ("datagram", "reasons"),
    [
        (b"", {"short_datagram": 1}),
        (b"\0", {"short_datagram": 1}),
        (v5(v5_record())[:23], {"short_datagram": 1}),
        (v9()[:19], {"short_datagram": 1}),
        (ipfix()[:15], {"short_datagram": 1}),
        (b"\0\x0a\0\x0f" + bytes(20), {"bad_length": 1}),
        (b"\0\0\0\5" + bytes(60), {"not_an_export": 1}),  # sFlow
        (b"GET / HTTP/1.1\r\n\r\n", {"not_an_export": 1}),
        (b"\0\1" + bytes(60), {"export_version": 1}),
        (b"\0\7" + bytes(60), {"export_version": 1}),
        (b"\0\x08" + bytes(60), {"export_version": 1}),
    ],
)
def test_datagram_that_cannot_be_read_counts_as_one_record(datagram: bytes, reasons: dict[str, int]) -> None:
    decoder = ExportDecoder()
    assert len(decode(datagram, decoder=decoder)) == 0
    assert dict(decoder.tally.malformed + decoder.tally.unsupported) == reasons
    assert decoder.tally.offered == 1


@pytest.mark.parametrize("empty", [v5(), v9(), ipfix(), ipfix(data_set(256)), v9(bytes(3))])
def test_message_without_a_record_gives_and_counts_nothing(empty: bytes) -> None:
    decoder = ExportDecoder()
    assert len(decode(empty, decoder=decoder)) == 0
    assert decoder.tally.offered == 0
    assert decoder.exporters[0].datagrams == 1


def test_options_records_are_no_flows_and_not_counted_as_such() -> None:
    decoder = ExportDecoder()
    options = options_template_set(10, 300, [(346, 4)], [(96, 8)]), data_set(300, bytes(24))
    assert len(decode(ipfix(*options), decoder=decoder)) == 0
    assert decoder.tally.offered == 0


def test_rows_keep_the_order_of_arrival_whatever_the_mix() -> None:
    other: tuple[Field, ...] = (*reversed(BASE), (96, VARIABLE))
    templates = template_set(10, 256, BASE), template_set(10, 257, other)
    messages = [
        ipfix(*templates),
        v9(template_set(9, 256, other), data_set(256, record(other, {11: 1}))),
        ipfix(data_set(257, record(other, {11: 2})), data_set(256, record(BASE, {11: 3}))),
        v5(v5_record(port=4)),
        ipfix(data_set(256, record(BASE, {11: 5})), data_set(257, record(other, {11: 6}))),
    ]
    assert decode(*messages).destination_transport_port.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_set_of_more_records_than_a_block_is_read_whole() -> None:
    ports = list(range(1000))
    records = [record(BASE, {11: port}) for port in ports]
    flows = decode(ipfix(template_set(10, 256, BASE), data_set(256, *records)))
    assert flows.destination_transport_port.tolist() == ports


def test_exporters_are_told_apart_in_the_rows() -> None:
    flows = ExportDecoder().decode(*arrays([v5(v5_record())] * 2, [EXPORTER, OTHER_EXPORTER]))
    assert [octets.tobytes() for octets in flows.exporter_address] == [EXPORTER, OTHER_EXPORTER]


def test_decode_message_is_a_batch_of_one() -> None:
    flows = ExportDecoder().decode_message(v5(v5_record()), EXPORTER, NOW_NS)
    assert rows(flows) == rows(decode(v5(v5_record())))


def test_no_datagrams_are_an_empty_table() -> None:
    assert isinstance(decode(), FlowTable)
    assert len(decode()) == 0


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    octets, offset, exporter, times_ns = arrays([v5(v5_record())])
    decoder = ExportDecoder()
    with pytest.raises(ValueError, match="1 datagrams need"):
        decoder.decode(octets, offset, exporter[:0], times_ns)
    with pytest.raises(ValueError, match="offset"):
        decoder.decode(octets, offset + 1, exporter, times_ns)


def test_bounds_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_templates"):
        ExportDecoder(max_templates=0)
