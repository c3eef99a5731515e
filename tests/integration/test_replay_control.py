"""A run is steered over real sockets: rates, pauses, seeks, loops, controllers, CURVE keys, and status as it comes."""

import asyncio
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise

import msgpack
import pytest
import zmq
from replay_lab import PATIENCE_S, RECORDED_SERVER, make_model, status_when

from nsstream.errors import ReplayError
from nsstream.replay import BitRate, PacketRate, RefusedError, ReplayClient, spawn_server
from nsstream.replay.async_client import AsyncReplayClient
from nsstream.replay.keys import allow_client, load_client_keys, load_server_keys, make_keys, make_server_keys
from nsstream.replay.sockets import connect


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("endless"), "endless")


@pytest.fixture(scope="module")
def looped(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("looped"), "looped")


@pytest.fixture
def client():
    with spawn_server(command=RECORDED_SERVER) as client:
        yield client


def pcap_sink(path):
    return {"kind": "pcap", "path": path}


def test_a_paused_run_writes_nothing_until_it_is_resumed(client, endless, tmp_path):
    client.start([endless], pcap_sink(tmp_path / "t.pcap"), rate=1.0)
    status_when(client, lambda status: status.packets_written > 10)
    assert client.pause().state == "paused"
    assert client.pause().state == "paused"
    paused, unchanged = client.status(), 0
    until_s = time.monotonic() + PATIENCE_S
    while unchanged < 50:  # what was due already was being written
        assert time.monotonic() < until_s, "it goes on writing"
        now = client.status()
        unchanged = unchanged + 1 if now.packets_written == paused.packets_written else 0
        paused = now
    assert client.resume().state == "running"
    status_when(client, lambda status: status.packets_written > paused.packets_written + 10)
    assert client.pause().state == "paused"
    assert client.stop().state == "stopping"
    status_when(client, lambda status: status.state == "stopped")


@pytest.mark.parametrize("rate", ["max", 100.0, PacketRate(packets_per_s=1e6), BitRate(bits_per_s=1e9)])
def test_a_rate_is_changed_while_it_runs(client, endless, tmp_path, rate):
    client.start([endless], pcap_sink(tmp_path / "t.pcap"), rate=0.001)  # a frame a second
    assert client.status().rate == 0.001
    client.set_rate(rate)
    status = status_when(client, lambda status: status.packets_written > 2000)
    assert status.rate == rate


def test_a_seek_goes_on_at_another_time(client, endless, tmp_path):
    path = tmp_path / "t.pcap"
    hour_ns = 3600 * 10**9
    client.start([endless], {"kind": "subscribers"}, rate=1.0)
    status_when(client, lambda status: status.packets_written > 10)
    client.seek(hour_ns)
    status = status_when(client, lambda status: (status.twin_now_ns or 0) >= hour_ns)
    assert status.twin_now_ns < hour_ns + 3600 * 10**9
    assert status.tally["replay_skipped_by_seek"] > 0
    client.seek(5 * 10**9)
    status = status_when(client, lambda status: 5 * 10**9 <= status.twin_now_ns < hour_ns)
    client.stop()
    stopped = status_when(client, lambda status: status.state == "stopped")
    assert stopped.counters["frames_written"] == stopped.packets_written
    assert not path.exists()


def test_a_seek_in_a_pause_stays_paused(client, endless):
    client.start([endless], {"kind": "subscribers"}, rate=1.0)
    status_when(client, lambda status: status.packets_written > 10)
    client.pause()
    client.seek(7200 * 10**9)
    paused = status_when(client, lambda status: status.tally.get("replay_skipped_by_seek") is not None
                         or status.packets_drawn_ahead > 0)  # fmt: skip
    assert paused.state == "paused"
    client.resume()
    status_when(client, lambda status: status.twin_now_ns >= 7200 * 10**9)


