"""kill -9 of the daemon, its workers and the replay at random moments under load: what is lost, what is done twice?

    nice python bench/service_faults.py [--kills 30] [--seed 1] [--json OUT]

A real daemon on a spool that captures come into, a trainer and a judge that are quick (tests/integration: what is tried
is what stands around them), and a real replay server that follows the promoted model. Each kill takes the daemon, the
worker that is at work, or the replay, at a moment that chance chooses; what was killed is started again at once, as a
service manager does. Measured is how long it takes until it is well: of the daemon, that it says so and reads its
source; of a worker, that its job is done; of the replay, that packets come again.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(2, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from bars.runs import RunFailedError, run_main
from bars.verdict import Bar, as_dict, at_least, at_most, equal, finish, has_passed, show
from checkpoints import blank_checkpoint
from service_nest import PACKETS_A_CHUNK, Nest, is_gone

from nsstream.chunk import ChunkStore, read_chunk
from nsstream.errors import NsstreamError
from nsstream.model.loading import load_any
from nsstream.model.promotion import read_promoted
from nsstream.pipeline.doctor import examine
from nsstream.replay import ReplayClient

VICTIMS = ("daemon", "worker", "replay")
WELL_S = 10.0  # that a service may take to be well again
FEED_S = 2.0  # between two chunks: about as fast as they are learned
PATIENCE_S = 90.0


@dataclass
class Found:
    """What the kills showed."""

    well_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in VICTIMS})
    chunks: int = 0
    chunks_lost: int = 0
    rows_lost: int = 0
    jobs_not_done_once: int = 0
    trained_twice: int = 0
    models_damaged: int = 0
    findings: list[str] = field(default_factory=list)  # of the doctor, at the end
    unexplained: int = 0  # kills of which the journal has no line


class Fire:
    """A service, its replay, and what comes in."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.nest = Nest(folder, training={"attempts": 20, "start_from": "newest"})
        blank_checkpoint(folder / "blank").rename(self.nest.quick / "template")
        self.endpoint = f"ipc://{folder}/replay.sock"
        self.replay: subprocess.Popen[bytes] | None = None
        self.folder, self._stop = folder, threading.Event()
        self._feeder = threading.Thread(target=self._feed, name="feeder")

    def __enter__(self) -> Fire:
        self.nest.put(2)
        self.nest.start()
        until(lambda: read_promoted(self.nest.state / "models") is not None)
        self.start_replay()
        until(self.is_replay_well)
        self._feeder.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._feeder.ident is not None:
            self._feeder.join()
        if self.replay is not None:
            self.replay.kill()
            self.replay.wait()
        self.nest.close()

    def kill(self, victim: str) -> float:
        """Kill one at a moment that chance chooses, and start it again; gives the seconds until it was well."""
        if victim == "worker":
            return self._kill_worker()
        time.sleep(self.chance.uniform(0, 1.5))
        began_s = time.monotonic()
        if victim == "daemon":
            self.nest.kill()
            self.nest.start(ready=False)
            until(self.is_daemon_well)
        else:
            assert self.replay is not None
            self.replay.kill()
            self.replay.wait()
            self.start_replay()
            until(self.is_replay_well)
        return time.monotonic() - began_s

    def is_daemon_well(self) -> bool:
        status = self.nest.ask_or_none("status")
        return status is not None and status["healthy"] and status["capture"]["state"] == "running"

    def start_replay(self) -> None:
        command = [sys.executable, "-m", "nsstream_daemon", "replay", "--endpoint", self.endpoint]
        with (self.folder / "replay.log").open("ab") as log:
            self.replay = subprocess.Popen(command, stdout=log, stderr=log)

    def is_replay_well(self) -> bool:
        """Whether packets come; the run is asked for where there is none, as an operator's client does."""
        try:
            with ReplayClient(self.endpoint, timeout_s=2.0) as client:
                status = client.status()
                if status.state not in ("starting", "running"):
                    stream = {"kind": "follow", "directory": str(self.nest.state / "models")}
                    sink = {"kind": "pcap", "path": str(self.folder / "twin.pcap"), "overwrite": True}
                    client.start(stream, sink, loop=None, rate=1.0)
                return status.packets_written > 0
        except NsstreamError:
            return False

    def settle(self) -> None:
        """Let what is there be learned."""
        self._stop.set()
        self._feeder.join()
        until(lambda: self.nest.done() == self.nest.spooled - 1, 10 * PATIENCE_S)

    def _kill_worker(self) -> float:
        nest, pid_file = self.nest, self.nest.quick / "pid"
        (nest.quick / "slow").touch()
        until(lambda: (text := pid_file.read_text()) and not is_gone(int(text)))  # one is at work, and stays so
        time.sleep(self.chance.uniform(0, 0.5))
        pid, done = int(pid_file.read_text()), nest.done()
        os.kill(pid, signal.SIGKILL)
        began_s = time.monotonic()
        (nest.quick / "slow").unlink()
        until(lambda: nest.done() > done)
        return time.monotonic() - began_s

    def _feed(self) -> None:
        while not self._stop.wait(FEED_S):
            self.nest.put(1)


