from __future__ import annotations

import ipaddress
import json
from typing import Any

import numpy as np
import pytest

from nsstream.capture.ntop_flows import MAX_SOURCES, NtopDecoder
from nsstream.trace import FlowTable
from nsstream.wire.ntop_message import write_header
from nsstream.wire.ntop_tlv import write_tlv

# A record as netflow2ng writes it (its formatter's own fields), and one as nProbe does with names for keys.
BY_NUMBER: dict[str, Any] = {
    "61": 0, "1": 5100, "2": 30, "23": 400, "24": 4, "22": 1_767_225_600, "21": 1_767_225_602, "4": 6, "7": 51000,
    "11": 443,
    "16": 64512, "17": 64513, "10": 3, "14": 4, "89": 0, "5": 8, "6": 27, "52": 64, "60": 4,
    "8": "192.0.2.1", "12": "198.51.100.2", "9": 24, "13": 16, "15": "192.0.2.254", "54": 0, "88": 0, "29": 24,
    "30": 16, "32": 0, "80": "00:00:00:00:00:00", "81": "00:00:00:00:00:00", "58": 42, "59": 0,
    "130": "203.0.113.9",
}  # fmt: skip
BY_NAME: dict[str, Any] = {
    "IPV6_SRC_ADDR": "2001:db8::1", "IPV6_DST_ADDR": "2001:db8::2", "IPV4_SRC_ADDR": "0.0.0.0",
    "IPV4_DST_ADDR": "0.0.0.0",
    "IP_PROTOCOL_VERSION": 6, "PROTOCOL": 58, "L4_SRC_PORT": 0, "L4_DST_PORT": 0,
    "ICMP_TYPE": 32768, "IN_PKTS": 2, "IN_BYTES": 208, "OUT_PKTS": 0, "OUT_BYTES": 0,
    "FLOW_START_MILLISECONDS": 1_767_225_600_250, "FLOW_END_MILLISECONDS": "1767225601500", "35632.165": "no matter",
}  # fmt: skip


def message(*records: Any, number: int = 1, source: int = 1, is_tlv: bool = False) -> list[bytes]:
    payload = b"".join(map(write_tlv, records)) if is_tlv else json.dumps(list(records)).encode()
    header = write_header(36, source, number, payload, is_tlv=is_tlv, is_zlib=False, unpacked_bytes=len(payload))
    return [header, payload]


def row(flows: FlowTable, at: int) -> dict[str, Any]:
    values = {name: column[at] for name, column in flows.columns().items()}
    for name in ("source_address", "destination_address", "exporter_address"):
        address = ipaddress.IPv6Address(values[name].tobytes())
        values[name] = str(address.ipv4_mapped or address)
    return values


def test_record_by_numbers() -> None:
    one = row(NtopDecoder().decode([message(BY_NUMBER)]), 0)
    assert (one["source_address"], one["destination_address"]) == ("192.0.2.1", "198.51.100.2")
    assert (one["source_transport_port"], one["destination_transport_port"], one["protocol_identifier"]) == (
        51000,
        443,
        6,
    )
    assert (one["packet_delta_count"], one["octet_delta_count"]) == (30, 5100)
    assert (one["reverse_packet_delta_count"], one["reverse_octet_delta_count"]) == (4, 400)
    assert (one["flow_start_ns"], one["flow_end_ns"]) == (1_767_225_600 * 10**9, 1_767_225_602 * 10**9)
    assert (one["tcp_control_bits"], one["ip_class_of_service"], one["vlan_id"]) == (27, 8, 42)
    assert (one["ingress_interface"], one["egress_interface"]) == (3, 4)
    assert (one["bgp_source_as_number"], one["bgp_destination_as_number"]) == (64512, 64513)
    assert one["exporter_address"] == "203.0.113.9"


