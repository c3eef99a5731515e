"""The NetFlow sink: collectors that are not there, limits, stops, sampling, times, frames of no flow."""

import socket
import struct
import threading
import time

import numpy as np
import pytest
from made_exports import EXPORTER
from made_traffic import made_table

from nsstream.assemble import Assembler
from nsstream.assemble.frames import Frames
from nsstream.clock import ManualClock
from nsstream.errors import InputError, OutputError
from nsstream.replay.frame_meter import FrameMeter
from nsstream.replay.netflow_sink import NetflowSink, NetflowSinkSpec
from nsstream.replay.player import Player
from nsstream.replay.registry import check_sink
from nsstream.replay.sink import SinkContext, check_counters
from nsstream.replay.stream import FrameBlock, RecordedStream
from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder

SECOND = 10**9
PATIENCE_S = 300.0
ARP = bytes.fromhex("ffffffffffff 020000000001 0806") + bytes(28)


@pytest.fixture(scope="module")
def frames():
    return Assembler(np.random.default_rng(6)).assemble(made_table(count=60))


@pytest.fixture
def collector():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inlet:
        inlet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        inlet.bind(("127.0.0.1", 0))
        inlet.settimeout(10)
        yield inlet


def sink_to(port, context=None, **fields):
    return NetflowSink(NetflowSinkSpec(address="127.0.0.1", port=port, **fields), context or SinkContext())


def received(inlet, count):
    datagrams = [inlet.recv(65535) for _ in range(count)]
    decoder = ExportDecoder(max_clock_error_s=1e9)
    table = decoder.decode(
        np.frombuffer(b"".join(datagrams), np.uint8),
        np.cumsum([0, *map(len, datagrams)], dtype=np.int64),
        np.tile(np.frombuffer(EXPORTER, np.uint8), (count, 1)),
        np.full(count, 1_700_000_000 * 10**9, np.int64),
    )
    return datagrams, table


def test_a_collector_that_is_not_there_is_counted_and_the_run_goes_on(frames, collector):
    port = collector.getsockname()[1]
    collector.close()
    sink = sink_to(port, mtu=576)
    sink.open()
    sink.write(frames)
    sink.close()
    counters = sink.counters
    check_counters(counters)
    assert counters["refusals"] > 0
    assert counters["flows_sent"] + counters["flows_failed"] == counters["flows"] > 0
    assert counters["datagrams"] > 5


def test_an_address_that_no_socket_may_send_to_is_one_sentence():
    sink = NetflowSink(NetflowSinkSpec(address="255.255.255.255", port=9), SinkContext())
    with pytest.raises(OutputError, match=r"^255\.255\.255\.255:9: cannot send there"):
        sink.open()  # broadcast, which needs leave
    sink.abort()
    check_counters(sink.counters)


def test_a_stop_ends_the_waiting_for_the_limit(frames, collector):
    stopped = []
    context = SinkContext(lambda: bool(stopped))
    timeouts = {"active_timeout_s": 0.002, "idle_timeout_s": 0.001}  # a flow for nearly every frame
    sink = sink_to(collector.getsockname()[1], context, datagrams_per_s=1.0, mtu=576, **timeouts)
    sink.open()
    stopped.append(True)
    with pytest.raises(OutputError, match="stopped before everything was sent"):
        sink.write(frames)
    sink.abort()
    counters = sink.counters
    check_counters(counters)
    assert counters["datagrams_failed"] > 0
    assert counters["flows_failed"] + counters["flows_undone"] > 0
    assert counters["flows_waiting"] == 0


