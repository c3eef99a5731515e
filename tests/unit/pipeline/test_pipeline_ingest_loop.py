"""A source into chunks: the account over the whole path, a clean stop, going on, a slow or full disk."""

import json
import logging
import os
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsstream.capture import MeteredSource, PcapFileSource
from nsstream.chunk import ChunkLimits, ChunkStore
from nsstream.chunk.retention import Retention
from nsstream.clock import ManualClock
from nsstream.counters import Tally
from nsstream.errors import InputError, StateError
from nsstream.pipeline.channel import WhenFull
from nsstream.pipeline.ingest_loop import IngestLoop, IngestStatus, difference
from nsstream.pipeline.intake import Intake, IntakeConfig
from nsstream.trace import PacketBatch
from nsstream.trace.metering import FlowMeter

S = 1_000_000_000
START_S = 1_700_000_040  # a whole minute
DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")
CONFIG = IntakeConfig(length_s=60, allowed_lateness_s=5, allowed_future_s=None)


class MadeSource:
    """Batches made beforehand, with drops of its own; waits where it is told to. What it is given it hands over."""

    def __init__(self, batches: list[PacketBatch], *, before_each: Callable[[int], None] = lambda at: None) -> None:
        self.tally = Tally()
        self._batches = batches
        self._before_each = before_each
        self._at = 0

    def open(self) -> None:
        self._at = 0

    def read_batch(self) -> PacketBatch | None:
        if self._at == len(self._batches):
            return None
        self._before_each(self._at)
        batch = self._batches[self._at]
        self._at += 1
        self.tally.offered += len(batch)
        self.tally.kept += len(batch)
        self.tally.drop("ring", 2)
        self.tally.offered += 1
        self.tally.unsupported["arp"] += 1
        return batch

    def close(self) -> None:
        pass


class KnowingSource(MadeSource):
    """Hands over how many batches it has given, predecessors included, and drops something as it is closed."""

    def __init__(self, batches: list[PacketBatch], *, believes: bool = True) -> None:
        super().__init__(batches)
        self.known = 0
        self._believes = believes
        self._handover: dict[str, Any] | None = None

    def read_batch(self) -> PacketBatch | None:
        batch = super().read_batch()
        self._handover = {"given": self.known + self._at} if batch is not None else self._handover
        return batch

    def close(self) -> None:
        if self._handover is not None and "is_final" not in self._handover:
            self._handover = {**self._handover, "is_final": True}
            self.tally.drop("socket", 7)

    def handover(self) -> dict[str, Any] | None:
        return self._handover

    def take_over(self, handover: object) -> None:
        if not self._believes:
            raise InputError("it is not to be believed")
        assert isinstance(handover, dict)
        self.known = handover["given"]


def packets_at(*times_s: float) -> PacketBatch:
    columns = dict(PacketBatch.empty(len(times_s)).columns())
    columns["observation_time_ns"] = np.array([round((START_S + t) * S) for t in times_s], np.int64)
    return PacketBatch.from_columns(columns)


def write_pcap(path: Path, times_s: list[float]) -> Path:
    records = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    for time_s in times_s:
        header = struct.pack("<IIII", START_S + int(time_s), int(time_s % 1 * 1e6), len(DATAGRAM), len(DATAGRAM))
        records.append(header + DATAGRAM)
    path.write_bytes(b"".join(records))
    return path


@contextmanager
def intake_in(
    state: Path, config: IntakeConfig = CONFIG, *, source_id: str = "made", clock: ManualClock | None = None
) -> Iterator[Intake]:
    intake = Intake(state, source_id, config, clock=clock or ManualClock())
    try:
        yield intake
    finally:
        intake.close()


def ingest(state: Path, source: object, config: IntakeConfig = CONFIG, source_id: str = "made") -> Tally:
    with intake_in(state, config, source_id=source_id) as intake:
        loop = IngestLoop(
            source,  # type: ignore[arg-type]
            intake,
            when_full=WhenFull.BLOCK,
            capacity_rows=1000,
            clock=ManualClock(),
            skips_known=source_id == "x",
        )
        return loop.run()


def sum_of_chunks(state: Path) -> Tally:
    total = Tally()
    for info in ChunkStore(state / "chunks").list():
        info.tally.check()
        assert info.tally.kept == info.row_count
        total.add(info.tally)
    return total


