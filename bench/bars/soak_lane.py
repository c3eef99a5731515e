"""One sink for a while: a replay server of its own in a namespace, its other end, and clients that die and stall.

    python bench/bars/soak_lane.py '{"name": "tcpreplay", "seconds": 60, "rate": 20000, "capture": "...", ...}'

Prints what it found as one line of JSON. Ends its server, its other end and its namespaces, whatever happens.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bars.soak_chaos import Chaos
from bars.soak_ends import Collector, Files, OtherEnd, Pipe, Subscribers, Wire
from bars.soak_figures import Sample, resident_mb, sample, trend, warm_up_s
from bars.veth import VethPair, veth_pair
from nsstream.errors import ReplayError
from nsstream.replay import PacketRate, ReplayClient, Status
from nsstream.replay.sink import check_counters

NAMES = (
    "pcap", "fifo", "stdout", "tcpreplay", "interface", "netflow5", "netflow9", "ipfix", "nfcapd", "csv", "subscribers",
    "model",
)  # fmt: skip
VERSIONS = {"netflow5": 5, "netflow9": 9, "ipfix": 10}
READY_S = 120.0
SETTLE_S = 20.0  # within which a server lets go of what clients held that are gone
END_S = 120.0
LOOK_S = 0.1  # between looks at memory, of which a second's least counts


@dataclass(frozen=True, slots=True)
class Lane:
    """What to run.

    Attributes: name: of `NAMES`; seconds: of the run; rate: packets a second; capture: what is played; model: a
    checkpoint, for the one that draws; behind_s: from when on growth is looked at, a third, 5 minutes at most, if None.
    """

    name: str
    seconds: float
    rate: float
    capture: str
    model: str | None = None
    behind_s: float | None = None


@dataclass(slots=True)
class Found:
    """What came of it."""

    name: str
    state: str = ""
    error: str | None = None
    exit_status: int | None = None
    seconds: float = 0.0
    packets: int = 0
    packets_per_s: float = 0.0
    processor_share: float = 0.0  # of one core, after the warm-up
    agreement: dict[str, tuple[int, int]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    tally: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)  # counters that did not add up, in any status
    statuses: int = 0
    statuses_skipped: int = 0  # of the published ones
    slowest_answer_ms: float = 0.0
    clients: dict[str, int] = field(default_factory=dict)
    polite_clients_unanswered: int = 0
    growth_mb_an_hour: float = 0.0
    growth_between: tuple[float, float] = (0.0, 0.0)  # with 95 %, see `soak_figures.Trend`
    risen_mb: float = 0.0
    mapped_risen_mb: float = 0.0  # of it, pages of programs and libraries
    resident_mb: tuple[float, float] = (0.0, 0.0)  # at the end of the warm-up, and of the run
    descriptors: tuple[int, int] = (0, 0)  # before the clients came, and after they had gone
    threads: tuple[int, int] = (0, 0)
    log_tail: str = ""
    samples: list[Sample] = field(default_factory=list)


def run(lane: Lane) -> Found:
    """Play into one sink for so long; raises NsstreamError where the tools are missing."""
    found = Found(lane.name)
    with tempfile.TemporaryDirectory(prefix="nsstream-soak-") as folder, veth_pair() as pair:
        directory, output = Path(folder), Path(folder, "output")
        output.mkdir()
        end = _other_end(lane.name, pair, output)
        endpoint = f"ipc://{directory}/control.sock"
        try:
            with (directory / "log").open("w+b") as log:
                with _server(pair, endpoint, log) as server:
                    _soak(lane, found, end, server, endpoint)
                    found.exit_status = server.wait(END_S)
                log.seek(0)
                found.log_tail = log.read().decode(errors="replace")[-2000:]
        finally:
            if isinstance(end, Collector):
                end.kill()
    return found


def _other_end(name: str, pair: VethPair, output: Path) -> OtherEnd:
    if name in ("fifo", "stdout"):
        return Pipe(name, output)
    if name in ("tcpreplay", "interface"):
        return Wire(name, pair)
    if name in VERSIONS:
        return Collector(VERSIONS[name], pair, output)
    return Subscribers() if name == "subscribers" else Files("pcap" if name == "model" else name, output)


@contextmanager
def _server(pair: VethPair, endpoint: str, log: Any) -> Iterator[subprocess.Popen[bytes]]:
    ready, told = os.pipe()
    options = ["--endpoint", endpoint, "--send-on", "tx", "--ready-fd", str(told)]
    command = ["ip", "netns", "exec", pair.sender, sys.executable, "-m", "nsstream.replay.server", *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, bufsize=0, pass_fds=[told])
    os.close(told)
    try:
        with os.fdopen(ready, "rb") as line:
            if b"ready" not in line.readline():
                raise ReplayError("the server is not ready")
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _soak(lane: Lane, found: Found, end: OtherEnd, server: subprocess.Popen[bytes], endpoint: str) -> None:
    stream: dict[str, object] = {"kind": "recorded", "path": lane.capture}
    scenario = None
    if lane.name == "model":
        stream, scenario = {"kind": "model", "model": lane.model}, {"candidates": "auto"}
    with ReplayClient(endpoint, READY_S) as client:
        follower = _Follower(endpoint, found)
        end.begin(server, endpoint)
        client.start(stream, end.sink, scenario=scenario, loop=None, rate=PacketRate(packets_per_s=lane.rate))
        # The first second's worth, so that what is compiled after an installation is compiled.
        first = _wait_for(client, lambda status: status.packets_written > lane.rate or status.state != "running")
        _note(first, found)
        if first.state != "running":
            found.state, found.error = first.state, first.error
            client.shutdown()
            return
        before = sample(server.pid, 0.0)
        chaos = Chaos(endpoint, lane.rate)
        chaos.begin()
        began_s = time.monotonic()
        while (elapsed_s := time.monotonic() - began_s) < lane.seconds:
            asked_s = time.monotonic()
            status = client.status()
            found.slowest_answer_ms = max(found.slowest_answer_ms, (time.monotonic() - asked_s) * 1e3)
            _note(status, found)
            if status.state != "running":
                break
            end.look(elapsed_s / lane.seconds)
            now = sample(server.pid, elapsed_s)
            least_mb = _least_until(began_s + len(found.samples) + 1, server.pid, now.resident_mb)
            found.samples.append(replace(now, resident_mb=least_mb))
        chaos.end()
        after = _settled(server.pid, before)
        status = client.status()
        found.seconds = time.monotonic() - began_s
        found.packets_per_s = (status.packets_written - first.packets_written) / found.seconds
        found.clients, found.polite_clients_unanswered = dict(chaos.came), chaos.unanswered
        found.descriptors = (before.descriptors, after.descriptors)
        found.threads = (before.threads, after.threads)
        if status.state == "running":
            # What was begun is played to its end, so that all of it can be counted; a model has none.
            client.stop() if lane.name == "model" else client.set_loop(1)
        status = _wait_for(client, lambda status: status.state in ("done", "failed", "stopped"))
        _note(status, found)
        found.state, found.error, found.packets = status.state, status.error, status.packets_written
        found.counters, found.tally = dict(status.counters), dict(status.tally)
        follower.end()
        if isinstance(end, Pipe):  # standard output is at its end when the server is
            client.shutdown()
        found.agreement = end.finish(status.counters, status.packets_written)
        found.agreement["frames"] = (status.packets_written, status.counters["frames"])
        if not isinstance(end, Pipe):
            client.shutdown()
    _grow(found, warm_up_s(lane.seconds) if lane.behind_s is None else lane.behind_s)


class _Follower:
    """Reads all status that is published."""

    def __init__(self, endpoint: str, found: Found) -> None:
        self._endpoint, self._found = endpoint, found
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        expected = None
        with suppress(ReplayError), ReplayClient(self._endpoint) as client:
            for status in client.statuses():
                self._found.statuses += 1
                _note(status, self._found)
                self._found.statuses_skipped += 0 if expected is None else status.sequence - expected
                expected = status.sequence + 1
                if self._ended.is_set():
                    return


def _note(status: Status, found: Found) -> None:
    try:
        check_counters(status.counters)
    except AssertionError as err:
        found.violations.append(str(err))


def _wait_for(client: ReplayClient, is_so: Any) -> Status:
    deadline_s = time.monotonic() + END_S
    while not is_so(status := client.status()):
        if time.monotonic() > deadline_s:
            raise ReplayError(f"the run is {status.state} for {END_S:g} s, at {status.packets_written} packets")
        time.sleep(0.05)
    return status


def _least_until(until_s: float, pid: int, least_mb: float) -> float:
    """The least memory that the process has until then, looked at some times."""
    while (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(left_s, LOOK_S))
        least_mb = min(least_mb, resident_mb(pid))
    return least_mb


def _settled(pid: int, before: Sample) -> Sample:
    """When the server has let go of all that its clients held; or what it has when it should have."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        now = sample(pid, 0.0)
        if (now.descriptors <= before.descriptors and now.threads <= before.threads) or time.monotonic() > deadline_s:
            return now
        time.sleep(0.2)


def _grow(found: Found, behind_s: float) -> None:
    warm = [one for one in found.samples if one.at_s >= behind_s]
    went = trend([one.at_s for one in warm], [one.resident_mb for one in warm])
    found.growth_mb_an_hour, found.growth_between, found.risen_mb = went.slope, (went.low, went.high), went.risen_mb
    found.mapped_risen_mb = trend([one.at_s for one in warm], [one.mapped_mb for one in warm]).risen_mb
    if len(warm) > 1:
        found.processor_share = (warm[-1].cpu_s - warm[0].cpu_s) / (warm[-1].at_s - warm[0].at_s)
        found.resident_mb = (warm[0].resident_mb, warm[-1].resident_mb)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lane = Lane(**json.loads(sys.argv[1]))
    try:
        found = run(lane)
    except Exception as err:  # the process's boundary: the others' figures are not to be lost with this one's
        found = Found(lane.name, state="broken", error=f"{type(err).__name__}: {err}")
    print(json.dumps(asdict(found)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
