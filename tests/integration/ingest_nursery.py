"""A process that forks intakes to be killed, so that fifty of them do not import everything fifty times.

On standard input, a line a child: state directory, run, first row, seed. Each child takes rows numbered from the first
row on, a millisecond apart, in batches of random size with a late row behind each, commits now and then, and reports
what it committed: ``synced RUN ROW LATE`` says that all rows of the run up to this one are durable, and so many late
ones. It goes on until it is killed.
"""

import os
import sys
from pathlib import Path

import numpy as np

from nsstream.chunk import ChunkLimits
from nsstream.clock import ManualClock
from nsstream.counters import Tally
from nsstream.pipeline.intake import Intake, IntakeConfig
from nsstream.trace import PacketBatch

START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000
CONFIG = IntakeConfig(
    length_s=1,
    allowed_lateness_s=0.2,
    allowed_future_s=None,
    sync_s=1e6,
    limits=ChunkLimits(chunk_rows=10_000, open_rows=20_000),
)


def rows_of(run: int, first: int, count: int) -> PacketBatch:
    number = np.arange(first, first + count)
    columns = dict(PacketBatch.empty(count).columns())
    columns["observation_time_ns"] = START_NS + number * STEP_NS
    columns["tcp_sequence_number"] = number.astype(np.uint32)
    columns["tcp_acknowledgement_number"] = np.full(count, run, np.uint32)
    return PacketBatch.from_columns(columns)


def with_late(rows: PacketBatch) -> PacketBatch:
    """And its last row once more, ten seconds before all others."""
    last = dict(rows.take(slice(-1, None)).columns())
    last["observation_time_ns"] = np.array([START_NS - 10**10])
    return PacketBatch.concatenate([rows, PacketBatch.from_columns(last)])


def say(words: str) -> None:
    os.write(1, f"{words}\n".encode())


def ingest(state: Path, run: int, first: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    intake = Intake(state, "nursery", CONFIG, clock=ManualClock(START_NS))
    late = 0
    while True:
        for _ in range(int(rng.integers(1, 6))):
            count = int(rng.integers(1, 150))
            intake.take(with_late(rows_of(run, first, count)), Tally(offered=count + 1, kept=count + 1))
            first, late = first + count, late + 1
        if intake.sync():
            say(f"synced {run} {first - 1} {late}")


def main() -> None:
    intake = Intake(Path(sys.argv[1]), "warm-up", CONFIG, clock=ManualClock(START_NS))
    intake.take(rows_of(0, 0, 3000), Tally(offered=3000, kept=3000))
    intake.flush()
    intake.close()
    say("ready")
    for line in sys.stdin:
        state, run, first, seed = line.split()
        pid = os.fork()
        if not pid:
            try:
                ingest(Path(state), int(run), int(first), int(seed))
            finally:
                os._exit(1)
        say(f"born {pid}")
        status = os.waitpid(pid, 0)[1]
        say(f"gone {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