def until(holds: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise RunFailedError(f"what was waited for in line {holds.__code__.co_firstlineno} did not come about")
        time.sleep(0.02)


def run(folder: Path, kills: int, seed: int) -> Found:
    """Kill so often, and look at what is left."""
    found = Found()
    with Fire(folder, seed) as fire:
        for at in range(kills):
            victim = VICTIMS[at % len(VICTIMS)]
            found.well_s[victim].append(fire.kill(victim))
        fire.settle()
        nest = fire.nest
        nest.stop()
        learned = sorted(nest.stored())[: nest.spooled - 1]
        infos = ChunkStore(nest.state / "chunks").list()
        found.chunks = nest.spooled - 1
        found.chunks_lost = found.chunks - sum(info.row_count == PACKETS_A_CHUNK for info in infos[: found.chunks])
        found.rows_lost = nest.spooled * PACKETS_A_CHUNK - sum(info.row_count for info in infos)
        for info in infos:
            read_chunk(info.path).check_digest()
        done = nest.rows(
            "SELECT COUNT(*) FROM job JOIN model ON model.job = job.id WHERE state = 'done' GROUP BY job.id"
        )
        odd = nest.count("job WHERE state NOT IN ('done', 'pending')")
        found.jobs_not_done_once = abs(found.chunks - len(done)) + odd + sum(count != 1 for (count,) in done)
        trained = (nest.quick / "trained").read_text().split()
        found.trained_twice = len(trained) - len(set(trained) & set(learned))
        state = examine(nest.state, is_live=False, load=load_any)
        found.findings = [f"{finding.code}: {finding.says}" for finding in state.findings]
        found.models_damaged = sum(finding.code.startswith("model") for finding in state.findings)
        text = nest.log.read_text()
        said = {"daemon": len(re.findall("daemon_ready", text)) - 1, "worker": text.count("killed by SIGKILL")}
        found.unexplained = sum(max(0, len(found.well_s[name]) - count) for name, count in said.items())
    return found


def judge(found: Found) -> list[Bar]:
    """What was wanted."""
    return [
        *(
            at_most(f"{name}: the slowest of {len(times)} to be well again (s)", round(max(times), 2), WELL_S)
            for name, times in found.well_s.items()
            if times
        ),
        at_least("chunks closed meanwhile", found.chunks, 1),
        equal("chunks lost, or not whole", found.chunks_lost, 0),
        equal("rows lost", found.rows_lost, 0),
        equal("jobs lost, or settled more than once", found.jobs_not_done_once, 0),
        Bar("trainings that a kill made anew", found.trained_twice),
        equal("models that do not load", found.models_damaged, 0),
        equal("what the doctor finds at the end", len(found.findings), 0, "; ".join(found.findings)),
        equal("kills of which no line tells", found.unexplained, 0),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="nsstream-fire-") as folder:
        found = run(Path(folder), given.kills, given.seed)
    bars = judge(found)
    show(f"{given.kills} kills under load", bars, beside="what")
    return finish(as_dict(bars) | asdict(found), given.json, passed=has_passed(bars))


if __name__ == "__main__":
    sys.exit(run_main(main))
