"""Endpoints and checkpoints: what is named in a command or on the command line, before it is used."""

import json
import os
import socket

import pytest

from nsstream.errors import InputError, ReplayError
from nsstream.replay.checkpoints import MAX_MANIFEST_BYTES, read_checkpoints
from nsstream.replay.endpoint import check_endpoint, check_socket_path_is_free, endpoint_of, reach

MINUTE_NS = 60 * 10**9


def checkpoint(directory, index=0, **changes):
    path = directory / f"m{index}"
    path.mkdir(parents=True)
    manifest = {"id": f"m{index}", "start_ns": index * MINUTE_NS, "end_ns": (index + 1) * MINUTE_NS, **changes}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return str(path)


@pytest.mark.parametrize(
    ("endpoint", "has_keys", "is_server"),
    [
        ("ipc:///run/x.sock", False, False),
        ("ipc:///run/x.sock", False, True),
        ("tcp://127.0.0.1:5555", True, False),
        ("tcp://lab.example.org:5555", True, False),
        ("tcp://[::1]:5555", True, False),
        ("tcp://0.0.0.0:5555", True, True),
        ("tcp://[::]:5555", True, True),
        ("tcp://127.0.0.1:*", True, True),
    ],
)
def test_an_endpoint_is_taken(endpoint, has_keys, is_server):
    assert check_endpoint(endpoint, has_keys=has_keys, is_server=is_server) == endpoint


@pytest.mark.parametrize("is_server", [False, True])
@pytest.mark.parametrize(
    "endpoint",
    ["", "ipc://x.sock", "tcp://*:1", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:65534", "tcp://127.0.0.1:0",
     "tcp://127.0.0.1:٣", "inproc://x", "ipc:///" + "x" * 99, "tcp://127.0.0.1:1\n", "tcp://::1:5", "tcp://[1]:5",
     "tcp://[lab]:5", "tcp://a b:5", "tcp://lo;127.0.0.1:5", "ipc:///x\0y"],
)  # fmt: skip
def test_any_other_endpoint_is_refused(endpoint, is_server):
    with pytest.raises(ReplayError):
        check_endpoint(endpoint, has_keys=endpoint.startswith("tcp"), is_server=is_server)


def test_tcp_is_refused_without_keys_and_a_unix_socket_with():
    for endpoint in ("tcp://127.0.0.1:5555", "tcp://10.0.0.1:5555"):
        with pytest.raises(ReplayError, match="needs CURVE keys, also on this machine"):
            check_endpoint(endpoint)
    with pytest.raises(ReplayError, match="has no keys"):
        check_endpoint("ipc:///run/x.sock", has_keys=True)


def test_a_server_binds_no_name_and_a_client_no_port_of_any_kind():
    with pytest.raises(ReplayError, match="with an address and a port"):
        check_endpoint("tcp://lab.example.org:5555", has_keys=True, is_server=True)
    with pytest.raises(ReplayError, match="with a host and a port"):
        check_endpoint("tcp://127.0.0.1:*", has_keys=True)


def test_the_other_planes_are_beside_that_for_commands():
    assert endpoint_of("status", "ipc:///run/x.sock") == "ipc:///run/x.sock.status"
    assert endpoint_of("packets", "tcp://[::1]:5555") == "tcp://[::1]:5557"
    assert endpoint_of("status", "tcp://127.0.0.1:*") == "tcp://127.0.0.1:*"


def test_a_socket_on_all_addresses_is_reached_by_the_one_that_was_used():
    assert reach("tcp://0.0.0.0:5557", "tcp://lab:5555") == "tcp://lab:5557"
    assert reach("tcp://[::]:5557", "tcp://[fe80::1]:5555") == "tcp://[fe80::1]:5557"
    assert reach("tcp://10.0.0.1:5557", "tcp://lab:5555") == "tcp://10.0.0.1:5557"
    assert reach("ipc:///x.packets", "ipc:///x") == "ipc:///x.packets"


def test_a_file_in_the_place_of_the_socket_is_not_destroyed(tmp_path):
    (tmp_path / "x").write_text("precious")
    with pytest.raises(ReplayError, match="is not a socket"):
        check_socket_path_is_free(tmp_path / "x")
    with pytest.raises(ReplayError, match="directory does not exist"):
        check_socket_path_is_free(tmp_path / "none" / "x")


def test_a_socket_is_free_once_nobody_listens_on_it(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "x"))
        listener.listen()
        with pytest.raises(ReplayError, match="another server"):
            check_socket_path_is_free(tmp_path / "x")
    check_socket_path_is_free(tmp_path / "x")
    check_socket_path_is_free(tmp_path / "new")


def test_checkpoints_are_read_in_order(tmp_path):
    found = read_checkpoints([checkpoint(tmp_path, 0), checkpoint(tmp_path, 1), checkpoint(tmp_path, 5)])
    assert [(c.id, c.start_ns, c.end_ns) for c in found] == [
        ("m0", 0, MINUTE_NS),
        ("m1", MINUTE_NS, 2 * MINUTE_NS),
        ("m5", 5 * MINUTE_NS, 6 * MINUTE_NS),
    ]


def test_checkpoints_out_of_order_are_refused(tmp_path):
    with pytest.raises(InputError, match="in the order of their chunks"):
        read_checkpoints([checkpoint(tmp_path, 1), checkpoint(tmp_path, 0)])


@pytest.mark.parametrize(
    "changes",
    [{"id": ""}, {"id": 3}, {"id": "x" * 201}, {"id": "a\nb"}, {"id": "\ud800"}, {"start_ns": None}, {"start_ns": 1.5},
     {"end_ns": 0}, {"end_ns": 2**63}, {"start_ns": -1}, {"start_ns": True}],
)  # fmt: skip
def test_a_manifest_that_lacks_what_replay_needs_is_refused(tmp_path, changes):
    with pytest.raises(InputError, match=r"manifest\.json: "):
        read_checkpoints([checkpoint(tmp_path, **changes)])


@pytest.mark.parametrize(
    ("octets", "reason"),
    [(b"", "not JSON"), (b"\xff", "not JSON"), (b"[]", "not a JSON object"), (b"[" * 200_000, "not JSON"),
     (b" " * (MAX_MANIFEST_BYTES + 1), "too many for a manifest")],
)  # fmt: skip
def test_a_manifest_of_other_octets_is_refused(tmp_path, octets, reason):
    (tmp_path / "manifest.json").write_bytes(octets)
    with pytest.raises(InputError, match=reason):
        read_checkpoints([str(tmp_path)])


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_checkpoints([str(tmp_path / "none")])
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_checkpoints([str(tmp_path)])
