"""CapturePart: what it says of itself while it runs, hangs, ends and fails; who feeds the watchdog."""

import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nsstream_daemon.capture_part import CapturePart

from nsstream.chunk import ChunkStore
from nsstream.chunk.retention import Retention
from nsstream.clock import Clock, SystemClock
from nsstream.counters import Tally
from nsstream.pipeline.ingest_loop import AnySource
from nsstream.pipeline.ingest_plan import IngestPlan
from nsstream.pipeline.service_config import ChunksSection, SourceSection
from nsstream.trace import FlowTable, PacketBatch

DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")


def write_pcap(path: Path, count: int) -> Path:
    records = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    for second in range(count):
        head = struct.pack("<IIII", 1_700_000_000 + second, 0, len(DATAGRAM), len(DATAGRAM))
        records.append(head + DATAGRAM)
    path.write_bytes(b"".join(records))
    return path


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Watched:
    """A part, and what it called."""

    def __init__(
        self,
        tmp_path: Path,
        source: SourceSection,
        on_chunk: Callable[[], None] | None = None,
        plan: type[IngestPlan] = IngestPlan,
    ) -> None:
        self.beats, self.chunks, self.deaths = 0, 0, list[str]()
        self._on_chunk = on_chunk or (lambda: None)
        self.part = CapturePart(
            plan(source, ChunksSection(length_s=10.0, lateness_s=0.0)),
            tmp_path / "s",
            SystemClock(),
            on_chunk=self._chunk,
            beat=self._beat,
            on_death=lambda name, err: self.deaths.append(name),
        )

    def _beat(self) -> None:
        self.beats += 1

    def _chunk(self) -> None:
        self.chunks += 1
        self._on_chunk()


def test_it_is_inert_until_it_is_started(tmp_path: Path):
    watched = Watched(tmp_path, SourceSection(input=str(write_pcap(tmp_path / "x.pcap", 3))))
    assert watched.part.status()["state"] == "starting"
    assert not (tmp_path / "s").exists()
    watched.part.stop()
    assert not (tmp_path / "s").exists()


def test_a_file_is_read_to_its_end_and_accounted_for(tmp_path: Path):
    watched = Watched(tmp_path, SourceSection(input=str(write_pcap(tmp_path / "x.pcap", 25))))
    watched.part.start()
    wait_until(lambda: watched.part.is_over)
    status = watched.part.status()
    assert (status["state"], status["chunks"], status["error"]) == ("ended", 3, None)
    assert status["tally"]["offered"] == status["tally"]["kept"] == 25
    assert watched.chunks == 3
    assert watched.part.silent_s == 0
    assert not watched.part.flush(0.1)
    watched.part.stop()
    assert watched.deaths == []


def test_a_loop_that_hangs_feeds_nobody(tmp_path: Path):
    gate = threading.Event()
    watched = Watched(
        tmp_path, SourceSection(input=str(write_pcap(tmp_path / "x.pcap", 25))), on_chunk=lambda: gate.wait(300) or None
    )
    watched.part.start()
    wait_until(lambda: watched.chunks == 1)
    before = watched.beats
    wait_until(lambda: watched.part.silent_s > 1.0)
    assert watched.beats == before
    gate.set()
    wait_until(lambda: watched.part.is_over)
    assert watched.beats > before
    watched.part.stop()


def test_a_live_source_that_hangs_feeds_nobody_either(tmp_path: Path):
    gate = threading.Event()

    class Hanging:
        """A file that stands for an interface whose driver does not come back."""

        def __init__(self, file: AnySource) -> None:
            self._file, self.open, self.close = file, file.open, file.close

        @property
        def tally(self) -> Tally:
            return self._file.tally

        def read_batch(self) -> PacketBatch | FlowTable | None:
            rows = self._file.read_batch()
            if rows is None:
                gate.wait(300)
            return rows

    class Plan(IngestPlan):
        def new_source(self, clock: Clock) -> AnySource:
            return Hanging(super().new_source(clock))

    watched = Watched(tmp_path, SourceSection(input=str(write_pcap(tmp_path / "x.pcap", 25)), live=True), plan=Plan)
    watched.part.start()
    wait_until(lambda: watched.part.status()["tally"]["offered"] == 25)
    assert watched.beats > 0
    wait_until(lambda: watched.part.silent_s > 1.0)
    before = watched.beats
    wait_until(lambda: watched.part.silent_s > 2.0)
    assert watched.beats == before
    gate.set()
    watched.part.stop()


def test_it_runs_once_its_source_is_open(tmp_path: Path):
    gate = threading.Event()

    class Plan(IngestPlan):
        def new_source(self, clock: Clock) -> AnySource:
            source = super().new_source(clock)
            opened = source.open
            source.open = lambda: gate.wait(300) and opened()  # type: ignore[method-assign]
            return source

    watched = Watched(tmp_path, SourceSection(input=str(write_pcap(tmp_path / "x.pcap", 3))), plan=Plan)
    watched.part.start()
    wait_until(lambda: watched.beats >= 3)
    assert watched.part.phase == "starting"
    gate.set()
    wait_until(lambda: watched.part.phase == "ended")
    assert watched.part.status()["tally"]["kept"] == 3
    watched.part.stop()


def test_a_pipe_that_nobody_writes_to_is_not_a_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    watched = Watched(tmp_path, SourceSection(input=str(tmp_path / "pipe")))
    watched.part.start()
    wait_until(lambda: watched.beats >= 3)
    assert watched.part.phase == "running"
    watched.part.stop()
    assert watched.part.phase == "stopped"


@pytest.mark.parametrize(("at_end", "phase"), [("stay", "failed"), ("restart", "waiting")])
def test_a_source_that_fails_is_tried_again_where_that_is_asked_for(tmp_path: Path, at_end: str, phase: str):
    (tmp_path / "x.pcap").write_bytes(b"no capture" * 10)
    watched = Watched(tmp_path, SourceSection(input=str(tmp_path / "x.pcap"), at_end=at_end))
    watched.part.start()
    wait_until(lambda: watched.part.phase == phase)
    assert "x.pcap" in watched.part.status()["error"]
    if at_end == "restart":
        write_pcap(tmp_path / "x.pcap", 5)
        wait_until(lambda: watched.part.status()["tally"]["kept"] == 5)
        assert watched.part.status()["restarts"] >= 1
    watched.part.stop()
    assert watched.deaths == []


def test_a_defect_is_told_and_not_survived(tmp_path: Path):
    def defect() -> None:
        raise ZeroDivisionError

    watched = Watched(tmp_path, SourceSection(input=str(write_pcap(tmp_path / "x.pcap", 25))), on_chunk=defect)
    watched.part.start()
    wait_until(lambda: watched.deaths == ["capture"])
    assert watched.part.status()["error"] == "ZeroDivisionError: "
    watched.part.stop()


def test_bounds_that_are_reloaded_hold_for_the_chunks_to_come(tmp_path: Path):
    watched = Watched(tmp_path, SourceSection(input=str(write_pcap(tmp_path / "x.pcap", 65))))
    watched.part.retain(Retention(max_octets=1))
    watched.part.start()
    wait_until(lambda: watched.part.is_over)
    assert watched.part.status()["expired"] >= 5
    assert len(ChunkStore(tmp_path / "s" / "chunks").list()) <= 1
    watched.part.stop()
