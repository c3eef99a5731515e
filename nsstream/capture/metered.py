"""MeteredSource: a source of packets as a source of flow records, so that whatever gives packets can feed a flow model.

Promises: every packet that the inner source gave is in one record, the open ones included: they end at the inner
source's end or failure, or by `flush` (forced). Where the inner source gives nothing for a while, the meter's clock
goes on by the time that passes here, from the last packet's own time, so flows time out on a quiet wire and a replayed
old capture alike.

`tally` counts flow records, `tally.behind` packets: what became of them is the inner source's account, but that
packets of open flows are parked until their record is given. So what is kept there is what the records given count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nsstream.capture.source import DEFAULT_LATENESS_S, IDLE_S, HandsOver, Source
from nsstream.clock import Clock, SystemClock
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace.flows import FlowTable
from nsstream.trace.metering import FlowMeter
from nsstream.trace.packets import PacketBatch


class MeteredSource:
    """Meters `packets`, which it opens and closes, with `meter`, which must be fresh."""

    def __init__(self, packets: Source[PacketBatch], meter: FlowMeter, *, clock: Clock | None = None) -> None:
        self.tally = Tally(behind=Tally())
        self.lateness_s = DEFAULT_LATENESS_S + meter.idle_timeout_s
        self._packets = packets
        self._meter = meter
        self._clock = clock or SystemClock()
        self._last_arrival_ns = 0  # of our clock
        self._last_time_ns = 0  # of the meter's
        self._has_ended = False
        self._failure: InputError | None = None  # of the inner source, to be raised next
        self._recorded = 0  # packets in records that were given
        self._to_pass = 0  # packets in records that were given to a process before

    @property
    def packet_tally(self) -> Tally:
        """What became of the packets."""
        return self.tally.behind or Tally()

    def resume(self, known: Tally) -> bool:
        """Go on behind the packets of a process before, by its tally; False, and nothing is done, if it had flows open.

        Those that its end, and not the clock, had ended would last longer now.
        """
        if known.behind is None or known.behind.parked:
            return False
        self.tally = Tally()
        self.tally.add(known)
        self._recorded = self._to_pass = known.behind.kept
        return True

    def open(self) -> None:
        """Open the source of the packets; raises InputError as that does."""
        self._packets.open()
        self._has_ended = False

    def read_batch(self) -> FlowTable | None:
        """The flows that ended meanwhile, in that order; none where none ended for `IDLE_S`; None at the end.

        Raises InputError as the source of the packets does, once the flows that were open then have been given; and if
        that gives flows.
        """
        start_ns = self._clock.monotonic_ns()
        while not self._has_ended:
            batch = self._read_packets()
            arrival_ns = self._clock.monotonic_ns()
            is_idle = False
            if batch is None:
                self._has_ended = True
                flows = self._meter.flush()
            elif len(batch):
                flows = self._meter.push(batch)
                self._last_arrival_ns, self._last_time_ns = arrival_ns, self._meter.now_ns or 0
            else:
                flows = self._meter.advance_to(self._last_time_ns + arrival_ns - self._last_arrival_ns)
                is_idle = True
            self._account(flows)
            if len(flows):
                return flows
            if not self._has_ended and (is_idle or arrival_ns - start_ns > IDLE_S * 1e9):
                return flows
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return None

    def flush(self) -> FlowTable:
        """The flows that are open, which end by it; there is nothing to read behind them."""
        self._has_ended = True
        flows = self._meter.flush()
        self._account(flows)
        return flows

    def close(self) -> None:
        """Close the source of the packets; the tallies stay."""
        self._packets.close()
        self._has_ended = True
        self._account(FlowTable.empty())

    def handover(self) -> dict[str, Any] | None:
        """What the source of the packets hands over; packets of open flows are behind it, and parked."""
        return self._packets.handover() if isinstance(self._packets, HandsOver) else None

    def take_over(self, handover: object) -> None:
        """Tell the source of the packets what its predecessor knew; raises InputError as it does."""
        if not isinstance(self._packets, HandsOver):
            raise InputError(f"the source of the packets, {type(self._packets).__name__}, takes nothing over")
        self._packets.take_over(handover)

    def _account(self, flows: FlowTable) -> None:
        if self._to_pass:
            return
        self.tally.offered += len(flows)
        self.tally.kept += len(flows)
        self._recorded += int(flows.packet_delta_count.sum() + flows.reverse_packet_delta_count.sum())
        packets = self._packets.tally
        waiting = packets.kept - self._recorded
        self.tally.behind = replace(packets, kept=self._recorded, parked=packets.parked + waiting)

    def _read_packets(self) -> PacketBatch | None:
        try:
            batch = self._packets.read_batch()
        except InputError as err:
            self._failure = err
            return None
        if batch is not None and not isinstance(batch, PacketBatch):
            raise InputError("this source gives flow records; only packets can be metered")
        if batch is not None and self._to_pass:
            passed = min(self._to_pass, len(batch))
            self._to_pass -= passed
            return batch.take(slice(passed, None))
        return batch
