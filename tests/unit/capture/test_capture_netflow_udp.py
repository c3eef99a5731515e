from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from made_netflow import data_set, ipfix, template_set, v5

from nsstream.capture.netflow_udp import NetflowUdpSource
from nsstream.capture.sockets import SocketMark, bind_socket
from nsstream.clock import ManualClock
from nsstream.errors import InputError
from nsstream.trace import FlowTable


@pytest.fixture
def source() -> Iterator[NetflowUdpSource]:
    source = NetflowUdpSource(port=0)
    source.open()
    yield source
    source.close()


@pytest.fixture
def passed() -> Iterator[socket.socket]:
    sock = bind_socket("127.0.0.1", 0, socket.SOCK_DGRAM)
    yield sock
    sock.close()


def send(address: tuple[str, int], *datagrams: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, address)


def numbers(flows: FlowTable | None) -> list[int]:
    assert flows is not None
    return [int.from_bytes(row[12:].tobytes(), "big") for row in flows.source_address]


def test_exports_that_came_together_are_one_batch_in_order(source: NetflowUdpSource) -> None:
    send(source.listens_on, v5(0, 30), v5(30, 7), ipfix(template_set(), data_set(37, 3)))
    flows = source.read_batch()
    assert numbers(flows) == list(range(40))
    assert source.tally.kept == source.tally.offered == 40
    assert flows is not None
    assert (flows.exporter_address == np.frombuffer(bytes(10) + b"\xff\xff\x7f\0\0\1", np.uint8)).all()


def test_templates_hold_whatever_port_the_exporter_sends_from(source: NetflowUdpSource) -> None:
    send(source.listens_on, ipfix(template_set()))
    send(source.listens_on, ipfix(data_set(0, 5)))
    assert numbers(source.read_batch()) == list(range(5))


def test_idle_socket_gives_no_rows_and_no_end(source: NetflowUdpSource) -> None:
    assert numbers(source.read_batch()) == []
    send(source.listens_on, v5(0, 1))
    assert numbers(source.read_batch()) == [0]


def test_batch_is_bounded_and_the_rest_is_the_next_one(passed: socket.socket) -> None:
    source = NetflowUdpSource(passed=passed, most_datagrams=64)
    send(passed.getsockname(), *(v5(i, 1) for i in range(100)))
    source.open()
    assert numbers(source.read_batch()) == list(range(64))
    assert numbers(source.read_batch()) == list(range(64, 100))
    source.close()


def test_datagram_that_is_no_export_is_counted_by_name(source: NetflowUdpSource) -> None:
    send(source.listens_on, b"GET / HTTP/1.0\r\n\r\n", b"", v5(0, 1))
    assert numbers(source.read_batch()) == [0]
    source.tally.check()
    assert source.tally.offered == 3
    assert sum(source.tally.malformed.values()) == 2


def test_datagram_longer_than_is_read_is_counted(passed: socket.socket) -> None:
    source = NetflowUdpSource(passed=passed, datagram_bytes=200)
    source.open()
    send(passed.getsockname(), v5(0, 30), v5(30, 1))
    assert numbers(source.read_batch()) == [30]
    assert source.tally.malformed == {"cut_datagram": 1}
    source.tally.check()
    source.close()


def test_what_the_kernel_drops_is_counted_one_a_datagram(passed: socket.socket) -> None:
    source = NetflowUdpSource(passed=passed, receive_buffer_bytes=4096)
    source.open()
    send(passed.getsockname(), *(v5(i, 1) for i in range(3000)))
    kept = 0
    while rows := numbers(source.read_batch()):
        kept += len(rows)
    assert 0 < kept < 3000
    assert source.tally.dropped == {"socket": 3000 - kept}
    assert source.tally.offered == 3000
    source.tally.check()
    source.close()


def test_successor_reads_what_came_while_nobody_did_and_counts_each_drop_once(passed: socket.socket) -> None:
    first = NetflowUdpSource(passed=passed, receive_buffer_bytes=4096)
    first.open()
    send(passed.getsockname(), *(v5(i, 1) for i in range(3000)))
    kept = len(numbers(first.read_batch()))
    first.close()
    assert first.read_batch() is None
    assert first.mark == SocketMark.of(passed)

    second = NetflowUdpSource(passed=passed, since=first.mark, receive_buffer_bytes=4096)
    second.open()
    while rows := numbers(second.read_batch()):
        kept += len(rows)
    second.close()
    assert kept + first.tally.dropped["socket"] + second.tally.dropped["socket"] == 3000
    assert first.tally.dropped["socket"] > 0
    assert second.tally.dropped["socket"] == 0


def test_drops_before_there_was_a_reader_are_counted(passed: socket.socket) -> None:
    send(passed.getsockname(), *(v5(i, 1) for i in range(3000)))
    source = NetflowUdpSource(passed=passed)
    source.open()
    kept = 0
    while rows := numbers(source.read_batch()):
        kept += len(rows)
    source.close()
    assert kept + source.tally.dropped["socket"] == 3000 > kept


