"""A replay server as a process of its own, over real sockets: runs, refusals, hostile clients, and every way to end."""

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import msgpack
import pytest
import zmq
from replay_lab import PATIENCE_S, RECORDED_SERVER, make_model, status_when

from nsstream.errors import ReplayError
from nsstream.replay import RefusedError, ReplayClient, spawn_server
from nsstream.replay.messages import MAX_MESSAGE_BYTES

SEED_THAT_FAILS = 13


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return [make_model(directory, f"m{i}", i) for i in range(3)]


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("endless"), "endless")


@pytest.fixture(scope="module")
def stuck(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("stuck"), "stuck")


@pytest.fixture
def client():
    with spawn_server(command=RECORDED_SERVER) as client:
        yield client


@contextmanager
def server_process(endpoint):
    """A server that the test ends itself; gives the process and its endpoint."""
    child = subprocess.Popen(
        [*RECORDED_SERVER, "--endpoint", endpoint], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield child, json.loads(child.stdout.readline())["endpoint"]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def pcap_sink(path, **more):
    return {"kind": "pcap", "path": path, **more}


def start_endless(client, endless, path):
    client.start([endless], pcap_sink(path), rate=1.0)
    return status_when(client, lambda status: status.packets_written > 0)


def test_a_run_makes_a_file_that_wireshark_reads(client, models, tmp_path):
    client.start(models, pcap_sink(tmp_path / "twin.pcap"), seed=2000)
    seen = []
    last = client.wait(seen.append)
    assert (last.state, last.run, last.chunk, last.chunk_count) == ("done", 1, 3, 3)
    assert (last.packets_written, last.octets_written) == (6000, 360_000)
    assert last.twin_time_s == pytest.approx(121.999)
    assert last.model_id == "m2"
    assert last.tally == {"repaired": 3}
    assert last.packets_drawn_ahead == 0
    assert [s.sequence for s in seen] == sorted({s.sequence for s in seen})
    listed = subprocess.run(
        ["tshark", "-r", tmp_path / "twin.pcap", "-T", "fields", "-e", "frame.time_epoch"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert len(listed) == 6000
    assert (listed[0], listed[-1]) == ("0.000000000", "121.999000000")


@pytest.mark.parametrize("name", ["twin.pcapng", "twin.pcap.gz", "twin.pcapng.zst"])
def test_capinfos_reads_every_kind_of_file(client, models, tmp_path, name):
    client.start(models, pcap_sink(tmp_path / name), seed=100)
    client.wait()
    counted = subprocess.run(["capinfos", "-Tcrm", tmp_path / name], check=True, capture_output=True, text=True)
    assert counted.stdout.strip().endswith(",300")


def test_one_run_follows_another(client, models, tmp_path):
    for i in range(1, 4):
        assert client.start(models, pcap_sink(tmp_path / f"{i}.pcap"), seed=50).run == i
        client.wait()
    assert len({(tmp_path / f"{i}.pcap").read_bytes() for i in range(1, 4)}) == 1


def test_hello_agrees_on_a_version_and_refuses_where_there_is_none(client):
    assert client.hello().version == 2
    with raw_dealer(client) as dealer:
        reply = ask(dealer, msgpack.packb({"v": 2, "id": 3, "type": "hello", "min_version": 3, "max_version": 9}))
        assert (reply["code"], reply["id"]) == ("version", 3)
        reply = ask(dealer, msgpack.packb({"v": 1, "id": 4, "type": "status"}))
        assert (reply["code"], reply["id"]) == ("version", 4)


def test_two_clients_command_one_run(client, endless, tmp_path):
    with ReplayClient(client.endpoint) as other:
        start_endless(client, endless, tmp_path / "twin.pcap")
        assert other.status().state == "running"
        with pytest.raises(RefusedError, match="a run is going on") as refused:
            other.start([endless], pcap_sink(tmp_path / "other.pcap"))
        assert refused.value.code == "state"
        other.stop()
        assert status_when(client, lambda status: status.state == "stopped").error is None
    assert list(tmp_path.iterdir()) == []


def test_stop_without_a_run_is_refused(client):
    with pytest.raises(RefusedError, match="nothing to stop"):
        client.stop()
    with pytest.raises(ReplayError, match="the server is idle"):
        client.wait()


def test_a_stopped_run_leaves_nothing_and_another_may_start(client, endless, models, tmp_path):
    start_endless(client, endless, tmp_path / "twin.pcap")
    assert client.stop().state == "stopping"
    with pytest.raises(ReplayError, match="the server is stopped"):
        client.wait()
    assert list(tmp_path.iterdir()) == []
    client.start(models, pcap_sink(tmp_path / "twin.pcap"), seed=5)
    assert client.wait().packets_written == 15


def test_a_run_that_fails_says_why_and_leaves_nothing(client, models, tmp_path):
    client.start(models, pcap_sink(tmp_path / "twin.pcap"), seed=SEED_THAT_FAILS)
    with pytest.raises(ReplayError, match=r"^model: the weights cannot be read$"):
        client.wait()
    assert client.status().state == "failed"
    assert list(tmp_path.iterdir()) == []
    client.start(models, pcap_sink(tmp_path / "twin.pcap"), seed=5)
    assert client.wait().error is None


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"stream": ["/none"]}, "model", "/none/manifest.json: no such file"),
        ({"sink": pcap_sink("/none/twin.pcap")}, "sink", "directory does not exist"),
        ({"sink": pcap_sink("/tmp/twin.txt")}, "sink", r"ends in \.pcap"),
        ({"sink": {"kind": "fifo", "path": "/dev/null"}}, "sink", "is not a FIFO"),
    ],
)
def test_a_start_that_cannot_work_is_refused_at_once(client, models, tmp_path, change, code, reason):
    arguments = {"stream": models, "sink": pcap_sink(tmp_path / "twin.pcap"), **change}
    with pytest.raises(RefusedError, match=reason) as refused:
        client.start(**arguments)
    assert refused.value.code == code
    assert client.status().state == "idle"


