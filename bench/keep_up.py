"""Capture and training side by side, in real time: does training keep up, and does capture lose nothing meanwhile?

    nice -n -5 python bench/keep_up.py [--capture TRACE] [--longest-gap S] [--minutes 20] [--json OUT]    # as root

tcpreplay sends a capture (the bundled one unless told) at its own pace, pass after pass, over a veth pair; a real
daemon takes it live from the other end, cuts it into chunks of a minute, and fine-tunes a model of each within the
default budget. All of it runs on two processors, of which tcpreplay keeps one busy with waiting. The seed is learned
beforehand, of the same capture. Of a capture that is silent for minutes, --longest-gap cuts each silence short, so
that every minute has traffic to learn, at the rate that it has when there is some.

Bars: every packet that the interface counted is offered and in a fate, none dropped; a chunk for every minute, none
twice; no job skipped because training is behind, none failed, at most one waiting while another is learned; from a
chunk's close (its file is there) to the verdict on its model at most a minute. Beside them: where that time went.
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
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bars.daemon_status import differences, in_a_fate, status_of, wait_for
from bars.runs import RunFailedError, run_main
from bars.traces import lab_capture
from bars.verdict import Bar, as_dict, at_least, at_most, equal, finish, has_passed, show
from bars.veth import VethPair, veth_pair

from nsstream.score.plain import plain_file

CHUNK_S = 60
PROCESSORS = 2
SEED_S = 60
MOST_WAITING = 1
VERDICT_S = 60.0
READY_S = 300.0  # the first start compiles
SETTLE_S = 300.0
MTU = 65_535  # captures behind an offloading card have longer frames than the wire

CONFIG = """
state = "{state}"
[source]
input = "live:rx"
[chunks]
length_s = {chunk_s}
[training]
seed_captures = ["{capture}"]
seed_budget_s = {seed_s}
keep_models = 5
[control]
metrics_port = 0
"""


@dataclass(frozen=True, slots=True)
class Learned:
    """One job, from the moment that its chunk's file was there; seconds."""

    waited_s: float
    training_s: float
    judging_s: float
    is_promoted: bool

    @property
    def all_s(self) -> float:
        return self.waited_s + self.training_s + self.judging_s


class Sender(threading.Thread):
    """Sends passes of a capture until the time is over."""

    def __init__(self, pair: VethPair, capture: Path, seconds: float, longest_gap_s: float | None) -> None:
        super().__init__(name="sender", daemon=True)
        self._pair, self._capture, self._seconds = pair, capture, seconds
        self._options = [] if longest_gap_s is None else [f"--maxsleep={max(round(longest_gap_s * 1000), 1)}"]
        self.failed = 0
        self.error: Exception | None = None

    def run(self) -> None:
        until_s = time.monotonic() + self._seconds
        try:
            while (left_s := until_s - time.monotonic()) >= 1:
                self.failed += self._pair.send(
                    self._capture, f"--duration={round(left_s)}", *self._options
                ).failed_count
        except Exception as err:  # the boundary of the thread; `measure` raises it
            self.error = err