def test_the_account_of_all_chunks_is_the_account_of_source_and_chunker(tmp_path: Path):
    batches = [packets_at(1, 2, 70), packets_at(3), packets_at(71, 72), packets_at(140)]
    tally = ingest(tmp_path, MadeSource(batches))
    tally.check()
    assert (tally.offered, tally.kept, tally.late) == (7 + 4 * 3, 6, 1)
    assert (tally.dropped, tally.unsupported) == ({"ring": 8}, {"arp": 4})
    assert sum_of_chunks(tmp_path) == tally
    infos = ChunkStore(tmp_path / "chunks").list()
    assert [(info.row_count, info.is_partial) for info in infos] == [(2, False), (3, False), (1, True)]


def test_a_file_becomes_chunks_and_a_second_run_adds_nothing(tmp_path: Path):
    trace = write_pcap(tmp_path / "x.pcap", [0, 1, 59, 61, 62, 130])
    assert ingest(tmp_path / "state", PcapFileSource(trace), source_id="x").kept == 6
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "state" / "chunks").iterdir()}
    assert ingest(tmp_path / "state", PcapFileSource(trace), source_id="x").offered == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "state" / "chunks").iterdir()} == before


def test_a_file_that_has_grown_goes_on_where_it_was_left(tmp_path: Path):
    trace = write_pcap(tmp_path / "x.pcap", [0, 1, 59, 61, 62])
    ingest(tmp_path / "state", PcapFileSource(trace), source_id="x")
    write_pcap(trace, [0, 1, 59, 61, 62, 63, 64, 130])
    tally = ingest(tmp_path / "state", PcapFileSource(trace), source_id="x")
    assert (tally.offered, tally.kept) == (3, 3)
    infos = ChunkStore(tmp_path / "state" / "chunks").list()
    assert [(info.id[16:], info.row_count) for info in infos] == [("-60s", 3), ("-60s", 2), ("-60s-p1", 2), ("-60s", 1)]
    assert infos[2].is_partial


def test_a_metered_file_that_has_grown_goes_on_with_new_records_of_its_flows(tmp_path: Path):
    trace, state = tmp_path / "x.pcap", tmp_path / "state"

    def metered_file() -> MeteredSource:
        return MeteredSource(PcapFileSource(trace), FlowMeter(idle_timeout_s=15), clock=ManualClock())

    write_pcap(trace, [0, 1, 40, 41])
    assert ingest(state, metered_file(), source_id="x").kept == 2
    assert ingest(state, metered_file(), source_id="x").offered == 0
    write_pcap(trace, [0, 1, 40, 41, 42, 43, 100])
    tally = ingest(state, metered_file(), source_id="x")
    assert (tally.kept, tally.behind) == (2, Tally(offered=3, kept=3))
    store = ChunkStore(state / "chunks")
    counts = [store.read(info.id).flows.packet_delta_count.tolist() for info in store.list()]
    assert counts == [[2, 2], [2], [1]]
    assert sum_of_chunks(state).behind == Tally(offered=7, kept=7)


def test_a_stop_is_clean_and_the_chunk_partial(tmp_path: Path):
    read = threading.Event()

    def before_each(at: int) -> None:
        if at == 2:
            read.set()

    source = MadeSource([packets_at(at * 0.01) for at in range(1000)], before_each=before_each)
    with intake_in(tmp_path) as intake:
        loop = IngestLoop(source, intake, when_full=WhenFull.BLOCK, capacity_rows=1, clock=ManualClock())
        runner = threading.Thread(target=loop.run)
        runner.start()
        assert read.wait(30)
        loop.stop()
        runner.join(30)
        assert not runner.is_alive()
    (info,) = ChunkStore(tmp_path / "chunks").list()
    assert info.is_partial
    assert 2 <= info.row_count <= 1000
    assert info.tally.kept == source.tally.kept


def test_a_source_that_fails_is_told_once_what_it_gave_is_stored(tmp_path: Path):
    def before_each(at: int) -> None:
        if at == 2:
            raise InputError("the cable is cut")

    with pytest.raises(InputError, match="the cable is cut"):
        ingest(tmp_path, MadeSource([packets_at(1), packets_at(2), packets_at(3)], before_each=before_each))
    assert sum_of_chunks(tmp_path).kept == 2