def test_a_loop_is_counted_and_changed(client, looped, tmp_path):
    client.start([looped], pcap_sink(tmp_path / "a.pcap"), seed=10, loop=3)
    assert client.wait().packets_written == 30
    client.start([looped], pcap_sink(tmp_path / "b.pcap"), seed=1000, loop=None, rate=1.0)
    assert status_when(client, lambda status: status.packets_written > 0).chunk_count is None
    client.set_loop(4)
    client.set_rate("max")
    done = client.wait()
    assert done.packets_written % 1000 == 0
    assert done.packets_written >= 4000


def test_more_passes_may_be_asked_for_when_the_last_is_drawn(client, looped, tmp_path):
    client.start([looped], pcap_sink(tmp_path / "a.pcap"), seed=100, loop=1, rate=1.0)
    status_when(client, lambda status: status.packets_drawn_ahead > 0)
    client.set_loop(3)
    assert client.wait().packets_written == 300


def test_as_many_passes_as_a_message_can_say_may_be_asked_for(client, looped, tmp_path):
    models = [looped, make_model(tmp_path, "later", minute=1)]
    client.start(models, {"kind": "subscribers"}, seed=10, loop=2**63 - 1, rate=1.0)
    assert next(client.statuses()).chunk_count == 2**63 - 1
    status_when(client, lambda status: status.packets_written > 0)
    client.set_loop(3)
    assert client.status().chunk_count == 6
    assert client.wait().packets_written >= 30


def test_what_no_message_can_say_is_an_error_of_the_client(client):
    for impossible in (lambda: client.seek(-1), lambda: client.seek(1 << 63), lambda: client.set_loop(0),
                       lambda: client.models(-1)):  # fmt: skip
        with pytest.raises(ReplayError, match="should be"):
            impossible()
    assert client.status().state == "idle"


def test_what_a_stream_cannot_do_is_refused(client, endless, looped, tmp_path):
    client.start([endless], {"kind": "subscribers"}, rate=1.0)
    status_when(client, lambda status: status.packets_written > 0)
    with pytest.raises(RefusedError, match="no passes") as refused:
        client.set_loop(2)
    assert refused.value.code == "state"
    client.stop()
    status_when(client, lambda status: status.state == "stopped")
    client.start([looped], {"kind": "subscribers"}, seed=1000, rate=1.0)
    status_when(client, lambda status: status.packets_written > 0)
    with pytest.raises(RefusedError, match="no times to seek"):
        client.seek(5)


def test_nothing_is_steered_without_a_run(client):
    for command in (client.pause, client.resume, lambda: client.set_rate(1.0), lambda: client.seek(0)):
        with pytest.raises(RefusedError, match="no run is going on") as refused:
            command()
        assert refused.value.code == "state"


def test_models_are_listed_page_by_page(tmp_path):
    directory = tmp_path / "models"
    directory.mkdir()
    for i in range(300):
        make_model(directory, f"m{i:03}", i)
    (directory / "m000" / "manifest.json").write_text("nonsense")
    with spawn_server(command=(*RECORDED_SERVER, "--models", str(directory))) as client:
        first, rest = client.models(), client.models(256)
        assert (first.total, first.unreadable, len(first.models), len(rest.models)) == (300, 1, 255, 44)
        assert first.models[0].id == "m001"
        assert first.models[0].directory == str(directory / "m001")
        assert client.models(300).models == []


# Controllers.


def test_an_exclusive_run_is_steered_by_who_started_it(client, endless):
    with ReplayClient(client.endpoint) as other:
        client.start([endless], {"kind": "subscribers"}, rate=1.0, is_exclusive=True)
        with pytest.raises(RefusedError, match="commands it alone") as refused:
            other.pause()
        assert refused.value.code == "controller"
        assert client.pause().state == "paused"
        assert other.stop().state == "stopping"


def test_a_run_stops_when_its_controller_is_silent(client, endless, tmp_path):
    with ReplayClient(client.endpoint) as controller:
        controller.start([endless], pcap_sink(tmp_path / "t.pcap"), rate=1.0, controller_timeout_s=0.3)
    stopped = status_when(client, lambda status: status.state == "stopped")
    assert stopped.error == "stopped, since the client that started the run said nothing for 0.3 s"
    assert list(tmp_path.iterdir()) == []