def test_record_by_names() -> None:
    one = row(NtopDecoder().decode([message(BY_NAME)]), 0)
    assert (one["source_address"], one["destination_address"], one["ip_version"]) == ("2001:db8::1", "2001:db8::2", 6)
    assert (one["icmp_type_code"], one["destination_transport_port"]) == (128 << 8, 0)
    assert (one["flow_start_ns"], one["flow_end_ns"]) == (1_767_225_600_250 * 10**6, 1_767_225_601_500 * 10**6)


def test_record_as_short_as_centos() -> None:
    """What nProbe Cento's manual shows of its JSON: these fifteen elements, and of them none that says who exports."""
    kept = {"8", "12", "10", "14", "2", "1", "24", "23", "22", "21", "7", "11", "6", "4", "5"}
    decoder = NtopDecoder()
    short, whole = (row(decoder.decode([message(one)]), 0) for one in ({k: BY_NUMBER[k] for k in kept}, BY_NUMBER))
    assert decoder.tally.kept == 2
    untold = {"vlan_id", "bgp_source_as_number", "bgp_destination_as_number", "exporter_address"}
    assert {name for name in short if np.any(short[name] != whole[name])} <= untold | {
        "ip_next_hop_address", "source_prefix_length", "destination_prefix_length"
    }  # fmt: skip


def test_record_in_tlv_with_addresses_as_numbers() -> None:
    record = {int(key): value for key, value in BY_NUMBER.items()} | {8: 0xC0000201, 12: 0xC6336402}
    ours, theirs = (NtopDecoder().decode([one]) for one in (message(record, is_tlv=True), message(BY_NUMBER)))
    for name, column in theirs.columns().items():
        np.testing.assert_array_equal(getattr(ours, name), column)


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no address": ({"8": None}, "bad_address"),
    "an address that is a list": ({"8": ["192.0.2.1"] * 9, "12": [[]]}, "bad_address"),
    "addresses of two versions": ({"12": "2001:db8::1"}, "bad_address"),
    "no time": ({"22": {}}, "bad_time"),
    "a time before all": ({"22": -5}, "bad_time"),
    "a port that is none": ({"7": 65536}, "bad_port"),
    "a count that is none": ({"1": -1}, "bad_count"),
    "a count beyond all": ({"1": 10**30}, "bad_count"),
    "a protocol that is none": ({"4": 256}, "bad_protocol"),
    "no packets": ({"2": 0, "24": 0}, "no_packets"),
    "flags that are none": ({"6": "what"}, "bad_flags"),
}


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_record_is_counted_and_takes_no_other_with_it(change: dict[str, Any], reason: str) -> None:
    decoder = NtopDecoder()
    assert len(decoder.decode([message(BY_NUMBER, BY_NUMBER | change, BY_NAME)])) == 2
    decoder.tally.check()
    assert decoder.tally.malformed == {reason: 1}


def test_messages_that_hold_no_flows_are_counted() -> None:
    decoder = NtopDecoder()
    header, payload = message(BY_NUMBER)
    strange = [[header], [header, payload, b""], [b"flow", payload], [b"event" + header[5:], b"{}"], [header, b"{"]]
    assert len(decoder.decode(strange)) == 0
    decoder.tally.check()
    assert decoder.tally.malformed == {"not_ntop": 3, "bad_json": 1}
    assert decoder.tally.unsupported == {"other_topic": 1}


def test_messages_that_never_came_are_counted_for_each_publisher() -> None:
    decoder = NtopDecoder()
    ids = [(1, 10), (2, 500), (1, 11), (1, 14), (2, 501), (1, 1), (1, 3), (2, 501)]  # the first one begins anew
    for source, number in ids:
        decoder.decode([message(BY_NUMBER, number=number, source=source)])
        decoder.tally.check()
    assert decoder.tally.dropped == {"socket": 3}
    assert decoder.tally.kept == len(ids)


def test_publishers_without_number_take_no_memory_without_bound() -> None:
    decoder = NtopDecoder()
    decoder.decode([message(number=number, source=number) for number in range(1, 3 * MAX_SOURCES)])
    assert len(decoder._last_id) == MAX_SOURCES
