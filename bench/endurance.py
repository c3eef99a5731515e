"""Days of traffic through the daemon within minutes, training on: do memory, descriptors and disk stay, is no row lost?

    nice python bench/endurance.py [--hours 24] [--speed 144] [--keep 64M] [--json OUT]

The bundled lab capture, pass after pass at later times, comes through a FIFO into a real daemon --speed times as fast
as it was recorded, for so many hours of its own time. The daemon cuts it into chunks of a minute, learns the newest
within seconds (the workers are real, most chunks are skipped because training is behind, and counted), and keeps --keep
octets of chunks. Memory is read once a second; its slope is Theil's and Sen's, behind a warm-up of a third of the run,
of 5 minutes at most, and told in MB an hour of the traffic's time and of the clock's.

Bars: memory grows by at most 1 MB an hour of traffic; no more descriptors and threads at the end than behind the
warm-up; chunks never take more than --keep and one chunk; a chunk for every minute, none twice; every packet that was
written is in a fate; no job failed; what the doctor finds at the end: nothing.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from bars.daemon_status import differences, in_a_fate, status_of, wait_for
from bars.replay_frames import read_frames
from bars.runs import RunFailedError, run_main
from bars.soak_figures import Sample, sample, trend, warm_up_s
from bars.traces import lab_capture
from bars.verdict import Bar, as_dict, at_least, at_most, equal, finish, has_passed, show

from nsstream.assemble.frames import Frames
from nsstream.model.loading import load_any
from nsstream.pipeline.doctor import examine
from nsstream.pipeline.plan import parse_octets
from nsstream.score.plain import plain_file
from nsstream.wire.pcap import pcap_header, write_records

CHUNK_S = 60
START_S = 1_700_000_040 // CHUNK_S * CHUNK_S
SLICE_NS = 5 * 10**9  # of the traffic, handed over at once
GROWTH_MB = 1.0
READY_S = 120.0
SETTLE_S = 300.0

CONFIG = """
state = "{state}"
[source]
input = "{fifo}"
at_end = "stay"
[chunks]
length_s = {chunk_s}
lateness_s = 1
keep_octets = {keep}
[training]
seed_budget_s = 20
budget_s = 10
fewest_conversations = 50
keep_models = 5
[gate]
worst_ratio = 2.0
drawn_conversations = 200
[control]
metrics_port = 0
"""


class Feeder(threading.Thread):
    """Writes passes of a capture into a FIFO, at a pace; `written` packets so far."""

    def __init__(self, frames: Frames, fifo: Path, hours: float, speed: float) -> None:
        super().__init__(name="feeder", daemon=True)
        self._frames, self._fifo, self._speed = frames, fifo, speed
        self._length_ns = round(hours * 3600e9)
        self.written = 0
        self.error: OSError | None = None

    def run(self) -> None:
        """Write until the hours are over."""
        frames = self._frames
        times_ns = frames.observation_time_ns - frames.observation_time_ns[0]
        span_ns = -(-int(times_ns[-1] + 1) // (CHUNK_S * 10**9)) * CHUNK_S * 10**9
        times_ns = np.maximum.accumulate(times_ns * (span_ns / int(times_ns[-1] + 1))).astype(np.int64)
        began_s = time.monotonic()
        try:
            with self._fifo.open("wb", buffering=0) as file:
                file.write(pcap_header())
                for at_ns in range(0, self._length_ns, SLICE_NS):
                    left_s = began_s + at_ns * 1e-9 / self._speed - time.monotonic()
                    if left_s > 0:
                        time.sleep(left_s)
                    first, end = np.searchsorted(times_ns, [at_ns % span_ns, at_ns % span_ns + SLICE_NS])
                    some = frames.slice(int(first), int(end))
                    shift_ns = START_S * 10**9 + at_ns // span_ns * span_ns
                    octets = write_records(times_ns[first:end] + shift_ns, some.offset, some.octets)
                    view = memoryview(octets)
                    while view:
                        view = view[file.write(view) :]
                    self.written += len(some)
        except OSError as err:
            self.error = err


def run(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Feed a daemon, and look at it meanwhile and afterwards."""
    state, fifo, config = folder / "state", folder / "fifo", folder / "nsstream.toml"
    os.mkfifo(fifo)
    config.write_text(CONFIG.format(state=state, fifo=fifo, chunk_s=CHUNK_S, keep=given.keep))
    with lab_capture() as packed, plain_file(packed) as plain:
        frames = read_frames(plain)
    feeder = Feeder(frames, fifo, given.hours, given.speed)
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "nsstream_daemon", "daemon", "-c", config], stderr=log)
    try:
        wait_for(lambda: status_of(state) is not None, READY_S, daemon)
        feeder.start()
        samples, most_octets = [], 0
        began_s = time.monotonic()
        while feeder.is_alive():
            feeder.join(1.0)
            samples.append(sample(daemon.pid, time.monotonic() - began_s))
            status = status_of(state)
            if status is not None:
                most_octets = max(most_octets, status["disk"]["chunks_octets"])
        if feeder.error is not None:
            raise RunFailedError(f"the daemon no longer reads: {feeder.error}")
        wait_for(lambda: (s := status_of(state)) is not None and s["capture"]["state"] == "ended", SETTLE_S, daemon)
        status = status_of(state)
        assert status is not None
        largest = max((path.stat().st_size for path in (state / "chunks").glob("*.arrow")), default=0)
        daemon.terminate()
        ended = daemon.wait(SETTLE_S)
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
    with closing(sqlite3.connect(state / "ledger.sqlite")) as ledger:
        starts = [row[0] // 10**9 for row in ledger.execute("SELECT start_ns FROM chunk ORDER BY start_ns")]
    findings = examine(state, is_live=False, load=load_any).findings
    return {
        "written": feeder.written, "samples": samples, "most_octets": most_octets, "largest_octets": largest,
        "status": status, "exit_status": ended, "starts": starts,
        "findings": [f"{finding.code}: {finding.says}" for finding in findings],
    }  # fmt: skip


def judge(found: dict[str, Any], given: argparse.Namespace) -> list[Bar]:
    """What was wanted."""
    samples: list[Sample] = found["samples"]
    seconds = samples[-1].at_s
    warm = [one for one in samples if one.at_s >= warm_up_s(seconds)]
    went = trend([one.at_s for one in warm], [one.resident_mb for one in warm])
    fifth = max(len(warm) // 5, 1)
    kept_open = max(one.descriptors for one in warm[-fifth:]) - max(one.descriptors for one in warm[:fifth])
    threads = max(one.threads for one in warm[-fifth:]) - max(one.threads for one in warm[:fifth])
    capture, training = found["status"]["capture"], found["status"]["training"]
    tally = capture["tally"]
    wanted = [START_S + CHUNK_S * k for k in range(round(given.hours * 3600 / CHUNK_S))]
    failed = sum(training["failures"].values())
    return [
        Bar("hours of traffic", given.hours, beside=f"{seconds:.0f} s"),
        Bar("packets", found["written"]),
        at_most(
            "memory, MB an hour of traffic", round(went.slope / given.speed, 4), GROWTH_MB, f"{went.slope:.1f} MB/h"
        ),
        Bar("95 % of such slopes", f"{went.low / given.speed:.3f} to {went.high / given.speed:.3f}"),
        Bar("memory, MB: behind the warm-up, at the end", f"{warm[0].resident_mb:.0f}, {warm[-1].resident_mb:.0f}"),
        at_most("descriptors more than behind the warm-up", kept_open, 0),
        at_most("threads more than behind the warm-up", threads, 0),
        at_most("octets of chunks at most", found["most_octets"], given.keep + found["largest_octets"]),
        equal("chunks at another time than wanted, missing or twice", differences(found["starts"], wanted), 0),
        equal("packets that were read", tally["offered"], found["written"]),
        equal("packets in a fate", in_a_fate(tally), found["written"]),
        equal("packets dropped", sum(tally["dropped"].values()), 0),
        at_least("models promoted", training["models"]["passed"], 1),
        Bar("trainings done, skipped", f"{training['jobs']['done']}, {training['jobs']['skipped']}"),
        equal("trainings failed", failed, 0),
        equal("exit status", found["exit_status"], 0),
        equal("what the doctor finds", len(found["findings"]), 0, "; ".join(found["findings"])),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0, help="of the traffic's time")
    parser.add_argument("--speed", type=float, default=144.0, help="times as fast as it was recorded")
    parser.add_argument("--keep", type=parse_octets, default="64M", help="octets of chunks that are kept")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nsstream-endurance-") as folder:
        found = run(Path(folder), given)
    bars = judge(found, given)
    show(f"{given.hours:g} hours at {given.speed:g} times their pace", bars, beside="where")
    told = {name: value for name, value in found.items() if name not in ("samples", "starts")}
    return finish(as_dict(bars) | told, given.json, passed=has_passed(bars))


if __name__ == "__main__":
    sys.exit(run_main(main))