@pytest.mark.parametrize("version", [5, 9, 10])
def test_datagrams_fit_the_mtu_and_count_as_their_version_says(frames, collector, version):
    sink = sink_to(collector.getsockname()[1], version=version, mtu=600)
    sink.open()
    sink.write(frames)
    sink.close()
    datagrams, table = received(collector, sink.counters["datagrams_sent"])
    assert max(map(len, datagrams)) <= 600 - 28
    assert len(table) == sink.counters["flows_sent"]
    at = {5: 16, 9: 12, 10: 8}[version]
    sequence = [struct.unpack_from("!I", datagram, at)[0] for datagram in datagrams]
    if version == 5:
        counts = [struct.unpack_from("!H", datagram, 2)[0] for datagram in datagrams]
        assert sequence == np.cumsum([0, *counts[:-1]]).tolist()
    elif version == 9:
        assert sequence == list(range(len(datagrams)))
    else:
        assert sequence[0] == 0
        assert sequence == sorted(sequence)
        assert all(struct.unpack_from("!H", datagram, 2)[0] == len(datagram) for datagram in datagrams)


def test_what_v5_has_no_way_to_say_is_counted(frames, collector):
    sink = sink_to(collector.getsockname()[1], version=5)
    sink.open()
    sink.write(frames)
    sink.close()
    meter = FrameMeter(active_timeout_s=60.0, idle_timeout_s=15.0)
    flows = FlowTable.concatenate([meter.push(frames), meter.flush()])
    assert sink.counters["flows_unsupported"] == int((flows.ip_version == 6).sum()) > 0
    assert sink.counters["flows_sent"] == int((flows.ip_version == 4).sum())


def test_times_of_now_begin_where_the_clock_is(frames, collector):
    clock = ManualClock(1_700_000_000 * 10**9)
    sink = sink_to(collector.getsockname()[1], SinkContext(clock=clock), times="now", time_unit="nanoseconds")
    sink.open()
    sink.write(frames)
    sink.close()
    _, table = received(collector, sink.counters["datagrams_sent"])
    assert int(table.flow_start_ns.min()) == clock.wall_ns()
    length_ns = int(frames.observation_time_ns[-1] - frames.observation_time_ns[0])
    assert int(table.flow_end_ns.max()) == clock.wall_ns() + length_ns


def test_flows_are_taken_as_well(collector):
    table = FlowTable.from_columns(
        {
            "flow_start_ns": np.array([10**18], np.int64),
            "flow_end_ns": np.array([10**18 + 10**9], np.int64),
            "ip_version": np.array([4], np.uint8),
            "packet_delta_count": np.array([2], np.uint64),
            "octet_delta_count": np.array([80], np.uint64),
            "reverse_packet_delta_count": np.array([1], np.uint64),
            "reverse_octet_delta_count": np.array([40], np.uint64),
        }
    )
    sink = sink_to(collector.getsockname()[1])
    sink.open()
    sink.write_flows(table)
    sink.close()
    _, came = received(collector, sink.counters["datagrams_sent"])
    assert came.octet_delta_count.tolist() == [80, 40]  # a record for each direction
    assert sink.counters["flows"] == 2


def test_frames_of_no_flow_are_counted_and_every_so_many_th_is_looked_at(frames):
    n = len(frames)
    octets = np.concatenate([frames.octets, np.frombuffer(ARP, np.uint8)])
    times = np.append(frames.observation_time_ns, frames.observation_time_ns[-1] + 1)
    mixed = Frames(times, np.append(frames.offset, len(octets)), octets)
    meter = FrameMeter(active_timeout_s=60.0, idle_timeout_s=15.0)
    meter.push(mixed)
    assert meter.counters == {"frames": n + 1, "frames_metered": n, "frames_sampled_out": 0, "frames_not_ip": 1}
    whole = FrameMeter(active_timeout_s=60.0, idle_timeout_s=15.0, sampling_interval=7)
    cut = FrameMeter(active_timeout_s=60.0, idle_timeout_s=15.0, sampling_interval=7)
    of_whole = FlowTable.concatenate([whole.push(frames), whole.flush()])
    of_cut = FlowTable.concatenate([cut.push(frames.slice(k, k + 10)) for k in range(0, n, 10)] + [cut.flush()])
    assert whole.counters == cut.counters
    assert whole.counters["frames_metered"] == -(-n // 7)
    assert int(of_whole.packet_delta_count.sum()) == int(of_cut.packet_delta_count.sum()) == -(-n // 7)
    assert set(of_whole.sampling_interval.tolist()) == {7}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"address": "collector.example"}, "sink.address"),
        ({"address": "fe80::1%eth0"}, "sink.address"),
        ({"port": 0}, "sink.port"),
        ({"version": 7}, "sink.version"),
        ({"version": 5, "observation_domain_id": 65536}, "sink.netflow: .*observation_domain_id"),
        ({"version": 5, "sampling_interval": 16384}, "sink.netflow: .*sampling_interval"),
        ({"idle_timeout_s": 61.0}, "sink.netflow: .*idle_timeout_s"),
        ({"source": "::1"}, "sink.netflow: .*IP version"),
        ({"datagrams_per_s": float("inf")}, "sink.datagrams_per_s"),
    ],
)
def test_fields_out_of_bounds_are_refused(fields, path):
    with pytest.raises(InputError, match=path):
        check_sink({"kind": "netflow", "address": "192.0.2.1", "port": 2055, **fields})


