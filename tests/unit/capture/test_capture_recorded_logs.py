"""Logs that Zeek and Suricata wrote themselves (tests/recorded), read as a file and followed."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.followed_table import FollowedTableSource, eve_source
from nsstream.trace import FlowTable

RECORDED = Path(__file__).parents[2] / "recorded"
S = 10**9


def read_all(source: FlowCsvSource | FollowedTableSource) -> FlowTable:
    """The flows until nothing comes; the account adds up."""
    source.open()
    with contextlib.closing(source):
        tables = []
        while (flows := source.read_batch()) is not None and len(flows):
            tables.append(flows)
        source.tally.check()
        return FlowTable.concatenate(tables)


def text(octets: np.ndarray[Any, Any]) -> str:
    address = ipaddress.IPv6Address(octets.tobytes())
    return str(address.ipv4_mapped or address)


@pytest.mark.parametrize("make", [FlowCsvSource, FollowedTableSource])
def test_every_row_of_zeeks_own_log_is_a_flow(make: type) -> None:
    source = make(RECORDED / "zeek_conn.log")
    flows = read_all(source)
    assert (source.tally.offered, source.tally.kept) == (8, 8)
    ends = [(text(flows.source_address[i]), text(flows.destination_address[i])) for i in range(8)]
    assert ends[0] == ("2001:4978:f:4c::2", "2001:4860:b002::68")
    assert ends[1] == ("192.168.3.101", "216.14.98.22")
    assert ends[3] == ("::", "ff02::1:ff00:2")
    assert flows.protocol_identifier.tolist() == [6, 17, 17, 58, 58, 58, 58, 58]
    assert flows.source_transport_port.tolist() == [53382, 53859, 53796, 0, 0, 0, 0, 0]
    assert flows.icmp_type_code.tolist()[3:] == [135 << 8, 128 << 8, *[131 << 8] * 3]  # resp_p is the answer's type
    assert flows.packet_delta_count.tolist() == [10, 21, 0, 1, 3, 2, 2, 2]
    assert flows.octet_delta_count.tolist() == [3605, 5717, 0, 64, 312, 144, 144, 144]
    assert flows.reverse_packet_delta_count.tolist() == [11, 13, 1, 0, 1, 0, 0, 0]
    assert flows.reverse_octet_delta_count.tolist() == [5329, 6473, 176, 0, 104, 0, 0, 0]
    assert int(flows.flow_start_ns[0]) == 1_257_655_301 * S + 595_604_000
    lasted = (flows.flow_end_ns - flows.flow_start_ns).tolist()
    assert lasted[:4] == [2_101_052_000, 20_879_001_000, 0, 0]  # none was told of the latter two
    assert (int(flows.tcp_control_bits[0]), int(flows.reverse_tcp_control_bits[0])) == (0x12, 0x12)


@pytest.mark.parametrize("make", [FlowCsvSource, FollowedTableSource, eve_source])
def test_the_flows_among_suricatas_own_events_are_read_and_the_others_counted(make: Any) -> None:
    path = RECORDED / "eve.json"
    source = make(str(path)) if make is eve_source else make(path, preset="eve")
    flows = read_all(source)
    assert source.tally.unsupported == {"other_record": 2}
    assert source.tally.kept == 2
    assert [text(octets) for octets in flows.source_address] == ["147.32.84.165", "192.168.89.2"]
    assert [text(octets) for octets in flows.destination_address] == ["147.32.84.255", "8.8.8.8"]
    assert flows.protocol_identifier.tolist() == [17, 17]
    assert flows.destination_transport_port.tolist() == [138, 53]
    assert flows.packet_delta_count.tolist() == [2, 1]
    assert flows.octet_delta_count.tolist() == [486 - 2 * 14, 69 - 14]
    assert flows.reverse_packet_delta_count.tolist() == [0, 1]
    assert flows.reverse_octet_delta_count.tolist() == [0, 97 - 14]
    # With their own time zones; the event's own time of the second is no time at all, for Suricata was shut down.
    assert flows.flow_start_ns.tolist() == [1_313_153_627 * S + 928_539_000, 1_445_374_098 * S + 979_348_000]
    assert (flows.flow_end_ns - flows.flow_start_ns).tolist() == [13_000, 110_000]
