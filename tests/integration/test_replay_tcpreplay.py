"""The sink that tcpreplay sends for, with the real tcpreplay over real veth pairs: also one that is killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from namespaces import namespace

from nsstream.assemble.frames import Frames
from nsstream.errors import OutputError
from nsstream.replay.rate_cap import RateCap
from nsstream.replay.safety import SendingRules
from nsstream.replay.sink import SinkContext, check_counters
from nsstream.replay.tcpreplay_sink import TcpreplaySink, TcpreplaySinkSpec

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars.veth import VethPair, veth_pair

DEADLINE_S = 300.0
HEADER = bytes.fromhex("020000000002 020000000001 88b5")
RULES = SendingRules(frozenset({"tx"}))

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("tcpreplay") is None, reason="needs tcpreplay"),
]


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with veth_pair() as made:
        yield made


def frames_of(*sizes: int) -> Frames:
    octets = b"".join(HEADER + bytes(size - 14) for size in sizes)
    offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    times_ns = 1_700_000_000_000_000_000 + np.arange(len(sizes), dtype=np.int64) * 1000
    return Frames(times_ns, offset, np.frombuffer(octets, np.uint8))


def far_apart(frames: Frames) -> Frames:
    """The same frames with a quarter of an hour between two of them."""
    times_ns = frames.observation_time_ns[0] + np.arange(len(frames), dtype=np.int64) * 900 * 10**9
    return Frames(times_ns, frames.offset, frames.octets)


@contextmanager
def opened(
    pair: VethPair, rules: SendingRules = RULES, is_stopped: Callable[[], bool] = lambda: False, **spec: object
) -> Iterator[TcpreplaySink]:
    """The sink, in the sender's namespace, as are its children."""
    sink = TcpreplaySink(TcpreplaySinkSpec(**{"interface": "tx"} | spec), SinkContext(is_stopped, rules=rules))
    with namespace(pair.sender):
        sink.open()
        try:
            yield sink
        finally:
            sink.abort()
            check_counters(sink.counters)


