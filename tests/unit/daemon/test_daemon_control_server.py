"""The control socket belongs to one daemon, and outlives none."""

import socket
from pathlib import Path

import pytest
from nsstream_daemon.control_server import ControlServer, ask

from nsstream.errors import InputError, OutputError


def server(path: Path, name: str) -> ControlServer:
    return ControlServer(path, lambda request: name, lambda thread, error: None)


def test_a_socket_that_a_daemon_listens_at_is_not_taken_from_it(tmp_path: Path):
    path = tmp_path / "control.sock"
    first, second = server(path, "first"), server(path, "second")
    first.start()
    try:
        with pytest.raises(OutputError, match="another daemon listens at "):
            second.start()
        second.stop()
        assert ask(path, {"command": "status"}) == "first"
    finally:
        first.stop()
    assert not path.exists()


def test_a_socket_that_cannot_be_made_is_told_by_its_key(tmp_path: Path):
    with pytest.raises(OutputError, match=r"No such file or directory; control\.socket is in a folder"):
        server(tmp_path / "none" / "control.sock", "first").start()


def test_who_finds_no_daemon_is_told_where_to_look(tmp_path: Path):
    with pytest.raises(InputError, match=r"no such socket; is it running\? .* give --socket or NSSTREAM_"):
        ask(tmp_path / "control.sock", {"command": "status"})


def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    second = server(path, "second")
    second.start()
    try:
        assert ask(path, {"command": "status"}) == "second"
    finally:
        second.stop()