def test_an_ipv6_collector_gets_its_datagrams(frames):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as inlet:
        inlet.bind(("::1", 0))
        inlet.settimeout(10)
        sink = NetflowSink(
            NetflowSinkSpec(address="::1", source="::1", port=inlet.getsockname()[1], mtu=1280), SinkContext()
        )
        sink.open()
        sink.write(frames)
        sink.close()
        datagrams, table = received(inlet, sink.counters["datagrams_sent"])
    assert max(map(len, datagrams)) <= 1280 - 48
    assert len(table) == sink.counters["flows_sent"]


def test_flows_leave_by_their_timeout_while_no_frame_comes(frames, collector):
    sink = sink_to(collector.getsockname()[1], active_timeout_s=60.0, idle_timeout_s=15.0)
    sink.open()
    sink.tick(0)  # before the first frame there is nothing to do
    sink.write(frames)
    last_ns = int(frames.observation_time_ns[-1])
    sink.tick(last_ns + 15 * SECOND - 1)
    waiting = sink.counters["flows"]
    sink.tick(last_ns + 15 * SECOND)
    counters = sink.counters
    check_counters(counters)
    assert counters["flows"] > waiting  # the last frame's own, at least
    sink.tick(last_ns + 16 * SECOND)
    counters = sink.counters
    check_counters(counters)
    assert counters["flows_sent"] == counters["flows"]
    assert counters["flows_waiting"] == 0
    _, table = received(collector, counters["datagrams_sent"])
    assert len(table) == counters["flows"]
    assert int(table.packet_delta_count.sum()) == counters["frames_metered"]
    sink.close()
    assert sink.counters["flows"] == counters["flows"]


def test_a_player_tells_its_sink_the_time_while_no_frame_is_due(frames, collector):
    one = frames.slice(0, 1)
    times = one.observation_time_ns[0] + np.array([0, 60 * SECOND])
    offset = np.array([0, len(one.octets), 2 * len(one.octets)])
    both = Frames(times, offset, np.tile(one.octets, 2))
    clock, ended = ManualClock(SECOND), threading.Event()
    context = SinkContext(clock=clock)
    player = Player(
        lambda: RecordedStream([FrameBlock(1, "m", both)]),
        lambda is_stopped: sink_to(collector.getsockname()[1], context, idle_timeout_s=15.0),
        1.0,
        clock,
        ended.set,
    )
    player.start()
    wait_until(lambda: player.progress.packets_written == 1)
    clock.advance(15 * SECOND)
    wait_until(lambda: player.counters["flows"] == 1)
    clock.advance(SECOND)  # and its datagram is not held for longer
    _, table = received(collector, 2)  # templates come first
    assert table.flow_end_ns.tolist() == [times[0] // 1_000_000 * 1_000_000]
    assert player.progress.packets_written == 1
    player.stop()
    assert ended.wait(PATIENCE_S)
    check_counters(player.counters)


def wait_until(is_so):
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