def test_a_controller_that_comes_back_under_its_name_is_the_same(client, endless):
    start = {"type": "start", "stream": {"kind": "models", "models": [str(endless)]}, "rate": 1.0,
             "sink": {"kind": "subscribers"}, "is_exclusive": True}  # fmt: skip
    answers = []
    with zmq.Context() as context:
        for name, fields in ((b"me", start), (b"you", {"type": "pause"}), (b"me", {"type": "pause"})):
            with connect(context, zmq.DEALER, client.endpoint, None, {}, name) as dealer:
                dealer.send_multipart([b"", msgpack.packb({"v": 2, "id": 1, **fields})])
                assert dealer.poll(PATIENCE_S * 1000)
                answers.append(msgpack.unpackb(dealer.recv_multipart()[1]))
    assert [answer.get("code") or answer["state"] for answer in answers] == ["running", "controller", "paused"]


def test_an_asyncio_client_keeps_its_run_alive_as_long_as_it_lives(client, endless):
    async def hold():
        async with AsyncReplayClient(client.endpoint) as controller:
            await controller.start([endless], {"kind": "subscribers"}, rate=1.0, controller_timeout_s=2.0)
            deadline = time.monotonic() + 4.0
            async for status in controller.statuses():
                assert status.state == "running"
                if time.monotonic() > deadline:
                    return

    asyncio.run(hold())
    status_when(client, lambda status: status.state == "stopped")


def test_an_asyncio_client_gives_every_command(client, endless):
    async def command():
        async with AsyncReplayClient(client.endpoint) as steering:
            assert (await steering.hello()).version == 2
            with pytest.raises(RefusedError, match="no run"):
                await steering.pause()
            await steering.start([endless], {"kind": "subscribers"}, rate=1.0)
            statuses = await asyncio.gather(*(steering.status() for _ in range(20)))
            assert len({status.sequence for status in statuses}) == 20
            assert (await steering.pause()).state == "paused"
            assert (await steering.resume()).state == "running"
            await steering.set_rate(PacketRate(packets_per_s=1000.0))
            while (await steering.status()).packets_written == 0:
                await asyncio.sleep(0.01)
            await steering.seek(10**12)
            assert (await steering.models()).total == 0
            assert (await steering.stop()).state == "stopping"

    asyncio.run(command())


def test_an_asyncio_client_does_not_wait_for_ever(tmp_path):
    async def ask():
        async with AsyncReplayClient(f"ipc://{tmp_path}/none.sock", timeout_s=0.1) as client:
            with pytest.raises(ReplayError, match="does not answer"):
                await client.hello()

    asyncio.run(ask())


# Status as it comes.


def test_a_subscriber_gets_a_status_at_once_and_at_every_change(client, endless):
    statuses = client.statuses()
    assert next(statuses).state == "idle"
    client.start([endless], {"kind": "subscribers"}, rate=1.0)
    client.pause()
    seen = [next(statuses)]
    while seen[-1].state != "paused":
        seen.append(next(statuses))
    assert {status.state for status in seen} <= {"idle", "running", "paused"}
    client.stop()
    while seen[-1].state != "stopped":
        seen.append(next(statuses))
    assert all(after.sequence == before.sequence + 1 for before, after in pairwise(seen))
    late = client.statuses()
    assert next(late).state == "stopped"
    statuses.close()
    late.close()


def test_a_heartbeat_comes_where_nothing_changes(client):
    statuses = client.statuses()
    got = [next(statuses) for _ in range(3)]
    assert [status.state for status in got] == ["idle"] * 3
    statuses.close()