def test_a_cut_capture_is_counted_and_told(tmp_path: Path):
    trace = write_pcap(tmp_path / "x.pcap", [0, 1, 2])
    trace.write_bytes(trace.read_bytes()[:-5])
    with pytest.raises(InputError, match="ends in the middle of a record"):
        ingest(tmp_path / "state", PcapFileSource(trace))
    total = sum_of_chunks(tmp_path / "state")
    assert (total.kept, total.malformed) == (2, {"cut_record": 1})


def test_a_slow_disk_drops_the_newest_rows_and_counts_them(tmp_path: Path):
    """The taker stands still (in `listen`) until the source is through: then the channel has been full for long."""
    through = threading.Event()

    def before_each(at: int) -> None:
        if at == 299:
            through.set()

    def listen(status: IngestStatus) -> None:
        if not status.is_done:
            assert through.wait(30)

    source = MadeSource([packets_at(at * 0.1) for at in range(300)], before_each=before_each)
    clock = ManualClock()
    with intake_in(tmp_path, clock=clock) as intake:
        loop = IngestLoop(source, intake, when_full=WhenFull.DROP_NEWEST, capacity_rows=20, clock=clock, listen=listen)
        clock.advance(S)  # so that the first report is due at once
        tally = loop.run()
    tally.check()
    assert tally.kept + tally.dropped["channel"] == 300
    assert 270 <= tally.dropped["channel"] < 300
    assert tally.dropped["ring"] == 600
    assert sum_of_chunks(tmp_path) == tally


def test_an_idle_live_source_closes_its_chunk_on_the_clock(tmp_path: Path):
    clock = ManualClock((START_S + 10) * S)
    config = IntakeConfig(length_s=60, allowed_lateness_s=5, is_live=True)
    with intake_in(tmp_path, config, clock=clock) as intake:
        intake.take(packets_at(10), Tally(offered=1, kept=1))
        clock.advance(54 * S)
        intake.tick()
        assert intake.chunk_count == 0
        clock.advance(1 * S)
        intake.tick()
        assert intake.chunk_count == 1
        intake.take(packets_at(70_000), Tally(offered=1, kept=1))  # beyond the hour that is allowed
        assert (intake.tally.future, intake.tally.kept) == (1, 1)
    assert [info.is_partial for info in ChunkStore(tmp_path / "chunks").list()] == [False]


def test_the_journal_is_committed_each_second_and_recovered_by_the_next_process(tmp_path: Path):
    clock = ManualClock()
    intake = Intake(tmp_path, "made", CONFIG, clock=clock)
    intake.take(packets_at(1, 2), Tally(offered=2, kept=2))
    clock.advance(S)
    intake.tick()
    intake.take(packets_at(3), Tally(offered=1, kept=1))
    intake.close()  # as a killed process leaves it
    with intake_in(tmp_path) as again:
        assert again.recovered.row_count == 2
        assert again.tally.kept == 2
        again.take(packets_at(4), Tally(offered=1, kept=1))
        again.flush()
    (info,) = ChunkStore(tmp_path / "chunks").list()
    assert (info.row_count, info.recovered) == (3, 2)


def test_another_source_closes_what_a_killed_one_left_and_begins_anew(tmp_path: Path):
    intake = Intake(tmp_path, "one", CONFIG, clock=ManualClock())
    intake.take(packets_at(1000, 1001), Tally(offered=2, kept=2))
    intake.sync()
    intake.close()
    with intake_in(tmp_path, IntakeConfig(length_s=30), source_id="other") as other:
        assert (other.chunk_count, other.tally.offered) == (1, 0)
        other.take(packets_at(5), Tally(offered=1, kept=1))
        other.flush()
        assert other.tally.late == 0
    assert [info.row_count for info in ChunkStore(tmp_path / "chunks").list()] == [1, 2]


def test_a_state_is_used_by_one_at_a_time(tmp_path: Path):
    with intake_in(tmp_path), pytest.raises(StateError, match="in use by another ingest"):
        Intake(tmp_path, "other", CONFIG, clock=ManualClock())
    with intake_in(tmp_path):
        assert oct(tmp_path.joinpath("sampling.key").stat().st_mode & 0o777) == "0o600"


def test_rows_and_what_is_told_of_them_must_agree(tmp_path: Path):
    with intake_in(tmp_path) as intake, pytest.raises(ValueError, match="were told of"):
        intake.take(packets_at(1), Tally(offered=2, kept=2))


