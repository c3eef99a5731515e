from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from nsstream.capture.datagrams import SLOTS, DatagramReceiver
from nsstream.capture.sockets import bind_socket
from nsstream.clock import SystemClock
from nsstream.errors import InputError


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    sock = bind_socket("::", 0, socket.SOCK_DGRAM)
    yield sock
    sock.close()


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def receiver_of(sock: socket.socket, **options: int) -> DatagramReceiver:
    settings = {"most_datagrams": 100, "most_bytes": 1 << 20} | options
    return DatagramReceiver(sock, SystemClock(), **settings)


def send(sender: socket.socket, bound: socket.socket, *payloads: bytes) -> None:
    for payload in payloads:
        sender.sendto(payload, ("127.0.0.1", bound.getsockname()[1]))


def test_datagrams_come_whole_and_in_order_with_sender_and_time(bound: socket.socket, sender: socket.socket) -> None:
    receiver = receiver_of(bound)
    payloads = [b"first", b"", b"x" * 1400, b"last"]
    before_ns = time.time_ns()
    send(sender, bound, *payloads)
    assert not receiver.fill()
    taken = receiver.take()
    after_ns = time.time_ns()  # on a busy machine the kernel stamps a datagram behind the call that sent it
    assert len(taken) == 4
    assert [taken.octets[a:b].tobytes() for a, b in zip(taken.offset, taken.offset[1:], strict=False)] == payloads
    assert taken.octets.tobytes() == b"".join(payloads)
    assert (taken.sender == np.frombuffer(bytes(10) + b"\xff\xff\x7f\0\0\1", np.uint8)).all()
    assert (taken.sender_port == sender.getsockname()[1]).all()
    assert before_ns <= taken.receive_time_ns[0] <= taken.receive_time_ns[-1] <= after_ns


@pytest.mark.parametrize("bound_to", ["127.0.0.1", "::1"])
def test_socket_of_one_family_tells_its_senders_alike(bound_to: str) -> None:
    with bind_socket(bound_to, 0, socket.SOCK_DGRAM) as bound, bind_socket(bound_to, 0, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"payload", bound.getsockname()[:2])
        receiver = receiver_of(bound)
        receiver.fill()
        taken = receiver.take()
        wanted = bytes(15) + b"\1" if bound_to == "::1" else bytes(10) + b"\xff\xff\x7f\0\0\1"
        assert taken.sender[0].tobytes() == wanted
        assert taken.sender_port[0] == sender.getsockname()[1]


def test_receiver_says_when_more_may_be_queued_and_when_it_is_full(bound: socket.socket, sender: socket.socket) -> None:
    receiver = receiver_of(bound)
    send(sender, bound, *(b"%d" % i for i in range(100 + SLOTS)))
    assert receiver.fill()
    assert not receiver.is_full
    assert receiver.fill()
    assert receiver.is_full
    first = receiver.take().octets.tobytes()
    assert len(receiver) == 0
    assert not receiver.fill()
    assert first + receiver.take().octets.tobytes() == b"".join(b"%d" % i for i in range(100 + SLOTS))


def test_receiver_is_full_by_octets_too(bound: socket.socket, sender: socket.socket) -> None:
    receiver = receiver_of(bound, most_bytes=3000)
    send(sender, bound, bytes(1000), bytes(1000))
    receiver.fill()
    assert not receiver.is_full
    send(sender, bound, bytes(65_000))
    receiver.fill()
    assert receiver.is_full
    assert receiver.take().offset.tolist() == [0, 1000, 2000, 67_000]


def test_longest_datagrams_in_every_slot_have_room(bound: socket.socket, sender: socket.socket) -> None:
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    receiver = receiver_of(bound, most_bytes=1)
    send(sender, bound, *(bytes([i]) * 65_507 for i in range(3)))
    receiver.fill()
    taken = receiver.take()
    assert taken.octets.tobytes() == b"".join(bytes([i]) * 65_507 for i in range(3))


def test_datagram_that_is_too_long_is_counted_and_not_kept(bound: socket.socket, sender: socket.socket) -> None:
    receiver = receiver_of(bound, datagram_bytes=100)
    send(sender, bound, bytes(100), bytes(101), b"after")
    receiver.fill()
    assert receiver.cut_count == 1
    assert receiver.take().octets.tobytes() == bytes(100) + b"after"


def test_nothing_queued_gives_nothing(bound: socket.socket) -> None:
    receiver = receiver_of(bound)
    assert not receiver.fill()
    taken = receiver.take()
    assert (len(taken), taken.offset.tolist(), taken.octets.size) == (0, [0], 0)


def test_socket_that_broke_is_an_error(bound: socket.socket) -> None:
    receiver = receiver_of(bound)
    bound.close()
    with pytest.raises(InputError, match="cannot be read: Bad file descriptor"):
        receiver.fill()


@pytest.mark.parametrize("options", [{"most_datagrams": 0}, {"most_bytes": 0}, {"datagram_bytes": 65_536}])
def test_limits_out_of_range_are_refused(bound: socket.socket, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        receiver_of(bound, **options)
