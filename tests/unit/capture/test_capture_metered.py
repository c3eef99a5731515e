"""A source of packets, metered: what it gives, when its clock moves."""

import pytest
from made_traffic import CLIENT, MS, SERVER, START_NS, batch_of, packet

from nsstream.capture.metered import MeteredSource
from nsstream.clock import ManualClock
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowEndReason, PacketBatch
from nsstream.trace.metering import FlowMeter

IDLE = PacketBatch.empty()


class Wire:
    """A wire whose packets, and the seconds before each batch of them, are given."""

    def __init__(self, clock, *steps):
        self.tally = Tally()
        self.is_open = False
        self._clock, self._steps = clock, list(steps)

    def open(self):
        self.is_open = True

    def read_batch(self):
        if not self._steps:
            return None
        seconds, batch = self._steps.pop(0)
        if isinstance(batch, Exception):
            raise batch
        self._clock.advance(int(seconds * 1e9))
        self.tally.offered += len(batch)
        self.tally.kept += len(batch)
        return batch

    def close(self):
        self.is_open = False


def metered(*steps, **options):
    clock = ManualClock()
    wire = Wire(clock, *steps)
    source = MeteredSource(wire, FlowMeter(**options), clock=clock)
    source.open()
    return source, wire


def reasons(flows):
    return [FlowEndReason(int(r)) for r in flows.flow_end_reason]


def test_flows_still_open_at_the_end_are_given():
    source, wire = metered((0, batch_of([packet(0), packet(1)])))
    flows = source.read_batch()
    assert (reasons(flows), flows.packet_delta_count.tolist()) == ([FlowEndReason.FORCED_END], [2])
    assert source.read_batch() is None
    assert (source.tally.kept, source.packet_tally.kept) == (1, 2)
    source.close()
    assert not wire.is_open


def test_flow_times_out_on_a_quiet_wire_by_the_time_that_passes_here():
    source, _ = metered((0, batch_of([packet(0)])), (14, IDLE), (1, IDLE), (0, IDLE))
    assert len(source.read_batch()) == 0
    assert reasons(source.read_batch()) == [FlowEndReason.IDLE_TIMEOUT]
    assert len(source.read_batch()) == 0
    assert source.read_batch() is None


def test_busy_wire_on_which_no_flow_ends_gives_its_caller_the_word():
    source, _ = metered(*((0.15, batch_of([packet(t)])) for t in range(4)))
    assert [len(source.read_batch()) for _ in range(3)] == [0, 0, 1]


def test_quiet_before_the_first_packet_does_not_start_the_clock():
    source, _ = metered((100, IDLE), (0, batch_of([packet(0)])), (1, IDLE), (20, IDLE))
    assert [len(source.read_batch()) for _ in range(3)] == [0, 0, 1]


def test_closed_source_is_at_its_end():
    source, _ = metered((0, batch_of([packet(0)])), (0, batch_of([packet(1, SERVER, CLIENT)])))
    source.close()
    assert source.read_batch() is None
    source.tally.check()


def test_end_of_a_flow_is_told_by_packets_without_waiting():
    source, _ = metered((0, batch_of([packet(0)])), (0, batch_of([packet(20_000, SERVER, CLIENT)])))
    flows = source.read_batch()
    assert (flows.flow_start_ns.tolist(), reasons(flows)) == ([START_NS + 0 * MS], [FlowEndReason.IDLE_TIMEOUT])


def test_packets_of_open_flows_are_parked_until_their_record_is_given():
    source, _ = metered((0, batch_of([packet(0), packet(1), packet(20_000)])), (0, batch_of([packet(20_001)])))
    assert source.read_batch().packet_delta_count.tolist() == [2]
    assert source.packet_tally == Tally(offered=3, kept=2, parked=1)
    assert source.read_batch().packet_delta_count.tolist() == [2]
    assert source.packet_tally == Tally(offered=4, kept=4)


def test_flush_gives_the_open_flows_and_ends_the_source():
    source, _ = metered((0, batch_of([packet(0)])), (0, IDLE), (0, batch_of([packet(1)])))
    assert len(source.read_batch()) == 0
    assert reasons(source.flush()) == [FlowEndReason.FORCED_END]
    assert source.packet_tally == Tally(offered=1, kept=1)
    assert source.read_batch() is None


def test_a_source_that_fails_gives_its_open_flows_first():
    source, _ = metered((0, batch_of([packet(0)])), (0, InputError("the cable is cut")))
    assert reasons(source.read_batch()) == [FlowEndReason.FORCED_END]
    with pytest.raises(InputError, match="the cable is cut"):
        source.read_batch()
    assert source.read_batch() is None
    assert source.packet_tally == Tally(offered=1, kept=1)
