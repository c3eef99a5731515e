"""The packets behind flow records are accounted for in the chunks, however they are batched and whoever is killed.

Over all chunks and what was counted since the last one: packets kept are those that the stored records count, and
packets offered are all that were committed, each with its fate.
"""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from made_traffic import batch_of, packet

from nsstream.capture import MeteredSource
from nsstream.chunk import ChunkStore
from nsstream.clock import ManualClock
from nsstream.counters import PLACES, Tally
from nsstream.pipeline.ingest_loop import copy_of, difference
from nsstream.pipeline.intake import Intake, IntakeConfig
from nsstream.trace import PacketBatch
from nsstream.trace.metering import FlowMeter

S = 1_000_000_000
CONFIG = IntakeConfig(length_s=10, allowed_lateness_s=1000, allowed_future_s=None)
STEPS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 4_000), st.integers(1, 3)), max_size=8),  # ms since the last one, a host
        st.dictionaries(st.sampled_from(PLACES), st.integers(1, 9), max_size=2),
        st.dictionaries(st.sampled_from(["arp", "short_frame"]), st.integers(1, 9), max_size=1),
        st.sampled_from(["", "", "", "tick", "sync", "flush", "kill"]),
    ),
    max_size=12,
)


class Wire:
    """Gives what it was told to, and then that nothing came."""

    def __init__(self):
        self.tally = Tally()
        self.next = []
        self.has_ended = False

    def open(self):
        pass

    def read_batch(self):
        if self.next:
            return self.next.pop(0)
        return None if self.has_ended else PacketBatch.empty()

    def close(self):
        pass


class Ingest:
    """A wire, metered into an intake, as `IngestLoop` does it, but step by step."""

    def __init__(self, state, clock, max_flows):
        self.wire, self.seen = Wire(), Tally()
        self.source = MeteredSource(self.wire, FlowMeter(idle_timeout_s=5, max_flows=max_flows), clock=clock)
        self.source.open()
        self.intake = Intake(state, "made", CONFIG, clock=clock)
        self.first_commit = self.commit
        self.intake.forget_waiting()

    @property
    def commit(self):
        return self.intake._journal._commit_number

    def step(self):
        rows = self.source.read_batch()
        total = copy_of(self.source.tally)
        told, self.seen = difference(total, self.seen), total
        self.intake.take(rows, told, parked=total.parked, total=total)
        self.intake.tally.check()
        return rows is not None


def waiting(intake):
    return (intake.tally.behind or Tally()).parked


@settings(max_examples=60)
@given(STEPS, st.sampled_from([1, 2, 100]), st.booleans())
def test_the_packets_account_adds_up_at_every_moment_and_over_any_kill(steps, max_flows, is_cut):
    with tempfile.TemporaryDirectory() as directory:
        state, clock = Path(directory), ManualClock(60 * S)
        ingest = Ingest(state, clock, max_flows)
        at_ms, offered = 0, 0
        for packets, dropped, unsupported, then in steps:
            rows = []
            for gap_ms, host in packets:
                at_ms += gap_ms
                rows.append(packet(at_ms, (f"192.0.2.{host}", 1)))
            for edges in [slice(0, 3), slice(3, None)] if is_cut else [slice(None)]:
                ingest.wire.next.append(batch_of(rows[edges]))
            tally = ingest.wire.tally
            tally.add(Tally(offered=len(rows), kept=len(rows)))
            tally.add(Tally(offered=sum(unsupported.values()), unsupported=Counter(unsupported)))
            for place, count in dropped.items():
                tally.drop(place, count)
            while ingest.wire.next:
                assert ingest.step()
            assert waiting(ingest.intake) == ingest.source.packet_tally.parked
            clock.advance(S)
            if then in ("tick", "sync", "flush"):
                getattr(ingest.intake, then)()
            elif then == "kill":
                ingest.intake.close()
                is_told_of = ingest.commit > ingest.first_commit  # else the state is as that process found it
                ingest = Ingest(state, clock, max_flows)
                if is_told_of:
                    offered += ingest.intake.source_total.get("behind", {}).get("offered", 0)
            ingest.intake.tally.check()
        ingest.wire.has_ended = True
        while ingest.step():
            pass
        ingest.intake.flush()
        offered += ingest.wire.tally.offered
        store = ChunkStore(state / "chunks")
        told = Tally(behind=Tally())
        for info in store.list():
            info.tally.check()
            told.add(info.tally)
        told.add(ingest.intake._chunker.loose)  # it is in the journal's commit, for the next chunk
        assert told.behind is not None
        assert told.behind.parked == 0
        assert told.behind.offered == offered
        assert told.behind.kept == sum(
            int(store.read(info.path).flows.packet_delta_count.sum()) for info in store.list()
        )
        ingest.intake.close()
