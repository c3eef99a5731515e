from __future__ import annotations

import struct

import numpy as np
import pytest
from nfcapd_files import START_MS, block, element, file_of, flow, generic, ipv4, ipv6, record

from nsstream.errors import WireError
from nsstream.trace import FlowTable
from nsstream.trace.flows import TimeQuality
from nsstream.wire.nfcapd import NfcapdReader


def read(octets: bytes) -> tuple[FlowTable, NfcapdReader]:
    reader = NfcapdReader()
    tables = [FlowTable.from_columns(columns) for columns in reader.feed(octets)]
    reader.finish()
    reader.tally.check()
    assert reader.tally.kept == sum(map(len, tables))
    return FlowTable.concatenate(tables), reader


def test_elements_become_columns() -> None:
    misc = element(4, struct.pack("<IIBBBBBBBB", 70_000, 8, 24, 16, 1, 0, 0, 3, 0x12, 0))
    out = element(5, struct.pack("<QQQ", 1, 2**40, 2**41))
    numbers = element(7, struct.pack("<II", 64_512, 4_200_000_000))
    hop = element(10, bytes([1, 2, 0, 192]))
    received = element(13, struct.pack("<QQ", 0x20010DB8 << 32, 9))
    nat = element(20, bytes(8))
    domain = element(33, struct.pack("<QI", 1, 77))
    vlan = element(6, struct.pack("<II", 42, 43))
    flows, _ = read(file_of(block(record(generic(), ipv4(), misc, nat, out, vlan, numbers, hop, received, domain))))
    (one,) = ({name: column[0] for name, column in flows.columns().items()},)
    assert one["flow_start_ns"] == START_MS * 1_000_000
    assert one["flow_end_ns"] == (START_MS + 5) * 1_000_000
    assert one["ip_version"] == 4
    assert one["source_address"].tobytes().hex() == "0" * 20 + "ffffc0000201"
    assert one["destination_address"].tobytes().hex() == "0" * 20 + "ffffc6336402"
    assert (one["source_transport_port"], one["destination_transport_port"]) == (1025, 443)
    assert (one["protocol_identifier"], one["tcp_control_bits"], one["ip_class_of_service"]) == (6, 0x1B, 4)
    assert (one["packet_delta_count"], one["octet_delta_count"]) == (3, 300)
    assert (one["reverse_packet_delta_count"], one["reverse_octet_delta_count"]) == (2**40, 2**41)
    assert (one["flow_end_reason"], one["reverse_tcp_control_bits"]) == (3, 0x12)
    assert (one["ingress_interface"], one["egress_interface"], one["flow_direction"]) == (70_000, 8, 1)
    assert (one["source_prefix_length"], one["destination_prefix_length"], one["vlan_id"]) == (24, 16, 42)
    assert (one["bgp_source_as_number"], one["bgp_destination_as_number"]) == (64_512, 4_200_000_000)
    assert one["ip_next_hop_address"].tobytes().hex() == "0" * 20 + "ffffc0000201"
    assert one["exporter_address"].tobytes().hex() == "20010db8" + "0" * 23 + "9"
    assert one["observation_domain_id"] == 77


def test_ipv6_flow_without_more_says_what_nobody_told() -> None:
    flows, _ = read(file_of(block(record(generic(), ipv6()))))
    assert flows.ip_version[0] == 6
    assert flows.destination_address[0].tobytes().hex() == "20010db8" + "0" * 19 + "20003"
    assert flows.flow_direction[0] == 255
    assert flows.sampling_interval[0] == 1
    assert not flows.exporter_address.any()
    assert flows.observation_domain_id[0] == 0x0102  # the engine's type and number


def test_exporter_record_names_the_exporter_and_domain_of_flows_behind_it() -> None:
    address = bytes(8) + bytes([9, 2, 0, 192]) + bytes(4)
    exporter = struct.pack("<HHI16sHHI", 7, 32, 9, address, 2, 5, 300)
    flows, reader = read(file_of(block(exporter, record(generic(), ipv4(), exporter=5), flow())))
    assert reader.tally.offered == 2
    assert flows.exporter_address[0].tobytes().hex() == "0" * 20 + "ffffc0000209"
    assert list(flows.observation_domain_id) == [300, 0x0102]


@pytest.mark.parametrize("compression", ["none", "lzo", "lz4", "bz2", "zstd"])
def test_blocks_of_each_compression(compression: str) -> None:
    blocks = [block(*(flow(packets=k) for k in range(1, 50)), compression=compression)]
    blocks.append(block(flow(packets=50), flags=1))  # a block may say that it is not compressed
    flows, _ = read(file_of(*blocks, compression=compression))
    np.testing.assert_array_equal(flows.packet_delta_count, np.arange(1, 51))