def test_stored_chunks_expire_as_new_ones_come(tmp_path: Path):
    config = IntakeConfig(length_s=60, retention=Retention(max_octets=1))
    with intake_in(tmp_path, config) as intake:
        for minute in range(4):
            intake.take(packets_at(60 * minute), Tally(offered=1, kept=1))
        intake.flush()
        assert (intake.chunk_count, intake.expired_count) == (4, 4)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_full_disk_is_a_counted_drop_and_the_capture_goes_on(tmp_path: Path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", tmp_path], check=True)
    try:
        with intake_in(tmp_path / "state") as intake:
            ballast = tmp_path / "ballast"
            with pytest.raises(OSError, match="No space left"):
                ballast.write_bytes(bytes(500_000))
            times = np.linspace(0, 59, 3000).tolist()
            intake.take(packets_at(*times), Tally(offered=3000, kept=3000))
            assert not intake.sync()
            assert intake.unprotected_rows == 3000
            intake.take(packets_at(100), Tally(offered=1, kept=1))
            intake.tally.check()
            assert (intake.tally.dropped, intake.tally.kept) == (Counter(disk=3000), 1)
            ballast.unlink()
            intake.flush()
        assert sum_of_chunks(tmp_path / "state") == intake.tally
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_chunk_out_of_room_is_sampled_over_the_whole_path(tmp_path: Path):
    config = IntakeConfig(limits=ChunkLimits(chunk_rows=50, open_rows=50))
    columns = dict(packets_at(*[1.0] * 400).columns())
    columns["source_transport_port"] = np.repeat(np.arange(100), 4).astype(np.uint16)
    tally = ingest(tmp_path, MadeSource([PacketBatch.from_columns(columns)]), config)
    (info,) = ChunkStore(tmp_path / "chunks").list()
    assert info.sampling_interval > 1
    assert tally.sampled_out == 400 - info.row_count
    ports = ChunkStore(tmp_path / "chunks").read(info.id).packets.source_transport_port
    assert set(Counter(ports.tolist()).values()) <= {4}


def test_what_a_source_hands_over_reaches_the_next_of_the_same_name_only(tmp_path: Path):
    for run, (name, known) in enumerate([("a", 0), ("a", 2), ("a", 4), ("b", 0), ("b", 2), ("a", 0)]):
        source = KnowingSource([packets_at(run), packets_at(run + 0.5)])
        tally = ingest(tmp_path, source, source_id=name)
        assert source.known == known
        assert (tally.kept, tally.dropped["socket"]) == (2, 7), "what is dropped by `close` is in the account"
        (saved,) = (tmp_path / "handover").iterdir()
        assert json.loads(saved.read_bytes()) == {"given": known + 2, "is_final": True}


def test_what_a_source_does_not_believe_is_logged_and_it_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    ingest(tmp_path, KnowingSource([packets_at(1)]))
    with caplog.at_level(logging.WARNING):
        tally = ingest(tmp_path, KnowingSource([packets_at(2)], believes=False))
    assert "handover_ignored source=KnowingSource error=it is not to be believed" in caplog.text
    assert tally.kept == 1
    saved = tmp_path / "handover" / os.listdir(tmp_path / "handover")[0]  # noqa: PTH208
    saved.write_bytes(b"{")
    source = KnowingSource([packets_at(3)])
    assert ingest(tmp_path, source).kept == 1
    assert source.known == 0
    assert "handover_unread" in caplog.text


def test_a_handover_is_of_the_same_commit_as_the_rows_and_counts(tmp_path: Path):
    told = Tally(offered=3, kept=1, dropped=Counter(socket=2))
    with intake_in(tmp_path) as intake:
        intake.take(packets_at(1), told, total=told, handover={"mark": 2})
        intake.sync()
        intake.take(packets_at(2), told, total=told, handover={"mark": 4})  # and then it is killed
    with intake_in(tmp_path) as intake:
        assert intake.handover == {"mark": 2}
        assert (intake.recovered.row_count, intake.recovered.loose.dropped) == (1, {"socket": 2})
        intake.sync()
        assert intake.handover == {"mark": 2}
    assert len(list((tmp_path / "handover").iterdir())) == 1


def test_parked_records_are_told_beside_and_counted_once_they_are_decided():
    before = Tally(offered=10, kept=4, parked=6)
    now = Tally(offered=12, kept=9, parked=1, malformed=Counter(no_template=2))
    told = difference(now, before)
    told.check()
    assert (told.offered, told.kept, told.malformed) == (7, 5, {"no_template": 2})


def test_limits_and_times_that_make_no_sense_are_refused():
    for options in ({"sync_s": 0}, {"allowed_lateness_s": -1}, {"length_s": 0}):
        with pytest.raises(ValueError, match="must be"):
            IntakeConfig(**options)  # type: ignore[arg-type]


def test_what_a_source_counts_as_it_is_closed_is_in_the_account(tmp_path: Path):
    class LosingSource(MadeSource):
        def close(self) -> None:
            self.tally.drop("channel", 5 - self.tally.dropped["channel"])

    tally = ingest(tmp_path, LosingSource([packets_at(1)]))
    assert (tally.kept, tally.dropped) == (1, {"ring": 2, "channel": 5})
    assert sum_of_chunks(tmp_path) == tally


def test_a_stop_before_the_known_rows_are_passed_forgets_none_of_them(tmp_path: Path):
    trace = write_pcap(tmp_path / "x.pcap", [0, 1, 59, 61, 62])
    ingest(tmp_path / "state", PcapFileSource(trace), source_id="x")
    with intake_in(tmp_path / "state", source_id="x") as intake:
        stopped = IngestLoop(
            PcapFileSource(trace), intake, when_full=WhenFull.BLOCK, capacity_rows=9, clock=ManualClock(),
            skips_known=True,
        )  # fmt: skip
        stopped.stop()
        stopped.run()
    assert ingest(tmp_path / "state", PcapFileSource(trace), source_id="x").offered == 0


def metered_source(*batches: PacketBatch, **before: Callable[[int], None]) -> MeteredSource:
    return MeteredSource(MadeSource(list(batches), **before), FlowMeter(idle_timeout_s=15), clock=ManualClock())  # type: ignore[arg-type]


def test_the_account_of_the_packets_behind_flows_is_stored_with_the_chunks(tmp_path: Path):
    """A chunk tells of all that was counted since the one before, as of its other losses."""
    tally = ingest(tmp_path, metered_source(packets_at(1, 2), packets_at(70), packets_at(140)))
    assert tally.behind == Tally(offered=4 + 3 * 3, kept=4, dropped=Counter(ring=6), unsupported=Counter(arp=3))
    assert sum_of_chunks(tmp_path) == tally
    tellings = [info.tally.behind for info in ChunkStore(tmp_path / "chunks").list()]
    assert [told and (told.kept, told.dropped["ring"]) for told in tellings] == [(3, 6), (1, 0), None]


def test_a_stop_gives_the_flows_that_are_open_of_a_source_that_gives_nothing_again(tmp_path: Path):
    read, go_on = threading.Event(), threading.Event()

    def before_each(at: int) -> None:
        if at == 1:
            read.set()
            assert go_on.wait(30)

    with intake_in(tmp_path) as intake:
        source = metered_source(packets_at(1, 2), packets_at(3), packets_at(4), before_each=before_each)
        loop = IngestLoop(source, intake, when_full=WhenFull.BLOCK, capacity_rows=9, clock=ManualClock())
        runner = threading.Thread(target=loop.run)
        runner.start()
        assert read.wait(30)
        loop.stop()
        go_on.set()
        runner.join(30)
        assert not runner.is_alive()
    (info,) = ChunkStore(tmp_path / "chunks").list()
    flows = ChunkStore(tmp_path / "chunks").read(info.id).flows
    assert info.tally.behind is not None
    assert info.tally.behind.kept == flows.packet_delta_count.sum() == source.packet_tally.kept >= 3


def test_packets_of_flows_that_a_killed_process_had_open_are_a_named_drop_of_the_next(tmp_path: Path):
    source = metered_source(packets_at(1, 2), packets_at(30, 31, 32))
    source.open()
    with intake_in(tmp_path) as intake:
        rows = source.read_batch()
        intake.take(rows, difference(source.tally, Tally()), total=source.tally)
        assert intake.tally.behind == Tally(
            offered=11, kept=2, parked=3, dropped=Counter(ring=4), unsupported=Counter(arp=2)
        )
        intake.sync()  # and then it is killed
    tally = ingest(tmp_path, metered_source(packets_at(50)))
    assert tally.behind == Tally(
        offered=11 + 4, kept=2 + 1, dropped=Counter(ring=4 + 2, restart=3), unsupported=Counter(arp=2 + 1)
    )
    assert sum_of_chunks(tmp_path) == tally
    assert ingest(tmp_path, metered_source()).behind == Tally()  # told once
