from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_logs import eve_line, numbers_of

from nsstream.capture.line_blocks import MAX_LINE_BYTES
from nsstream.capture.table_socket import TableSocketSource
from nsstream.errors import InputError


@contextlib.contextmanager
def opened(source: TableSocketSource) -> Iterator[TableSocketSource]:
    source.open()
    with contextlib.closing(source):
        yield source


def sender_to(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    sender = socket.socket(socket.AF_UNIX, kind)
    sender.connect(os.fspath(path))
    return sender


def read_all(source: TableSocketSource) -> list[int]:
    numbers: list[int] = []
    while (flows := source.read_batch()) is not None and len(flows):
        source.tally.check()
        numbers += numbers_of(flows.source_address)
    return numbers


def test_lines_of_several_senders_are_not_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "eve.sock"
    with opened(TableSocketSource(path)) as source, sender_to(path) as one, sender_to(path) as other:
        one.sendall(eve_line(1)[:50])
        other.sendall(eve_line(2)[:70])
        assert read_all(source) == []
        one.sendall(eve_line(1)[50:])
        assert read_all(source) == [1]
        other.sendall(eve_line(2)[70:] + b"x" * (MAX_LINE_BYTES + 9))
        assert read_all(source) == [2]
        other.sendall(b"x\n" + eve_line(3))
        assert read_all(source) == [3]
        assert source.tally.malformed == {"long_line": 1}


def test_what_was_sent_and_not_read_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "eve.sock"
    with opened(TableSocketSource(path)) as source, sender_to(path) as sender:
        sender.sendall(eve_line(0))
        assert read_all(source) == [0]
        sender.sendall(eve_line(1) + eve_line(2) + b'{"half')
    source.tally.check()
    assert source.tally.dropped == {"socket": 2}
    assert source.tally.malformed == {"cut_record": 1}
    assert not path.exists()


def test_datagram_needs_no_end_of_line(tmp_path: Path) -> None:
    path = tmp_path / "eve.sock"
    with opened(TableSocketSource(path, kind="dgram")) as source, sender_to(path, socket.SOCK_DGRAM) as sender:
        sender.send(eve_line(0).rstrip(b"\n"))
        sender.send(eve_line(1) + eve_line(2))
        sender.send(b"")
        assert read_all(source) == [0, 1, 2]
        sender.send(eve_line(3))
    assert source.tally.dropped == {"socket": 1}


def test_crowd_of_senders_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "eve.sock"
    with opened(TableSocketSource(path, most_senders=1)) as source, sender_to(path) as one, sender_to(path) as other:
        assert read_all(source) == []
        one.sendall(eve_line(0))
        assert read_all(source) == [0]
        assert source.refused_senders == 1
        assert other.recv(1) == b""


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_socket_that_nobody_listens_at_is_replaced_and_one_in_use_is_not(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "eve.sock"
    left = socket.socket(socket.AF_UNIX, {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}[kind])
    left.bind(os.fspath(path))
    left.close()
    with opened(TableSocketSource(path, mode=0o622)) as source:
        assert path.stat().st_mode & 0o777 == 0o622
        with pytest.raises(InputError, match="somebody listens there"):
            TableSocketSource(path, kind=kind).open()
        assert path.exists()
        assert source.read_batch() is not None
    path.write_text("a file")
    with pytest.raises(InputError, match="is not a socket"):
        TableSocketSource(path).open()
    assert path.read_text() == "a file"


def test_table_that_needs_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only lines of JSON"):
        TableSocketSource(tmp_path / "eve.sock", preset="zeek")