def test_times_that_cannot_be_are_flagged_or_counted() -> None:
    times = [
        {"last": START_MS - 1},
        {"last": 2**64 - 1},
        {"first": 0, "last": 0, "received": START_MS},
        {"first": 2**63},
        {"first": 2**62},
    ]
    flows, reader = read(file_of(block(*(flow(**fields) for fields in times))))
    assert list(flows.time_quality) == [TimeQuality.CLAMPED, TimeQuality.CLAMPED, TimeQuality.EXPORT_TIME]
    np.testing.assert_array_equal(flows.flow_end_ns, [START_MS * 1_000_000] * 3)
    assert reader.tally.malformed == {"bad_time": 2}


def test_records_that_are_no_flows_are_counted_by_reason() -> None:
    records = [
        flow(),
        flow(packets=0),
        record(generic(packets=0), ipv4(), flags=1),
        record(element(19, bytes(16)), ipv4(), flags=1),
        record(generic()),
        record(ipv4()),
        record(generic(), ipv4(), count=3),
        record(element(1, bytes(47)), ipv4()),
        record(generic(), b"\x02\0\x03\0" + bytes(8)),
        struct.pack("<HH", 11, 8) + bytes(4),
        struct.pack("<HH", 10, 60) + bytes(56),
        struct.pack("<HH", 12, 8) + bytes(4),  # names of applications: no flow at all
    ]
    flows, reader = read(file_of(block(*records)))
    assert len(flows) == 1
    assert reader.tally.malformed == {"no_packets": 1, "no_address": 1, "no_generic_flow": 1, "bad_element": 4}
    assert reader.tally.unsupported == {"event": 2, "record_type": 1}
    assert reader.tally.offered == len(records) - 1


def test_record_length_that_lies_ends_its_block_only() -> None:
    liar = struct.pack("<HH", 11, 60_000) + bytes(96)
    flows, reader = read(file_of(block(flow(), liar, flow(), flow()), block(flow())))
    assert len(flows) == 2
    assert reader.tally.malformed == {"bad_record_length": 3}


@pytest.mark.parametrize("compression", ["lzo", "lz4", "bz2", "zstd"])
def test_block_that_does_not_decompress_is_counted_and_passed(compression: str) -> None:
    good = block(*[flow()] * 20, compression=compression)
    bad = block(*[flow()] * 20, compression=compression)
    bad = bad[:12] + b"\xff" * (len(bad) - 12)
    flows, reader = read(file_of(bad, good, compression=compression))
    assert len(flows) == 20
    assert reader.tally.malformed == {"bad_block": 20}


def test_claim_of_countless_records_stays_within_reason() -> None:
    _, reader = read(file_of(block(flow(), count=2**32 - 1)))
    assert reader.tally.kept == 1
    assert reader.tally.malformed["bad_record_length"] < 2**21


def test_block_of_another_kind_is_not_supported() -> None:
    flows, reader = read(file_of(block(flow(), flow(), kind=4), block(flow())))
    assert len(flows) == 1
    assert reader.tally.unsupported == {"block_type": 2}


def test_octets_behind_the_last_block_are_counted_once() -> None:
    reader = NfcapdReader()
    assert len(reader.feed(file_of(block(flow()), block(b"\x01\x80\x09\x00none\x00"), appendix=1))) == 1
    for _ in range(3):
        assert reader.feed(b"junk") == []
    reader.finish()
    reader.tally.check()
    assert reader.tally.malformed == {"trailing_octets": 1}


def test_file_that_is_still_written_ends_where_it_ends() -> None:
    flows, reader = read(file_of(block(flow()), block(flow()), count=0))
    assert len(flows) == 2
    assert not reader.tally.malformed


def test_cut_or_missing_blocks_are_counted() -> None:
    _, reader = read(file_of(block(flow()), block(flow(), flow()))[:-1])
    assert reader.tally.malformed == {"cut_record": 2}
    _, reader = read(file_of(block(flow()), count=3))
    assert reader.tally.malformed == {"cut_record": 1}


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"", "empty"),
        (b"\x0c\xa5\x02", "cut in its file header"),
        (b"\xd4\xc3\xb2\xa1", "not an nfdump file"),
        (b"\xa5\x0c\0\2", "big-endian"),
        (file_of(layout=1), "layout 1"),
        (file_of(encryption=1), "encrypted"),
        (file_of()[:16] + b"\x09" + file_of()[17:], "unknown compression 9"),
        (file_of(struct.pack("<IIHH", 1, 2**31, 3, 0)), "claims 2147483648 octets"),
    ],
)
def test_what_is_no_such_file_is_refused(octets: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        read(octets)
