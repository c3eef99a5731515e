from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from made_netflow import data_set, ipfix, template_set

from nsstream.capture.netflow_tcp import NetflowTcpSource
from nsstream.capture.sockets import bind_socket
from nsstream.clock import ManualClock
from nsstream.errors import InputError

DEADLINE_S = 300.0


class _Clock(ManualClock):
    """Moves a little with each look, so that a wait ends."""

    def monotonic_ns(self) -> int:
        self.advance(20_000_000)
        return super().monotonic_ns()


@pytest.fixture
def source() -> Iterator[NetflowTcpSource]:
    source = NetflowTcpSource(port=0, most_sessions=3)
    source.open()
    yield source
    source.close()


@pytest.fixture
def connect(source: NetflowTcpSource) -> Iterator[Callable[[], socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(source.listens_on, timeout=DEADLINE_S))


def read_until(source: NetflowTcpSource, holds: Callable[[], bool]) -> list[int]:
    """The numbers of the flows that come until a condition holds, which must be soon."""
    rows: list[int] = []
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        flows = source.read_batch()
        assert flows is not None
        source.tally.check()
        rows += [int.from_bytes(row[12:].tobytes(), "big") for row in flows.source_address]
    return rows


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_messages_come_whole_however_the_stream_is_cut(
    source: NetflowTcpSource, connect: Callable[[], socket.socket]
) -> None:
    exporter = connect()
    stream = ipfix(template_set()) + ipfix(data_set(0, 20)) + ipfix(data_set(20, 20), sequence=20)
    rows = []
    for at in range(0, len(stream), 97):
        exporter.sendall(stream[at : at + 97])
        rows += read_until(source, lambda: source.sessions.opened == 1)
        flows = source.read_batch()
        assert flows is not None
        rows += [int.from_bytes(row[12:].tobytes(), "big") for row in flows.source_address]
        if len(rows) == 40:
            break
    assert rows == list(range(40))
    assert source.tally.kept == source.tally.offered == 40


def test_templates_belong_to_their_session(source: NetflowTcpSource, connect: Callable[[], socket.socket]) -> None:
    one, other = connect(), connect()
    one.sendall(ipfix(template_set()) + ipfix(data_set(0, 5)))
    other.sendall(ipfix(data_set(100, 5)))
    assert read_until(source, lambda: source.tally.kept == 5 and source.tally.parked == 1) == list(range(5))
    other.close()
    read_until(source, lambda: source.sessions.ended == 1)
    assert source.tally.parked == 0
    assert source.tally.malformed == {"no_template": 1}
    assert len(source.decoder.exporters) == 1


def test_last_messages_of_a_session_are_read_with_its_templates(
    source: NetflowTcpSource, connect: Callable[[], socket.socket]
) -> None:
    exporter = connect()
    exporter.sendall(ipfix(template_set()) + ipfix(data_set(0, 9)))
    exporter.close()
    assert read_until(source, lambda: source.sessions.ended == 1) == list(range(9))
    assert source.decoder.exporters == []


def test_stream_that_is_no_ipfix_is_closed_and_counted_after_the_messages_before_it(
    source: NetflowTcpSource, connect: Callable[[], socket.socket]
) -> None:
    exporter = connect()
    exporter.sendall(ipfix(template_set()) + ipfix(data_set(0, 2)) + b"GET / HTTP/1.1\r\n")
    assert read_until(source, lambda: source.sessions.broken == 1) == [0, 1]
    assert source.tally.malformed == {"not_ipfix": 1}
    assert source.session_count == 0
    assert exporter.recv(1) == b""


def test_session_cut_in_a_message_is_counted(source: NetflowTcpSource, connect: Callable[[], socket.socket]) -> None:
    exporter = connect()
    exporter.sendall(ipfix(data_set(0, 2))[:-1])
    exporter.close()
    read_until(source, lambda: source.sessions.ended == 1)
    assert source.tally.malformed == {"cut_session": 1}


def test_session_that_is_reset_ends(source: NetflowTcpSource, connect: Callable[[], socket.socket]) -> None:
    exporter = connect()
    read_until(source, lambda: source.sessions.opened == 1)
    reset(exporter)
    read_until(source, lambda: source.sessions.ended == 1)
    assert source.tally.offered == 0


def test_session_too_many_is_refused_and_the_others_go_on(
    source: NetflowTcpSource, connect: Callable[[], socket.socket]
) -> None:
    exporters = [connect() for _ in range(3)]
    read_until(source, lambda: source.sessions.opened == 3)
    refused = connect()
    read_until(source, lambda: source.sessions.refused == 1)
    assert refused.recv(1) == b""
    exporters[2].sendall(ipfix(template_set(), data_set(0, 4)))
    assert read_until(source, lambda: source.tally.kept == 4) == list(range(4))
    exporters[0].close()
    read_until(source, lambda: source.sessions.ended == 1)
    connect()
    read_until(source, lambda: source.sessions.opened == 4)


def test_session_that_sends_half_a_message_holds_up_nobody(
    source: NetflowTcpSource, connect: Callable[[], socket.socket]
) -> None:
    slow, quick = connect(), connect()
    slow.sendall(ipfix(template_set(), data_set(0, 4))[:-1])
    quick.sendall(ipfix(template_set(), data_set(10, 4)))
    assert read_until(source, lambda: source.tally.kept == 4) == [10, 11, 12, 13]
    assert source.session_count == 2


def test_session_without_a_whole_message_for_long_is_closed() -> None:
    source = NetflowTcpSource(port=0, idle_timeout_s=1.0, clock=_Clock(1))
    source.open()
    with socket.create_connection(source.listens_on, timeout=DEADLINE_S) as exporter:
        exporter.sendall(b"\0\x0a")
        read_until(source, lambda: source.sessions.idle == 1)
        assert exporter.recv(1) == b""
    assert source.tally.malformed == {"cut_session": 1}
    source.close()


def test_what_was_acknowledged_but_not_read_is_counted_at_close(
    source: NetflowTcpSource, connect: Callable[[], socket.socket]
) -> None:
    exporter = connect()
    read_until(source, lambda: source.sessions.opened == 1)
    exporter.sendall(ipfix(template_set()) + ipfix(data_set(0, 4)))
    exporter.shutdown(socket.SHUT_WR)
    source.close()
    assert source.tally.dropped == {"socket": 2}
    source.tally.check()
    assert source.read_batch() is None
    assert exporter.recv(1) == b""


def test_listening_socket_that_was_passed_stays_open() -> None:
    with bind_socket("::", 0, socket.SOCK_STREAM) as passed:
        for first in (0, 10):
            source = NetflowTcpSource(passed=passed)
            source.open()
            with socket.create_connection(("127.0.0.1", source.listens_on[1]), timeout=DEADLINE_S) as exporter:
                exporter.sendall(ipfix(template_set(), data_set(first, 2)))
                assert read_until(source, lambda: source.tally.kept == 2) == [first, first + 1]  # noqa: B023
            source.close()


def test_exporter_that_connects_while_nobody_listens_is_served_by_the_successor() -> None:
    with bind_socket("127.0.0.1", 0, socket.SOCK_STREAM) as passed, socket.create_connection(passed.getsockname()) as x:
        x.sendall(ipfix(template_set(), data_set(0, 2)))
        source = NetflowTcpSource(passed=passed)
        source.open()
        assert read_until(source, lambda: source.tally.kept == 2) == [0, 1]
        source.close()


def test_port_that_is_taken_is_said_in_one_sentence(source: NetflowTcpSource) -> None:
    with pytest.raises(InputError, match="cannot be listened on"):
        NetflowTcpSource(port=source.listens_on[1]).open()


def test_no_session_at_all_is_no_source() -> None:
    with pytest.raises(ValueError, match="most_sessions"):
        NetflowTcpSource(most_sessions=0)