def test_subscriptions_to_anything_cost_their_sender_its_connection(client):
    with zmq.Context() as context, connect(context, zmq.SUB, client.endpoint + ".status", None, {}) as stranger:
        for i in range(12_000):
            stranger.setsockopt(zmq.SUBSCRIBE, b"x%d" % i)
        statuses = client.statuses()
        assert next(statuses).state == "idle"
        statuses.close()
    assert client.status().state == "idle"


def test_strangers_who_hold_connections_leave_descriptors_for_a_run(client, looped, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held = []
    try:
        for _ in range(1500):
            held.append(socket.socket(socket.AF_UNIX))
            held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(PATIENCE_S), 0))
            held[-1].connect(client.endpoint.removeprefix("ipc://"))
        client.start([looped], pcap_sink(tmp_path / "a.pcap"), seed=10)
        assert client.wait().packets_written == 10
    finally:
        for stranger in held:
            stranger.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# CURVE.


@pytest.fixture(scope="module")
def server_keys(tmp_path_factory):
    directory = tmp_path_factory.mktemp("keys")
    make_server_keys(directory / "server")
    for name in ("lab", "stranger"):
        make_keys(directory, name)
    allow_client(directory / "server", directory / "lab.key")
    return directory


def client_keys(directory, name="lab"):
    return load_client_keys(directory / f"{name}.key_secret", directory / "server" / "server.key")


@contextmanager
def curve_server(directory, endpoint="tcp://127.0.0.1:*"):
    keys = directory / "server", client_keys(directory)
    with spawn_server(endpoint, command=RECORDED_SERVER, keys=keys) as client:
        yield client


def test_a_listed_client_has_all_three_planes_over_tcp(server_keys, endless, tmp_path):
    with curve_server(server_keys) as client:
        assert client.endpoint.startswith("tcp://127.0.0.1:")
        statuses = client.statuses()
        assert next(statuses).state == "idle"
        packets = client.packets("ids")
        client.start([endless], {"kind": "subscribers", "wait_for": 1}, rate=100.0)
        batch = next(packets)
        assert (batch.seq, batch.packets_before, batch.model_id) == (0, 0, "endless")
        client.stop()
        packets.close()
        statuses.close()


def test_nobody_else_gets_in(server_keys):
    own = client_keys(server_keys)
    public, secret = zmq.curve_keypair()
    with curve_server(server_keys) as client:
        strangers = {
            "an unlisted key": client_keys(server_keys, "stranger"),
            "the public key of a listed client with another secret": type(own)(
                type(own.own)(own.own.public, secret), own.server
            ),
            "another server's key": type(own)(own.own, public),
        }
        for what, keys in strangers.items():
            with ReplayClient(client.endpoint, timeout_s=0.5, keys=keys) as stranger:
                with pytest.raises(ReplayError, match="does not answer"):
                    stranger.status()
                assert what
        for mechanism in ("NULL", "PLAIN"):
            with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
                plain.setsockopt(zmq.LINGER, 0)
                if mechanism == "PLAIN":
                    plain.setsockopt(zmq.PLAIN_USERNAME, b"lab")
                    plain.setsockopt(zmq.PLAIN_PASSWORD, b"lab")
                plain.connect(client.endpoint)
                plain.send_multipart([b"", b"\x80"])
                assert not plain.poll(300)
        for plane, kind in (("status", zmq.SUB), ("packets", zmq.DEALER)):
            where = client._subscribe(plane, "").endpoint
            with zmq.Context() as context:
                keys = strangers["an unlisted key"]
                with connect(context, kind, where, keys, {}) as stranger:
                    if kind == zmq.SUB:
                        stranger.setsockopt(zmq.SUBSCRIBE, b"")
                    else:
                        stranger.send(b"\x80")
                    assert not stranger.poll(1500 if kind == zmq.SUB else 300)  # a heartbeat would have come
        assert client.status().state == "idle"