def test_what_is_left_in_a_socket_of_our_own_is_counted_as_dropped(source: NetflowUdpSource) -> None:
    send(source.listens_on, *(v5(i, 1) for i in range(20)))
    source.close()
    assert source.tally.dropped == {"socket": 20}
    source.tally.check()


def test_open_begins_anew(source: NetflowUdpSource) -> None:
    send(source.listens_on, v5(0, 1))
    source.read_batch()
    source.open()
    assert source.tally.offered == 0
    send(source.listens_on, v5(7, 1))
    assert numbers(source.read_batch()) == [7]
    assert source.tally.kept == 1


def test_receive_buffer_is_stated(source: NetflowUdpSource) -> None:
    assert source.receive_buffer_bytes > 0


def test_both_families_come_to_one_socket() -> None:
    source = NetflowUdpSource("::", 0)
    source.open()
    port = source.listens_on[1]
    send(("127.0.0.1", port), v5(0, 1))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.sendto(v5(1, 1), ("::1", port))
    flows = source.read_batch()
    assert numbers(flows) == [0, 1]
    assert [str(e.address) for e in source.decoder.exporters] == ["127.0.0.1", "::1"]
    source.close()


def test_port_that_is_taken_is_said_in_one_sentence(source: NetflowUdpSource) -> None:
    port = source.listens_on[1]
    with pytest.raises(InputError, match=f"UDP port {port} of"):
        NetflowUdpSource(port=port).open()


def test_reading_before_open_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        NetflowUdpSource(port=0).read_batch()


def test_successor_knows_templates_and_drops_that_were_handed_over(passed: socket.socket) -> None:
    first = NetflowUdpSource(passed=passed, receive_buffer_bytes=4096)
    first.open()
    send(passed.getsockname(), ipfix(template_set()), *(v5(i, 1) for i in range(3000)))
    first.read_batch()
    handed = json.loads(json.dumps(first.handover()))
    first.close()
    dropped = first.tally.dropped["socket"]
    assert dropped > 0
    second = NetflowUdpSource(passed=passed)
    second.take_over(handed)  # of before `close`: that counted no further drop
    second.open()
    while numbers(second.read_batch()):
        pass
    send(passed.getsockname(), ipfix(data_set(0, 5)))
    assert numbers(second.read_batch()) == list(range(5))
    assert second.tally.dropped["socket"] == 0
    second.close()
    second.tally.check()


def test_what_is_parked_is_handed_over_when_the_source_is_closed(passed: socket.socket) -> None:
    first = NetflowUdpSource(passed=passed)
    first.open()
    send(passed.getsockname(), ipfix(data_set(0, 5)))
    assert numbers(first.read_batch()) == []
    first.close()
    second = NetflowUdpSource(passed=passed)
    second.take_over(first.handover())
    second.open()
    assert second.tally.parked == 1
    send(passed.getsockname(), ipfix(template_set()))
    assert numbers(second.read_batch()) == list(range(5))
    second.close()
    second.tally.check()


def test_handover_is_the_same_object_until_there_is_something_new(passed: socket.socket) -> None:
    clock = ManualClock(1_800_000_000 * 10**9)
    source = NetflowUdpSource(passed=passed, clock=clock, gather_s=0)
    source.open()
    send(passed.getsockname(), ipfix(template_set()))
    source.read_batch()
    told = source.handover()
    send(passed.getsockname(), ipfix(template_set(), data_set(0, 1)))
    source.read_batch()
    assert source.handover() is told
    clock.advance(60 * 10**9)  # the age of templates is told now and then
    send(passed.getsockname(), v5(0, 1))
    source.read_batch()
    assert source.handover() is not told
    source.close()


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda v: v.update(version=2), "version 2"),
        (lambda v: v.update(mark=7), "the mark of a socket must be a mapping"),
        (lambda v: v["mark"].update(drop_count=1 << 32), "numbers of 64 and 32 bits"),
        (lambda v: v["mark"].update(cookie="x"), "numbers of 64 and 32 bits"),
        (lambda v: v.update(exporters=None), "the exporters' state must be a mapping"),
    ],
)
def test_handover_that_is_broken_is_refused_and_the_source_goes_on_without_it(
    passed: socket.socket, change: Callable[[dict[str, Any]], object], mention: str
) -> None:
    first = NetflowUdpSource(passed=passed)
    first.open()
    first.close()
    handed = json.loads(json.dumps(first.handover()))
    change(handed)
    source = NetflowUdpSource(passed=passed)
    with pytest.raises(InputError, match=mention):
        source.take_over(handed)
    source.open()
    send(passed.getsockname(), v5(0, 1))
    assert numbers(source.read_batch()) == [0]
    source.close()


def test_mark_of_before_the_machine_was_started_says_nothing(passed: socket.socket) -> None:
    mark = SocketMark.of(passed)
    assert SocketMark.from_dict(mark.as_dict()) == mark
    assert SocketMark.from_dict(mark.as_dict() | {"boot": "another"}) is None
