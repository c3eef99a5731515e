"""FrameMeter: frames in, flow records out, for sinks whose output is flows.

Frames are dissected and metered as captured ones are (`wire.dissect`, `trace.metering`); one that is no IP packet, or
whose headers are not whole, is counted. With sampling, every so many-th frame is looked at, the first one first
(systematic count-based, RFC 5475 5.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nsstream.trace import PacketBatch
from nsstream.trace.flows import FlowTable
from nsstream.trace.metering import FlowMeter
from nsstream.wire import RecordIndex, dissect

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

_ETHERNET: Final = 1


class FrameMeter:
    """Meters frames in the order of their times, one direction a record.

    Args:
        active_timeout_s: a record ends so long after its flow's start; the flow goes on in another one.
        idle_timeout_s: a flow ends so long after its last frame.
        sampling_interval: one frame in so many is looked at.
    """

    def __init__(self, *, active_timeout_s: float, idle_timeout_s: float, sampling_interval: int = 1) -> None:
        self._meter = FlowMeter(
            active_timeout_s=active_timeout_s,
            idle_timeout_s=min(idle_timeout_s, active_timeout_s),
            linger_s=min(1.0, idle_timeout_s, active_timeout_s),
            by_class_of_service=True,
        )
        self._interval = sampling_interval
        self._to_pass = 0  # frames until the next one that is looked at
        self.counters = {"frames": 0, "frames_metered": 0, "frames_sampled_out": 0, "frames_not_ip": 0}

    def push(self, frames: Frames) -> FlowTable:
        """Meter frames; the records of the flows that ended meanwhile."""
        n = len(frames)
        rows = np.arange(min(self._to_pass, n), n, self._interval)
        self._to_pass = (self._to_pass - n) % self._interval
        index = RecordIndex(
            frames.observation_time_ns[rows],
            frames.offset[rows],
            frames.offset[rows + 1] - frames.offset[rows],
            frames.offset[rows + 1] - frames.offset[rows],
            np.full(len(rows), _ETHERNET, np.int64),
        )
        columns, _ = dissect(frames.octets, index, len(rows))
        packets = PacketBatch.from_columns(columns)
        self.counters["frames"] += n
        self.counters["frames_metered"] += len(packets)
        self.counters["frames_sampled_out"] += n - len(rows)
        self.counters["frames_not_ip"] += len(rows) - len(packets)
        flows = self._meter.push(packets)
        if n:
            flows = FlowTable.concatenate([flows, self._meter.advance_to(int(frames.observation_time_ns[-1]))])
        return self._told(flows)

    def advance_to(self, now_ns: int) -> FlowTable:
        """Move the clock on where no frame does; the records of the flows that ended by it."""
        return self._told(self._meter.advance_to(now_ns))

    def flush(self) -> FlowTable:
        """End all flows."""
        return self._told(self._meter.flush())

    def _told(self, flows: FlowTable) -> FlowTable:
        if self._interval == 1 or not len(flows):
            return flows
        sampling = {"sampling_interval": np.full(len(flows), self._interval, np.uint32)}
        return FlowTable.from_columns(flows.columns() | sampling)
