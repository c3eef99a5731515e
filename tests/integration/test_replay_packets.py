"""The packet plane over real sockets: what a subscriber gets, misses and is told, and that nobody waits for another."""

import asyncio
import subprocess
import time
from contextlib import closing, suppress

import msgpack
import numpy as np
import pytest
import zmq
from replay_lab import PATIENCE_S, RECORDED_SERVER, make_model, status_when

from nsstream.errors import ReplayError
from nsstream.replay import End, Missed, PacketBatch, RefusedError, ReplayClient, spawn_server
from nsstream.replay.async_client import AsyncReplayClient
from nsstream.replay.batch import PROLOGUE, Credit, decode_part
from nsstream.replay.messages import MAX_SUBSCRIBERS
from nsstream.replay.sockets import connect

SUBSCRIBERS = {"kind": "subscribers"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return [make_model(directory, f"m{i}", i) for i in range(3)]


@pytest.fixture(scope="module")
def fat(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("fat"), "fat")


@pytest.fixture
def client():
    with spawn_server(command=RECORDED_SERVER) as client:
        yield client


def take_run(packets):
    """The items of a run, its end among them."""
    items = []
    for item in packets:
        items.append(item)
        if isinstance(item, End):
            return items
    raise AssertionError


def check_frames(items):
    """Every frame says in its last octets when it is to be seen; gives their number, and that of those missed."""
    count = missed = 0
    for item in items:
        if isinstance(item, Missed):
            missed += item.packet_count
        elif isinstance(item, PacketBatch):
            told = item.octets.reshape(len(item), -1)[:, -8:].copy().view("<i8").reshape(-1)
            assert np.array_equal(told, item.observation_time_ns)
            assert item.packets_before == count + missed
            count += len(item)
    return count, missed


def test_a_subscriber_gets_every_frame_as_it_is(client, models):
    with closing(client.packets("ids")) as packets:
        client.start(models, {**SUBSCRIBERS, "wait_for": 1, "batch_packets": 100, "when_behind": "wait"}, seed=2000)
        items = take_run(packets)
        assert check_frames(items) == (6000, 0)
        assert [item.seq for item in items] == list(range(61))
        assert {(item.run, item.chunk, item.model_id) for item in items[:-1]} == {(1, i + 1, f"m{i}") for i in range(3)}
        assert items[-1].outcome == "done"
        done = client.status()
        assert done.counters == {"frames": 6000, "frames_written": 6000, "frames_failed": 0}
    status_when(client, lambda status: status.subscribers == [])


def test_many_subscribers_each_get_everything(client, models):
    feeds = [client.packets(f"s{i}") for i in range(8)]
    client.start(models, {**SUBSCRIBERS, "when_behind": "wait"}, seed=3000)
    for packets in feeds:
        assert check_frames(take_run(packets)) == (9000, 0)
        packets.close()


def test_one_run_follows_another_on_one_subscription(client, models):
    with closing(client.packets()) as packets:
        for run in (1, 2):
            client.start(models, SUBSCRIBERS, seed=10)
            items = take_run(packets)
            assert {item.run for item in items} == {run}
            client.wait()


def test_a_subscriber_that_stalls_holds_up_nobody_and_is_told_what_it_missed(client, fat):
    fast, slow = client.packets("fast"), client.packets("slow", credit=2)
    client.start([fat], {**SUBSCRIBERS, "wait_for": 0, "batch_packets": 500, "when_behind": "skip"}, rate=20.0)
    got, held = [], []
    held.append(next(slow))  # and then it says nothing until others have got 100 MB
    deadline = time.monotonic() + PATIENCE_S
    while sum(len(item) for item in got if isinstance(item, PacketBatch)) < 80_000:
        client.set_rate("max" if len(got) < 10 else 400.0)
        got.append(next(fast))
        assert time.monotonic() < deadline
    stalled = next(s for s in client.status().subscribers if s.name == "slow")
    assert stalled.missed > 0
    client.stop()
    held += take_run(slow)
    got += take_run(fast)
    assert any(isinstance(item, Missed) for item in held)
    count, missed = check_frames(held)
    state = next(s for s in client.status().subscribers if s.name == "slow")
    assert (count + missed, missed) == (state.offered, state.missed)
    assert held[-1].outcome == got[-1].outcome == "stopped"
    fast.close()
    slow.close()


def test_a_stopped_run_says_so_at_once(client, fat):
    with closing(client.packets()) as packets:
        client.start([fat], {**SUBSCRIBERS, "wait_for": 1}, rate=1.0)
        assert isinstance(next(packets), PacketBatch)
        client.stop()
        assert take_run(packets)[-1].outcome == "stopped"


def test_a_run_that_waits_for_subscribers_can_be_stopped(client, models):
    client.start(models, {**SUBSCRIBERS, "wait_for": 3})
    assert client.status().packets_written == 0
    client.stop()
    status_when(client, lambda status: status.state == "stopped")


def test_a_subscriber_by_another_connection_gets_again_what_it_had_not_acknowledged(client, models):
    subscription = client._subscribe("packets", "raw")
    client.start(models, {**SUBSCRIBERS, "batch_packets": 10}, seed=30)
    status_when(client, lambda status: status.state == "done")
    seen = []
    with zmq.Context() as context:
        for ack in (-1, 1):  # the second connection says that 0 and 1 were taken by the first
            with connect(context, zmq.DEALER, subscription.endpoint, None, {}) as dealer:
                dealer.send(msgpack.packb(Credit(token=subscription.token, credit=4, ack=ack).model_dump()))
                for _ in range(4):
                    assert dealer.poll(PATIENCE_S * 1000)
                    seen.append(decode_part(dealer.recv_multipart()).seq)
    assert seen == [0, 1, 2, 3, 2, 3, 4, 5]


def test_a_subscriber_that_dies_leaves_the_others_alone(client, models):
    code = (
        "import sys; from nsstream.replay import ReplayClient\n"
        "packets = ReplayClient(sys.argv[1]).packets('dies')\n"
        "print('there', flush=True); next(packets); print('got', flush=True); sys.stdin.read()"
    )
    dying = subprocess.Popen(
        [RECORDED_SERVER[0], "-c", code, client.endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with dying, closing(client.packets("lives")) as packets:
        assert dying.stdout.readline() == "there\n"
        client.start(models, {**SUBSCRIBERS, "wait_for": 1, "batch_packets": 100}, seed=1000, rate=20.0)
        first = next(packets)
        assert dying.stdout.readline() == "got\n"
        dying.kill()
        assert check_frames([first, *take_run(packets)]) == (3000, 0)


@pytest.mark.parametrize(
    "frames",
    [[b""], [b"\x80"], [b"", b"\x80"], [b"x" * 900], [b"x"] * 50,
     [msgpack.packb({"v": 2, "type": "credit", "token": "0" * 32, "credit": 8, "ack": -1})],
     [msgpack.packb({"v": 1, "type": "credit", "token": "0" * 32, "credit": 8, "ack": -1})]],
)  # fmt: skip
def test_a_strange_message_is_refused(client, frames):
    with zmq.Context() as context, connect(context, zmq.DEALER, client.endpoint + ".packets", None, {}) as dealer:
        dealer.send_multipart(frames)
        assert dealer.poll(PATIENCE_S * 1000)
        prologue, header = dealer.recv_multipart()
        assert prologue == PROLOGUE
        assert msgpack.unpackb(header)["type"] == "refused"


def test_one_that_sends_nonsense_and_never_reads_stalls_nobody(client, models):
    with zmq.Context() as context, connect(context, zmq.DEALER, client.endpoint + ".packets", None, {}) as dealer:
        dealer.setsockopt(zmq.RCVHWM, 1)
        for _ in range(20_000):
            with suppress(zmq.Again):
                dealer.send(b"nonsense", zmq.NOBLOCK)
        with closing(client.packets()) as packets:
            client.start(models, {**SUBSCRIBERS, "wait_for": 1}, seed=100)
            assert check_frames(take_run(packets)) == (300, 0)


def test_there_are_only_so_many_subscribers(client):
    for _ in range(MAX_SUBSCRIBERS):
        client._subscribe("packets", "x")
    with pytest.raises(RefusedError, match="64 subscribers already") as refused:
        client.packets()
    assert refused.value.code == "limit"
    assert len(client.status().subscribers) == MAX_SUBSCRIBERS


def test_a_subscriber_of_a_server_that_is_gone_is_told(models):
    with spawn_server(command=RECORDED_SERVER) as client, ReplayClient(client.endpoint, timeout_s=5.0) as other:
        packets = other.packets()
        client.shutdown()
        with pytest.raises(ReplayError, match="does not answer"):
            next(packets)
        packets.close()


def test_what_was_not_fetched_when_the_server_ends_is_still_delivered(models):
    with spawn_server(command=RECORDED_SERVER) as client:
        packets = client.packets(credit=1)
        client.start(models, {**SUBSCRIBERS, "wait_for": 1, "batch_packets": 100}, seed=200)
        items = [next(packets)]
        status_when(client, lambda status: status.state == "done")
        client.shutdown()
        items += take_run(packets)
        assert check_frames(items) == (600, 0)
        packets.close()


def test_an_asyncio_subscriber_gets_every_frame(client, models):
    async def subscribe():
        async with AsyncReplayClient(client.endpoint) as subscriber:
            items = []
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                group.create_task(
                    subscriber.start(models, {**SUBSCRIBERS, "wait_for": 1, "when_behind": "wait"}, seed=500)
                )
                async for item in subscriber.packets("asyncio"):
                    items.append(item)
                    if isinstance(item, End):
                        break
            return items

    assert check_frames(asyncio.run(subscribe())) == (1500, 0)
