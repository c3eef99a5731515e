"""The account of an ingest adds up at every moment and over any kill: offered = kept + each named loss."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nsstream.chunk import ChunkLimits, ChunkStore, Fate
from nsstream.clock import ManualClock
from nsstream.counters import PLACES, Tally
from nsstream.pipeline.intake import Intake, IntakeConfig
from nsstream.trace import PacketBatch

S = 1_000_000_000
BATCHES = st.lists(
    st.tuples(
        st.lists(st.one_of(st.integers(0, 120 * S), st.sampled_from([-1, 2**62, 4000 * S])), max_size=12),
        st.dictionaries(st.sampled_from(PLACES), st.integers(1, 9), max_size=2),
        st.dictionaries(st.sampled_from(["short_frame", "bad_time"]), st.integers(1, 9), max_size=2),
        st.integers(0, 3),  # parked in the source
        st.sampled_from(["", "", "tick", "sync", "kill"]),
    ),
    max_size=10,
)


def rows_of(times_ns: list[int]) -> PacketBatch:
    columns = dict(PacketBatch.empty(len(times_ns)).columns())
    columns["observation_time_ns"] = np.array(times_ns, np.int64)
    columns["source_transport_port"] = (np.arange(len(times_ns)) % 5).astype(np.uint16)
    return PacketBatch.from_columns(columns)


@settings(max_examples=60)
@given(BATCHES, st.booleans(), st.integers(1, 15))
def test_the_account_adds_up_at_every_moment_and_over_any_kill(batches, is_live, room):
    config = IntakeConfig(
        length_s=10,
        allowed_lateness_s=2,
        allowed_future_s=600,
        witnesses=3,
        limits=ChunkLimits(chunk_rows=room, open_rows=2 * room, apart_rows=room),
        is_live=is_live,
    )
    with tempfile.TemporaryDirectory() as directory:
        state, clock = Path(directory), ManualClock(60 * S)
        intake = Intake(state, "made", config, clock=clock)
        offered = 0
        for times_ns, dropped, malformed, parked, then in batches:
            told = Tally(offered=len(times_ns), kept=len(times_ns), malformed=Counter(malformed))
            told.offered += sum(malformed.values())
            for place, count in dropped.items():
                told.drop(place, count)
            intake.take(rows_of(times_ns), told, parked=parked)
            intake.tally.check()
            offered += told.offered
            clock.advance(S // 2)
            if then == "tick":
                intake.tick()
            elif then == "sync":
                assert intake.sync()
            elif then == "kill":  # all is committed but the rows that no witness has decided yet
                assert intake.sync()
                offered -= intake.tally.parked - parked
                intake.close()
                intake = Intake(state, "made", config, clock=clock)
            intake.tally.check()
        intake.flush()
        intake.tally.check()
        infos, apart = ChunkStore(state / "chunks").list(), ChunkStore(state / "apart").list()
        for info in infos:
            info.tally.check()
            assert info.tally.kept == info.row_count <= room
        counts: Counter[Fate] = Counter()
        for info in apart:
            info.tally.check()
            assert info.tally.kept == info.row_count <= room
            counts[info.fate] += info.tally.offered
        assert counts[Fate.LATE] == sum(info.tally.late for info in infos) + left_over(intake).late
        assert counts[Fate.FUTURE] == sum(info.tally.future for info in infos) + left_over(intake).future
        assert sum(info.tally.offered for info in infos) + left_over(intake).offered == offered
        intake.close()


def left_over(intake: Intake) -> Tally:
    """What was counted after the last chunk closed: it is in the journal's commit, for the next chunk."""
    return intake._chunker.loose
