"""The publisher for ntopng: each form is read back, and what nobody took is counted."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest
import zmq
from made_flows import made_flows
from nsstream_plugins.ntop import NtopSource

from nsstream.errors import OutputError
from nsstream.replay import ntop_publisher
from nsstream.replay.ntop_sink import NtopSink, NtopSinkSpec
from nsstream.replay.sink import SinkContext, check_counters
from nsstream.trace import FlowTable

FLOWS = made_flows(count=120)
# What the records tell; ntop has one element for the flags of both directions.
TOLD = (
    "source_address", "destination_address", "source_transport_port", "destination_transport_port", "ip_version",
    "protocol_identifier", "icmp_type_code", "packet_delta_count", "octet_delta_count", "reverse_packet_delta_count",
    "reverse_octet_delta_count", "ip_class_of_service", "ingress_interface", "egress_interface", "vlan_id",
    "bgp_source_as_number", "bgp_destination_as_number",
)  # fmt: skip


def free_endpoint() -> str:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{chosen.getsockname()[1]}"


def sink_of(**fields: Any) -> NtopSink:
    return NtopSink(NtopSinkSpec(**{"endpoint": free_endpoint()} | fields), SinkContext())


def publish(sink: NtopSink, table: FlowTable) -> FlowTable:
    """What a subscriber has of a table."""
    source = NtopSource(sink._spec.endpoint)
    source.open()
    sink.open()
    writer = threading.Thread(target=lambda: (sink.write_flows(table), sink.close()))
    writer.start()
    tables = []
    while writer.is_alive() or not tables or len(tables[-1]):
        batch = source.read_batch()
        assert batch is not None
        tables.append(batch)
    writer.join()
    source.close()
    assert source.tally.offered == source.tally.kept
    check_counters(sink.counters)
    return FlowTable.concatenate(tables)


@pytest.mark.parametrize("header_octets", [24, 28, 36])
@pytest.mark.parametrize(
    "form",
    [{}, {"compress": True}, {"encoding": "tlv"}, {"encoding": "tlv", "compress": True}, {"flows_per_message": 7}],
)
def test_each_form_is_read_back(header_octets: int, form: dict[str, Any]) -> None:
    sink = sink_of(header_octets=header_octets, **form)
    came = publish(sink, FLOWS)
    assert sink.counters["flows_sent"] == sink.counters["flows"] == len(came) == len(FLOWS)
    for name in TOLD:
        np.testing.assert_array_equal(getattr(came, name), getattr(FLOWS, name), err_msg=name)
    np.testing.assert_array_equal(came.flow_start_ns // 10**6, FLOWS.flow_start_ns // 10**6)
    np.testing.assert_array_equal(came.flow_end_ns // 10**6, FLOWS.flow_end_ns // 10**6)
    np.testing.assert_array_equal(came.tcp_control_bits, FLOWS.tcp_control_bits | FLOWS.reverse_tcp_control_bits)


def test_flows_that_nobody_subscribed_to_are_counted() -> None:
    sink = sink_of(wait=False)
    sink.open()
    sink.write_flows(FLOWS)
    assert sink.counters["flows_unheard"] == len(FLOWS)
    sink.close()
    check_counters(sink.counters)


def test_subscriber_that_does_not_read_misses_flows_which_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntop_publisher, "STALL_S", 0.2)
    monkeypatch.setattr(ntop_publisher, "QUEUED", 5)
    sink = sink_of(flows_per_message=50, wait=True)
    many = FlowTable.concatenate([FLOWS] * 400)
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.RCVHWM, 5)
        subscriber.setsockopt(zmq.LINGER, 0)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"flow")
        subscriber.connect(sink._spec.endpoint)
        sink.open()
        sink.write_flows(many)
        counters = sink.counters
        check_counters(counters)
        assert counters["flows_failed"] > 0
        assert counters["flows_sent"] > 0
        assert counters["flows"] == len(many)
        sink.abort()


def test_stop_ends_the_wait_for_a_subscriber_and_abort_comes_at_any_time() -> None:
    stopped = threading.Event()
    sink = NtopSink(NtopSinkSpec(endpoint=free_endpoint()), SinkContext(is_stopped=stopped.is_set))
    sink.open()
    stopped.set()
    with pytest.raises(OutputError, match="before anybody had subscribed"):
        sink.write_flows(FLOWS)
    assert sink.counters["flows_undone"] == sink.counters["flows"] == len(FLOWS)
    sink.abort()
    sink.abort()


def test_endpoint_in_use_is_refused_in_a_sentence() -> None:
    first = sink_of()
    first.open()
    second = sink_of(endpoint=first._spec.endpoint)
    with pytest.raises(OutputError, match="cannot listen here: address already in use"):
        second.open()
    second.abort()
    first.abort()


@pytest.mark.parametrize(
    "endpoint", ["tcp://host:5556", "tcp://127.0.0.1", "udp://127.0.0.1:1", "ipc://run", "tcp://::1:5"]
)
def test_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"must be tcp://ADDRESS:PORT"):
        NtopSinkSpec(endpoint=endpoint)