def measure(folder: Path, pair: VethPair, capture: Path, minutes: float, longest_gap_s: float | None) -> dict[str, Any]:
    """Send, and look at the daemon meanwhile and afterwards."""
    state, config = folder / "state", folder / "nsstream.toml"
    config.write_text(CONFIG.format(state=state, chunk_s=CHUNK_S, capture=capture, seed_s=SEED_S))
    command = [sys.executable, "-m", "nsstream_daemon", "daemon", "-c", str(config)]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(["ip", "netns", "exec", pair.receiver, *command], stderr=log)
    try:
        wait_for(lambda: (state / "seed" / "captures.json").exists(), READY_S + 2 * SEED_S, daemon)
        before = pair.received()[0]
        sender = Sender(pair, capture, minutes * 60, longest_gap_s)
        sender.start()
        most_waiting = 0
        while sender.is_alive():
            sender.join(1.0)
            if (status := status_of(state)) is not None:
                most_waiting = max(most_waiting, _waiting(status))
        if sender.error is not None:
            raise RunFailedError(f"the sender: {sender.error}")
        received = pair.received()[0] - before

        def is_through() -> bool:
            status = status_of(state)
            return status is not None and status["capture"]["tally"]["offered"] >= received and not _busy(status)

        wait_for(is_through, SETTLE_S, daemon)
        status = status_of(state)
        assert status is not None
        learned = jobs_of(state)
        daemon.terminate()
        ended = daemon.wait(SETTLE_S)
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait()
    with closing(sqlite3.connect(state / "ledger.sqlite")) as ledger:
        starts = [row[0] // 10**9 for row in ledger.execute("SELECT start_ns FROM chunk ORDER BY start_ns")]
    return {
        "received": received, "failed": sender.failed, "most_waiting": most_waiting, "status": status,
        "learned": learned, "starts": starts, "exit_status": ended,
    }  # fmt: skip


def jobs_of(state: Path) -> list[Learned]:
    """What became of each job that was done, by start."""
    found = []
    with closing(sqlite3.connect(state / "ledger.sqlite")) as ledger:
        for job, claimed_ns, trained_ns, training_s, model in ledger.execute(
            "SELECT job.id, job.claimed_ns, model.trained_ns, model.training_s, model.id"
            " FROM job JOIN model ON model.job = job.id ORDER BY job.start_ns"
        ):
            chunks = [row[0] for row in ledger.execute("SELECT id FROM chunk WHERE job = ?", (job,))]
            closed_ns = max((state / "chunks" / f"{chunk}.arrow").stat().st_mtime_ns for chunk in chunks)
            promotions = ledger.execute("SELECT COUNT(*) FROM promotion WHERE model = ?", (model,)).fetchone()[0]
            judging_s = (trained_ns - claimed_ns) * 1e-9 - training_s
            found.append(Learned((claimed_ns - closed_ns) * 1e-9, training_s, judging_s, bool(promotions)))
    return found


def judge(found: dict[str, Any], minutes: float) -> list[Bar]:
    """What was wanted."""
    learned: list[Learned] = found["learned"]
    capture, training = found["status"]["capture"], found["status"]["training"]
    tally, jobs, starts = capture["tally"], training["jobs"], found["starts"]
    wanted = list(range(starts[0], starts[-1] + 1, CHUNK_S)) if starts else []
    took = [one.all_s for one in learned]
    parts = {name: [getattr(one, f"{name}_s") for one in learned] for name in ("waited", "training", "judging")}
    return [
        Bar("packets that the interface counted", found["received"], beside=f"{minutes:g} minutes"),
        equal("packets that tcpreplay failed to send", found["failed"], 0),
        equal("packets offered", tally["offered"], found["received"]),
        equal("packets in a fate", in_a_fate(tally), found["received"]),
        equal("packets dropped", sum(tally["dropped"].values()), 0),
        equal("minutes without a chunk, or with two", differences(starts, wanted), 0, f"{len(starts)} chunks"),
        equal("jobs skipped", jobs["skipped"], 0),
        equal("trainings failed", sum(training["failures"].values()), 0),
        at_most("jobs that waited at most", found["most_waiting"], MOST_WAITING),
        at_least("chunks learned", len(learned), 1),
        Bar("close to verdict, s, median", round(median(took), 2) if took else None),
        at_most("close to verdict, s, worst", round(max(took), 2) if took else None, VERDICT_S),
        *(
            Bar(f"  {name}, s, median", round(median(part), 2), beside=f"{max(part):.1f} worst")
            for name, part in parts.items()
            if part
        ),
        Bar("models promoted, of those learned", sum(one.is_promoted for one in learned), beside=len(learned)),
        equal("exit status", found["exit_status"], 0),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", type=Path, help="what is sent; the bundled capture unless given")
    parser.add_argument("--longest-gap", type=float, metavar="S", help="a longer silence is cut to so many seconds")
    parser.add_argument("--minutes", type=float, default=20.0, help="of sending (%(default)s)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSORS])  # and all that is started from here
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nsstream-keep-up-")))
        packed = given.capture or stack.enter_context(lab_capture())
        plain = stack.enter_context(plain_file(packed))
        pair = stack.enter_context(veth_pair(MTU))
        found = measure(folder, pair, plain.absolute(), given.minutes, given.longest_gap)
    bars = judge(found, given.minutes)
    show(f"{given.minutes:g} minutes of {packed.name}, captured live and learned", bars, beside="where")
    told = {name: value for name, value in found.items() if name not in ("learned", "starts")}
    lines = [{"close_to_verdict_s": one.all_s, "training_s": one.training_s} for one in found["learned"]]
    return finish(as_dict(bars) | told | {"jobs": lines}, given.json, passed=has_passed(bars))


def _waiting(status: dict[str, Any]) -> int:
    """Jobs that wait while another is learned; one that is about to be claimed waits for nothing."""
    jobs, workers = status["training"]["jobs"], status["training"]["workers"]
    return int(jobs["pending"] + jobs["failed"]) if any(worker["state"] != "idle" for worker in workers) else 0


def _busy(status: dict[str, Any]) -> bool:
    jobs = status["training"]["jobs"]
    return any(jobs[state] for state in ("pending", "claimed", "running", "failed"))


if __name__ == "__main__":
    sys.exit(run_main(main))
