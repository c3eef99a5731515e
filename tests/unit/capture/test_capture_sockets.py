from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nsstream.capture.sockets import (
    LISTEN_FDS_START,
    SocketMark,
    bind_socket,
    duplicate_socket,
    grow_receive_buffer,
    passed_sockets,
    receive_buffer_bytes,
)
from nsstream.errors import InputError


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    sock = bind_socket("127.0.0.1", 0, socket.SOCK_DGRAM)
    yield sock
    sock.close()


def run_activated(descriptors: list[int], environ: dict[str, str], program: str) -> str:
    """Run a program as systemd would: descriptors from 3 on, LISTEN_PID its own."""
    command = ["import os, sys"]
    command += [f"os.dup2({fd}, {100 + i})" for i, fd in enumerate(descriptors)]
    command += [f"os.dup2({100 + i}, {LISTEN_FDS_START + i})" for i in range(len(descriptors))]
    command += [
        "os.environ['LISTEN_PID'] = str(os.getpid())",
        f"os.execv(sys.executable, [sys.executable, '-c', {program!r}])",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(command)],
        pass_fds=descriptors,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


TELL = """
import os
from nsstream.capture.sockets import passed_sockets
from nsstream.errors import InputError
try:
    for passed in passed_sockets(os.environ, os.getpid()):
        kind = passed.socket.type.name
        print(passed.name, kind, passed.socket.getsockname()[1], os.get_inheritable(passed.socket.fileno()))
except InputError as err:
    print(err)
"""


def test_sockets_that_a_service_manager_passes_come_with_their_names(bound: socket.socket) -> None:
    with bind_socket("127.0.0.1", 0, socket.SOCK_STREAM) as listener:
        environ = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "netflow:ipfix"}
        told = run_activated([bound.fileno(), listener.fileno()], environ, TELL)
        assert told.splitlines() == [
            f"netflow SOCK_DGRAM {bound.getsockname()[1]} False",
            f"ipfix SOCK_STREAM {listener.getsockname()[1]} False",
        ]


def test_sockets_without_names_are_unknown_as_in_systemd(bound: socket.socket) -> None:
    assert run_activated([bound.fileno()], {"LISTEN_FDS": "1"}, TELL).startswith("unknown SOCK_DGRAM")


def test_descriptor_that_is_no_socket_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        told = run_activated([reader], {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "netflow"}, TELL)
    finally:
        os.close(reader)
        os.close(writer)
    assert told == "descriptor 3 (netflow), passed by LISTEN_FDS, is no socket: Socket operation on non-socket"


@pytest.mark.parametrize(
    "environ",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "7"}],
)
def test_nothing_is_passed_to_another_process(environ: dict[str, str]) -> None:
    assert passed_sockets(environ, 7) == []


@pytest.mark.parametrize("count", ["", "-1", "one", "1e3", "²", "999999"])
def test_count_of_descriptors_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(InputError, match="LISTEN_FDS must be"):
        passed_sockets({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7)


def test_names_that_do_not_match_the_descriptors_are_refused() -> None:
    with pytest.raises(InputError, match="names 2 descriptors, LISTEN_FDS passes 1"):
        passed_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, 7)


def test_every_address_is_both_families() -> None:
    with bind_socket("::", 0, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        port = sock.getsockname()[1]
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(address.encode(), (address, port))
            assert sock.recv(100) == address.encode()


@pytest.mark.parametrize("address", ["localhost", "", "300.1.1.1", "127.0.0.1:2055", "fe80::1%none0"])
def test_address_that_is_none_is_refused_by_name(address: str) -> None:
    with pytest.raises(InputError, match="no numeric IPv4 or IPv6 address"):
        bind_socket(address, 0, socket.SOCK_DGRAM)


def test_port_that_is_taken_is_refused_by_name(bound: socket.socket) -> None:
    port = bound.getsockname()[1]
    with pytest.raises(InputError, match=rf"UDP port {port} of 127\.0\.0\.1 cannot be listened on: Address already in"):
        bind_socket("127.0.0.1", port, socket.SOCK_DGRAM)


def test_foreign_address_is_refused() -> None:
    with pytest.raises(InputError, match=r"TCP port 0 of 192\.0\.2\.1 cannot be listened on"):
        bind_socket("192.0.2.1", 0, socket.SOCK_STREAM)


def test_duplicate_outlives_neither_more_nor_less_than_its_owner_says(bound: socket.socket) -> None:
    copy = duplicate_socket(bound, socket.SOCK_DGRAM)
    assert copy.getsockname() == bound.getsockname()
    copy.close()
    assert bound.fileno() >= 0


def test_socket_of_another_kind_is_refused(bound: socket.socket) -> None:
    with pytest.raises(InputError, match="is not of TCP"):
        duplicate_socket(bound, socket.SOCK_STREAM)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, pytest.raises(InputError, match="is not of UDP: AF_UNIX"):
        duplicate_socket(ours, socket.SOCK_DGRAM)
    with socket.socket() as idle, pytest.raises(InputError, match="does not listen"):
        duplicate_socket(idle, socket.SOCK_STREAM)


def test_socket_that_is_closed_is_refused() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.close()
    with pytest.raises(InputError, match="cannot be used"):
        duplicate_socket(sock, socket.SOCK_DGRAM)


def test_receive_buffer_grows_and_never_shrinks(bound: socket.socket) -> None:
    before = receive_buffer_bytes(bound)
    grown = grow_receive_buffer(bound, before + 65536)
    assert grown == receive_buffer_bytes(bound) >= before
    assert grow_receive_buffer(bound, 4096) == grown


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_receive_buffer_is_what_was_asked_for_where_the_kernel_may_be_forced(bound: socket.socket) -> None:
    assert grow_receive_buffer(bound, 64 << 20) == 64 << 20


def test_mark_tells_how_much_the_kernel_dropped(bound: socket.socket) -> None:
    before = SocketMark.of(bound)
    assert before.drop_count == 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(2000):
            sender.sendto(bytes(1400), bound.getsockname())
    bound.setblocking(False)
    received = 0
    try:
        while bound.recv(2000):
            received += 1
    except BlockingIOError:
        pass
    after = SocketMark.of(bound)
    assert 0 < received < 2000
    assert after.drops_since(before) == 2000 - received
    assert after.drops_since(after) == 0


def test_mark_of_another_socket_is_no_start_to_count_from() -> None:
    assert SocketMark(2, 5).drops_since(SocketMark(1, 3)) == 5
    assert SocketMark(2, 5).drops_since(None) == 5


def test_count_of_drops_wraps() -> None:
    assert SocketMark(1, 2).drops_since(SocketMark(1, 2**32 - 3)) == 5