def children() -> list[int]:
    """Our own tcpreplay processes."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in task.joinpath("children").read_text().split():
            with open(f"/proc/{pid}/comm") as name:  # noqa: PTH123
                if name.read().strip() == "tcpreplay":
                    found.append(int(pid))
    return found


@pytest.mark.parametrize("pacing", ["clock", "tcpreplay", "file"])
def test_all_frames_are_sent_and_counted_by_tcpreplay_s_summary(pair: VethPair, pacing: str) -> None:
    sizes = np.random.default_rng(3).integers(60, 1515, 5000).tolist()
    frames = frames_of(*sizes)
    before = pair.received()
    with opened(pair, pacing=pacing) as sink:
        for at in range(0, 5000, 700):
            sink.write(frames.slice(at, at + 700))
            check_counters(sink.counters)
        sink.close()
    assert not children()
    told = sink.counters
    assert told["frames"] == told["frames_written"] == 5000
    assert told["octets"] == sum(sizes)
    assert pair.wait_for(before[0] + 5000) == before[0] + 5000
    assert pair.received()[1] - before[1] == sum(sizes)


def test_a_run_without_frames_is_none_to_complain_about(pair: VethPair) -> None:
    for pacing in ("clock", "file"):
        with opened(pair, pacing=pacing) as sink:
            sink.close()
        assert sum(sink.counters.values()) == 0


def test_a_killed_tcpreplay_is_replaced_and_what_it_had_is_counted(pair: VethPair) -> None:
    frames = frames_of(*[100] * 1000)
    before = pair.received()[0]
    with opened(pair) as sink:
        for k in range(40):
            if k in (10, 11, 30):
                [pid] = children()
                os.kill(pid, signal.SIGKILL)
            sink.write(frames)
            check_counters(sink.counters)
        sink.close()
    told = sink.counters
    assert told["child_deaths"] == 3
    assert told["frames"] == 40_000
    assert told["frames_written"] + told["frames_lost_with_child"] == 40_000
    # Lost is what the pipe held, and a buffer: three times 64 KiB and a page, in records of 116 octets.
    assert told["frames_lost_with_child"] <= 3 * (65536 + 4096 + 116) // 116 + 3
    received = pair.wait_for(before + told["frames_written"]) - before
    assert told["frames_written"] <= received <= 40_000


def test_a_tcpreplay_that_dies_too_often_fails_the_run(pair: VethPair) -> None:
    frames = frames_of(*[100] * 1000)
    with opened(pair, restarts=1) as sink:
        for _ in range(2):
            [pid] = children()
            os.kill(pid, signal.SIGKILL)
            if not sink.counters["child_deaths"]:
                sink.write(frames)
        with pytest.raises(OutputError, match=r"tx: tcpreplay was ended by SIGKILL; it has died 2 times in this run"):
            sink.write(frames)
    told = sink.counters
    assert told["frames"] == 2000
    assert told["frames_written"] + told["frames_lost_with_child"] + told["frames_undone"] == 2000


def test_one_that_is_killed_at_the_very_end_is_counted(pair: VethPair) -> None:
    frames = frames_of(*[100] * 300)
    with opened(pair, pacing="tcpreplay") as sink:
        sink.write(far_apart(frames))
        killing = threading.Timer(0.5, lambda: [os.kill(pid, signal.SIGKILL) for pid in children()])
        killing.start()
        sink.close()
        killing.join()
    assert sink.counters["child_deaths"] == 1
    assert sink.counters["frames_written"] + sink.counters["frames_lost_with_child"] == 300


def test_frames_that_are_too_long_are_left_out(pair: VethPair) -> None:
    before = pair.received()[0]
    with opened(pair) as sink:
        sink.write(frames_of(1515, 60, 1514, 9000, 9000, 60, 2000))
        sink.close()
    assert sink.counters["frames_oversize"] == 4
    assert sink.counters["frames_written"] == 3
    assert pair.wait_for(before + 3) == before + 3


def test_an_interface_that_goes_down_is_an_error_if_nothing_left(pair: VethPair) -> None:
    with opened(pair) as sink:
        subprocess.run(["ip", "link", "set", "dev", "tx", "down"], check=True)
        sink.write(frames_of(*[60] * 50))
        with pytest.raises(OutputError, match="tx: tcpreplay could not send any of 50 frames"):
            sink.close()
    assert sink.counters["frames_failed"] == 50


def test_a_stop_ends_tcpreplay_at_once(pair: VethPair) -> None:
    stopped = threading.Event()
    frames = far_apart(frames_of(*[100] * 3000))
    with opened(pair, is_stopped=stopped.is_set, pacing="tcpreplay") as sink:
        threading.Timer(0.3, stopped.set).start()
        with pytest.raises(OutputError, match="stopped before all frames were sent"):
            sink.write(frames)  # the pipe is full, and tcpreplay waits
        sink.abort()
        assert not children()
    assert sink.counters["frames_undone"] > 0


def test_the_cap_holds_for_tcpreplay_too(pair: VethPair) -> None:
    per_s = 2000
    rules = SendingRules(frozenset({"tx"}), cap=RateCap(packets_per_s=per_s))
    with opened(pair, rules) as sink:
        began_s = time.monotonic()
        sink.write(frames_of(*[60] * 1000))
        assert time.monotonic() - began_s >= 1000 / per_s - 0.01
        sink.close()
    with pytest.raises(OutputError, match="this server has a cap"), opened(pair, rules, pacing="file"):
        pass


def test_rules_come_first(pair: VethPair) -> None:
    with pytest.raises(OutputError, match="tx: this server's configuration does not name it"):
        TcpreplaySink(TcpreplaySinkSpec(interface="tx"), SinkContext()).check()


def test_a_tcpreplay_that_may_not_send_says_why(
    pair: VethPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "tcpreplay"
    tool.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-all --inh-caps=-all {shutil.which("tcpreplay")} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    refused = pytest.raises(OutputError, match=r"tx: tcpreplay ended with status \d+: failed to open device tx: socket")
    with refused, opened(pair):
        pass


def test_a_file_of_bounded_size(pair: VethPair) -> None:
    with opened(pair, pacing="file", max_file_octets=1000) as sink:
        sink.write(frames_of(100))
        with pytest.raises(OutputError, match="the frames take more than max_file_octets, 1000"):
            sink.write(frames_of(*[100] * 10))
    assert sink.counters["frames_undone"] == 11