def test_a_client_gets_in_once_it_is_listed(server_keys, tmp_path):
    make_keys(tmp_path, "new")
    keys = load_client_keys(tmp_path / "new.key_secret", server_keys / "server" / "server.key")
    with curve_server(server_keys) as client, ReplayClient(client.endpoint, timeout_s=0.5, keys=keys) as new:
        with pytest.raises(ReplayError, match="does not answer"):
            new.status()
        listed = allow_client(server_keys / "server", tmp_path / "new.key")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                assert new.status().state == "idle"
                break
            except ReplayError:
                assert time.monotonic() < deadline
        listed.unlink()


def test_tcp_without_keys_is_refused_on_both_sides(tmp_path):
    with (
        pytest.raises(ReplayError, match="TCP needs CURVE keys"),
        spawn_server("tcp://127.0.0.1:*", command=RECORDED_SERVER),
    ):
        raise AssertionError
    with pytest.raises(ReplayError, match="TCP needs CURVE keys"):
        ReplayClient("tcp://127.0.0.1:5555")


def test_the_three_ports_follow_one_another(server_keys):
    assert load_server_keys(server_keys / "server").own.public
    with curve_server(server_keys) as probe:
        port = int(probe.endpoint.rpartition(":")[2])
    base = 40_000 + port % 20_000
    with curve_server(server_keys, f"tcp://127.0.0.1:{base}") as client:
        assert client._subscribe("status", "").endpoint == f"tcp://127.0.0.1:{base + 1}"
        assert client._subscribe("packets", "").endpoint == f"tcp://127.0.0.1:{base + 2}"


# The command line, as a user runs it.


def nsstream(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "nsstream_daemon", *map(str, arguments)], capture_output=True, text=True, **options
    )


def test_the_command_line_steers_a_server(client, endless, tmp_path):
    environment = {**os.environ, "NSSTREAM_REPLAY_ENDPOINT": client.endpoint}

    def send(*arguments):
        done = nsstream("send", *arguments, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert send("start", endless, "--sink", '{"kind": "subscribers"}', "--rate", "1.0") == "run 1 is running"
    assert send("pause") == "paused"
    assert send("rate", "20kpps") == "paused"
    assert send("resume") == "running"
    status_when(client, lambda status: status.packets_written > 0)
    assert send("seek", "3600s") == "running"
    status_when(client, lambda status: status.twin_now_ns >= 3600 * 10**9)
    status = json.loads(send("status"))
    assert status["rate"] == {"packets_per_s": 20_000.0}
    assert send("stop") == "stopping"
    wrong = nsstream("send", "rate", "fast", env=environment)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("nsstream: a rate is max,")


def test_ctrl_c_on_a_start_that_waits_stops_the_run(client, endless, tmp_path):
    starting = subprocess.Popen(
        [sys.executable, "-m", "nsstream_daemon", "send", "start", endless, "-o", tmp_path / "t.pcap", "--rate", "1",
         "--wait", "--stop-without-me", "5", "--exclusive", "--endpoint", client.endpoint],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with starting:
        assert starting.stdout.readline() == "run 1 is running\n"
        status_when(client, lambda status: status.packets_written > 0)
        starting.send_signal(signal.SIGINT)
        assert starting.wait(PATIENCE_S) == 130
    status_when(client, lambda status: status.state == "stopped")


def test_keys_are_made_and_listed_by_the_command_line(tmp_path):
    server, own = tmp_path / "server", tmp_path / "own"
    assert nsstream("keys", "server", server).returncode == 0
    assert nsstream("keys", "client", own, "lab").returncode == 0
    assert nsstream("keys", "allow", server, own / "lab.key").returncode == 0
    listed = nsstream("keys", "list", server)
    assert listed.stdout.startswith("lab  ")
    again = nsstream("keys", "server", server)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    keys = server, load_client_keys(own / "lab.key_secret", server / "server.key")
    with spawn_server("tcp://127.0.0.1:*", command=RECORDED_SERVER, keys=keys) as client:
        done = nsstream(
            "send", "status", "--endpoint", client.endpoint, "--key", own / "lab.key_secret",
            "--server-key", server / "server.key",
        )  # fmt: skip
        assert json.loads(done.stdout)["state"] == "idle"