def test_models_of_a_time_that_a_pcap_does_not_have_are_refused_and_go_into_a_pcapng(client, tmp_path):
    late = make_model(tmp_path, "late", (1 << 32) // 60 + 1)
    with pytest.raises(RefusedError, match=r"no times after 7 February 2106.*write a \.pcapng") as refused:
        client.start([late], pcap_sink(tmp_path / "twin.pcap"), seed=5)
    assert refused.value.code == "sink"
    client.start([late], pcap_sink(tmp_path / "twin.pcapng"), seed=5)
    assert client.wait().packets_written == 5
    last = make_model(tmp_path, "last", (1 << 32) // 60)  # of the minute in which it ends
    client.start([last], pcap_sink(tmp_path / "twin.pcap"), seed=20_000)
    with pytest.raises(ReplayError, match="no times after 7 February 2106"):
        client.wait()
    assert not (tmp_path / "twin.pcap").exists()


def test_an_output_that_exists_is_refused_and_kept(client, models, tmp_path):
    path = tmp_path / "twin.pcap"
    path.write_bytes(b"precious")
    with pytest.raises(RefusedError, match="exists already"):
        client.start(models, pcap_sink(path))
    assert path.read_bytes() == b"precious"
    client.start(models, pcap_sink(path, overwrite=True), seed=1)
    client.wait()
    assert path.read_bytes() != b"precious"


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"mtu": 100}, {"rate": 0.0}, {"stream": []}])
def test_a_command_out_of_bounds_is_not_even_sent(client, models, tmp_path, arguments):
    with pytest.raises(ReplayError, match=next(iter(arguments))):
        client.start(**{"stream": models, "sink": pcap_sink(tmp_path / "t.pcap"), **arguments})


def test_a_fifo_gets_the_frames_at_their_pace(client, models, tmp_path):
    fifo, out = tmp_path / "fifo", tmp_path / "out.pcap"
    os.mkfifo(fifo)
    with out.open("wb") as file, subprocess.Popen(["cat", fifo], stdout=file) as reader:
        client.start(models[:1], {"kind": "fifo", "path": fifo}, seed=500, rate=2.0)
        last = client.wait()
        reader.wait(PATIENCE_S)
    assert last.packets_written == 500
    assert last.packets_per_s <= 2100  # 500 frames a millisecond apart, twice as fast: never faster than 0.25 s
    counted = subprocess.run(["capinfos", "-Tcrm", out], check=True, capture_output=True, text=True)
    assert counted.stdout.strip().endswith(",500")


def test_a_run_that_waits_for_a_reader_can_be_stopped(client, models, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    client.start(models, {"kind": "fifo", "path": tmp_path / "fifo"})
    client.stop()
    status_when(client, lambda status: status.state == "stopped")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
@pytest.mark.parametrize("name", ["twin.pcap", "twin.pcapng.zst"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(client, models, tmp_path, name):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], check=True)
    try:
        client.start(models, pcap_sink(tmp_path / name), seed=100_000)
        with pytest.raises(ReplayError, match=f"^{tmp_path / name}: no space is left on the device$"):
            client.wait()
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# Hostile and careless clients.


@contextmanager
def raw_dealer(client):
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(client.endpoint)
    try:
        yield dealer
    finally:
        dealer.close()
        context.term()


def ask(dealer, *frames):
    dealer.send_multipart([b"", *frames])
    assert dealer.poll(PATIENCE_S * 1000)
    return msgpack.unpackb(dealer.recv_multipart()[1])


@pytest.mark.parametrize(
    "frames", [[b"\x80"], [b"x", b"\x80"], [b"", b"", b"\x80"], [b""] * 1000, [b"", b""], [b"", os.urandom(100_000)]]
)
def test_another_envelope_gets_a_refusal(client, frames):
    with raw_dealer(client) as dealer:
        dealer.send_multipart(frames)
        assert dealer.poll(PATIENCE_S * 1000)
        reply = msgpack.unpackb(dealer.recv_multipart()[1])
    assert (reply["type"], reply["code"], reply["id"]) == ("refused", "malformed", None)
    assert client.status().state == "idle"


def test_a_message_too_large_costs_its_sender_the_connection_and_nobody_else(client):
    with raw_dealer(client) as dealer:
        dealer.send_multipart([b"", b"x" * (MAX_MESSAGE_BYTES + 1)])
        assert client.status().state == "idle"
        assert not dealer.poll(200)


def test_octets_that_are_no_zeromq_harm_nobody(client):
    path = client.endpoint.removeprefix("ipc://")
    for octets in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" + b"\0" * 8 + b"\x7f", os.urandom(10_000), b""):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(path)
            with suppress(BrokenPipeError, ConnectionResetError):  # the server may hang up before it has read all
                stranger.sendall(octets)
            assert client.status().state == "idle"


def test_a_client_that_never_reads_stalls_nobody(client):
    with raw_dealer(client) as dealer:
        dealer.setsockopt(zmq.RCVHWM, 1)
        question = msgpack.packb({"v": 2, "id": 1, "type": "status"})
        for _ in range(20_000):
            try:
                dealer.send_multipart([b"", question], zmq.NOBLOCK)
            except zmq.Again:
                break
        for _ in range(100):
            assert client.status().state == "idle"


def test_a_client_that_dies_in_the_middle_stalls_nobody(client):
    for _ in range(50):
        with raw_dealer(client) as dealer:
            dealer.send_multipart([b"", msgpack.packb({"v": 2, "id": 1, "type": "status"})])
    assert client.status().state == "idle"


# Where it listens, and how it ends.


def test_the_socket_is_for_owner_and_group_only(client):
    mode = Path(client.endpoint.removeprefix("ipc://")).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_a_second_server_does_not_take_the_socket(client):
    with (
        pytest.raises(ReplayError, match="another server listens"),
        spawn_server(client.endpoint, command=RECORDED_SERVER),
    ):
        raise AssertionError
    assert client.status().state == "idle"


def test_a_server_takes_over_the_socket_of_a_killed_one(tmp_path):
    endpoint = f"ipc://{tmp_path}/control.sock"
    with server_process(endpoint):
        pass
    assert (tmp_path / "control.sock").exists()
    with spawn_server(endpoint, command=RECORDED_SERVER) as client:
        assert client.status().state == "idle"
    assert list(tmp_path.iterdir()) == []


def test_shutdown_ends_the_server_and_its_run(endless, tmp_path):
    with server_process(f"ipc://{tmp_path}/control.sock") as (child, endpoint):
        with ReplayClient(endpoint) as client:
            start_endless(client, endless, tmp_path / "twin.pcap")
            assert client.shutdown().state == "closing"
        assert child.wait(PATIENCE_S) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_its_run(endless, tmp_path, number):
    with server_process(f"ipc://{tmp_path}/control.sock") as (child, endpoint), ReplayClient(endpoint) as client:
        start_endless(client, endless, tmp_path / "twin.pcap")
        child.send_signal(number)
        assert child.wait(PATIENCE_S) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_sigterm_after_a_sigint_does_not_cut_the_end_short(endless, tmp_path):
    with server_process(f"ipc://{tmp_path}/control.sock") as (child, endpoint), ReplayClient(endpoint) as client:
        start_endless(client, endless, tmp_path / "twin.pcap")
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_draw_that_never_ends_does_not_keep_the_server(stuck, tmp_path):
    with server_process(f"ipc://{tmp_path}/control.sock") as (child, endpoint):
        with ReplayClient(endpoint) as client:
            client.start([stuck], pcap_sink(tmp_path / "twin.pcap"))
            client.stop()
            assert client.status().state == "stopping"
            with pytest.raises(RefusedError, match="still being stopped"):
                client.start([stuck], pcap_sink(tmp_path / "twin.pcap"))
            client.shutdown()
        assert child.wait(PATIENCE_S) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_server_is_an_error_of_its_client_and_leaves_no_file(endless, tmp_path):
    with server_process(f"ipc://{tmp_path}/control.sock") as (child, endpoint), ReplayClient(endpoint, 5.0) as client:
        start_endless(client, endless, tmp_path / "twin.pcap")
        child.kill()
        with pytest.raises(ReplayError, match="does not answer"):
            client.wait()
    assert not (tmp_path / "twin.pcap").exists()


def test_a_server_that_is_not_there_is_an_error_in_time(tmp_path):
    answer = pytest.raises(ReplayError, match=r"does not answer within 0\.1 s; is it running\?")
    with ReplayClient(f"ipc://{tmp_path}/none.sock", timeout_s=0.1) as client, answer:
        client.hello()


def test_a_server_ends_when_its_parent_is_killed():
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from nsstream.replay import spawn_server\n"
            "with spawn_server(command=sys.argv[1:]) as client:\n"
            "    print(client.endpoint, flush=True); sys.stdin.read()",
            *RECORDED_SERVER,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        endpoint = parent.stdout.readline().decode().strip()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 1
        server = os.pidfd_open(int(children[0]))
        try:
            parent.kill()
            assert select.select([server], [], [], PATIENCE_S)[0]
        finally:
            os.close(server)
    socket_path = Path(endpoint.removeprefix("ipc://"))
    assert not socket_path.exists()
    socket_path.parent.rmdir()


def test_an_error_of_the_user_ends_the_server_too(tmp_path):
    with pytest.raises(KeyError), spawn_server(f"ipc://{tmp_path}/control.sock", command=RECORDED_SERVER):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_says_why(tmp_path):
    endpoint = f"ipc://{tmp_path}/none/control.sock"
    with pytest.raises(ReplayError, match="directory does not exist"), spawn_server(endpoint, command=RECORDED_SERVER):
        raise AssertionError
    with pytest.raises(ReplayError, match="an endpoint is ipc"), spawn_server("ipc://x", command=RECORDED_SERVER):
        raise AssertionError
    with pytest.raises(ReplayError, match="ended before it was ready"), spawn_server(command=["/bin/false"]):
        raise AssertionError
    with pytest.raises(ReplayError, match="cannot be started"), spawn_server(command=["/none/python"]):
        raise AssertionError


@pytest.mark.parametrize(
    ("module", "heavy"), [("nsstream.replay", {"torch", "numba", "numpy"}), ("nsstream.replay.server", {"torch"})]
)
def test_imports_are_light(module, heavy):
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"[]\n"
