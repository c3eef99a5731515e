"""SpoolSource: every packet of every file once, whatever happens to the files; restarts; files that are no captures."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zstandard

from nsstream.capture.spool import SpoolSource
from nsstream.clock import ManualClock
from nsstream.errors import InputError
from nsstream.trace import PacketBatch
from nsstream.wire import pcap_header, write_records

FRAME = bytes.fromhex(
    "020000000002 020000000001 0800 4500 001c 0001 0000 4011 0000 c0000201 c6336407 d431 0035 0008 0000"
)
START_NS = 1_700_000_000_000_000_000
PACKETS_A_FILE = 10


def capture_of(number: int, count: int = PACKETS_A_FILE) -> bytes:
    """Packets whose times are ``10 * number`` and on, so that each is told from every other."""
    offset = np.arange(count + 1, dtype=np.int64) * len(FRAME)
    times_ns = START_NS + PACKETS_A_FILE * number + np.arange(count, dtype=np.int64)
    return pcap_header() + write_records(times_ns, offset, np.frombuffer(FRAME * count, np.uint8))


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir()
    return path


Make = Callable[..., SpoolSource]


@pytest.fixture(params=[False, True], ids=["inotify", "polled"])
def make(request: pytest.FixtureRequest, spool: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes and opens sources over the spool and one ledger; closes them."""
    made: list[SpoolSource] = []

    def make_one(**options: object) -> SpoolSource:
        arguments: dict[str, object] = {"is_polled": request.param} | options
        source = SpoolSource(spool, tmp_path / "ledger.sqlite", **arguments)  # type: ignore[arg-type]
        made.append(source)
        source.open()
        return source

    yield make_one
    for source in made:
        source.close()


def numbers(batches: list[PacketBatch]) -> list[int]:
    return (PacketBatch.concatenate(batches).observation_time_ns - START_NS).tolist()


def read_until(source: SpoolSource, is_enough: Callable[[list[PacketBatch]], bool]) -> list[int]:
    batches: list[PacketBatch] = []
    kept_before = source.tally.kept
    until_s = time.monotonic() + 20
    while not is_enough(batches):
        assert time.monotonic() < until_s, f"not enough within 20 s: {numbers(batches)} {source.complaints}"
        batch = source.read_batch()
        assert batch is not None
        source.tally.check()
        batches.append(batch)
        assert source.tally.kept - kept_before == sum(map(len, batches))
    return numbers(batches)


def read(source: SpoolSource, count: int) -> list[int]:
    return read_until(source, lambda batches: sum(map(len, batches)) >= count)


def read_idle(source: SpoolSource, batches: int = 3) -> list[int]:
    """What comes until nothing did for so many batches."""
    return read_until(source, lambda got: len(got) >= batches and not any(map(len, got[-batches:])))


def rest(source: SpoolSource) -> list[int]:
    batches = []
    while (batch := source.read_batch()) is not None:
        batches.append(batch)
        source.tally.check()
    return numbers(batches)


def of(*files: int) -> list[int]:
    return [PACKETS_A_FILE * file + i for file in files for i in range(PACKETS_A_FILE)]


def put(path: Path, octets: bytes, mtime_s: float | None = None) -> None:
    path.write_bytes(octets)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))


def test_files_from_before_are_read_first_by_time_then_by_number(spool: Path, make: Make) -> None:
    put(spool / "a9.pcap", capture_of(2), 1000)
    put(spool / "a10.pcap", capture_of(3), 1000)
    put(spool / "z.pcap", capture_of(1), 999)
    source = make()
    put(spool / "0.pcap", capture_of(4))
    assert read(source, 40) == of(1, 2, 3, 4)


def test_the_last_file_is_read_though_nothing_follows(spool: Path, make: Make) -> None:
    source = make()
    assert read_idle(source) == []
    put(spool / "one.pcap", capture_of(1))
    assert read(source, 10) == of(1)
    assert read_idle(source) == []


def test_file_is_not_read_before_its_writer_closes_it(spool: Path, make: Make) -> None:
    with (spool / "growing.pcap").open("wb", buffering=0) as before:
        before.write(capture_of(1, 3))
        source = make()
        assert read_idle(source) == []
        with (spool / "later.pcap").open("wb", buffering=0) as after:
            after.write(capture_of(2, 4))
            assert read_idle(source) == []
            before.write(capture_of(1)[-7 * (16 + len(FRAME)) :])
            before.close()
            assert read(source, 10) == of(1)
            after.write(capture_of(2)[-6 * (16 + len(FRAME)) :])
    assert read(source, 10) == of(2)
    assert source.tally.offered == 20


def test_renaming_into_place_is_as_closing(spool: Path, tmp_path: Path, make: Make) -> None:
    source = make()
    put(tmp_path / "elsewhere", capture_of(1))
    (tmp_path / "elsewhere").rename(spool / "one.pcap")
    put(spool / ".two.part", capture_of(2))
    (spool / ".two.part").rename(spool / "two.pcap")
    put(spool / "three.tmp", capture_of(3))
    (spool / "three.tmp").rename(spool / "three.pcap")
    assert sorted(read(source, 30)) == of(1, 2, 3)
    assert read_idle(source) == []
    assert source.tally.offered == 30


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, zstandard.compress])
def test_compressed_files_are_read(compress: Callable[[bytes], bytes], spool: Path, make: Make) -> None:
    source = make()
    put(spool / "one.pcap.z", compress(capture_of(1)))
    assert read(source, 10) == of(1)


def test_file_that_is_compressed_after_it_was_read_is_not_read_again(spool: Path, make: Make) -> None:
    source = make()
    put(spool / "one.pcap", capture_of(1))
    assert read(source, 10) == of(1)
    put(spool / "one.pcap.gz", gzip.compress(capture_of(1)))
    shutil.copystat(spool / "one.pcap", spool / "one.pcap.gz")
    (spool / "one.pcap").unlink()
    put(spool / "two.pcap.gz", gzip.compress(capture_of(2)))
    assert read(source, 10) == of(2)
    assert read_idle(source) == []


def test_compressed_file_stays_read_when_the_inode_of_the_plain_one_is_used_again(spool: Path, make: Make) -> None:
    source = make()
    for number in range(5):  # the file system gives each file the inode of the one before
        put(spool / f"{number}.pcap", capture_of(number))
        assert read(source, 10) == of(number)
        put(spool / f"{number}.pcap.gz", gzip.compress(capture_of(number)))
        shutil.copystat(spool / f"{number}.pcap", spool / f"{number}.pcap.gz")
        (spool / f"{number}.pcap").unlink()
        assert read_idle(source, 1) == []
    source.close()
    assert rest(make(follow=False)) == []


def test_restart_reads_nothing_twice_and_nothing_is_left_out(spool: Path, make: Make) -> None:
    put(spool / "one.pcap", capture_of(1), 1000)
    first = make()
    assert read_idle(first) == of(1)
    first.close()
    put(spool / "two.pcap", capture_of(2), 1001)
    second = make()
    assert read_idle(second) == of(2)
    assert second.tally.offered == 10
    second.close()
    assert rest(make(follow=False)) == []


def test_restart_in_the_middle_of_a_file_goes_on_there(spool: Path, make: Make) -> None:
    count = 5000
    put(spool / "large.pcap", capture_of(0, count), 1000)
    got: list[int] = []
    offered = 0
    for _ in range(50):
        source = make(buffer_bytes=4096, follow=False)
        for _ in range(3):
            batch = source.read_batch()
            if batch is None:
                break
            got += numbers([batch])
        source.close()
        source.tally.check()
        offered += source.tally.offered
        if batch is None:
            break
    assert got == list(range(count))
    assert offered == count


def test_restart_after_a_crash_repeats_no_file_that_was_finished_and_leaves_out_nothing(
    spool: Path, make: Make
) -> None:
    put(spool / "a.pcap", capture_of(0, 1000), 1000)
    put(spool / "b.pcap", capture_of(100, 1000), 1001)
    first = make(buffer_bytes=4096)
    got = read(first, 1200)  # into the second file, and then no close
    rest_of_it = rest(make(follow=False))
    assert len(got) < 2000
    assert sorted({*got, *rest_of_it}) == list(range(2000))
    assert min(rest_of_it) == 1000  # at most what was read within a second of the crash comes again


def test_progress_is_written_each_second(spool: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsstream.capture.spool._PROGRESS_S", 0.0)
    put(spool / "a.pcap", capture_of(0, 2000), 1000)
    first = make(buffer_bytes=4096)
    batches = [first.read_batch() or PacketBatch.empty() for _ in range(5)]
    assert 0 < sum(map(len, batches)) < 2000
    # A crash: what the last call gave was not asked beyond, so it may not have been taken.
    assert numbers(batches[:-1]) + rest(make(follow=False)) == list(range(2000))


def test_restart_after_compression_in_the_middle_of_a_file_goes_on_there(spool: Path, make: Make) -> None:
    put(spool / "large.pcap", capture_of(0, 5000), 1000)
    first = make(buffer_bytes=4096)
    got = read(first, 100)
    first.close()
    put(spool / "large.pcap.xz", lzma.compress((spool / "large.pcap").read_bytes()), 1000)
    (spool / "large.pcap").unlink()
    assert got + rest(make(follow=False)) == list(range(5000))


def test_file_that_grew_after_it_was_read_gives_what_is_new(spool: Path, make: Make) -> None:
    source = make()
    put(spool / "one.pcap", capture_of(0, 7)[:-5])
    assert read(source, 6) == list(range(6))
    read_idle(source)
    with (spool / "one.pcap").open("r+b") as file:
        file.write(capture_of(0, 10))
    assert read(source, 4) == [6, 7, 8, 9]
    assert source.tally.malformed["cut_record"] == 1


def test_name_and_inode_that_are_used_again_are_another_file(spool: Path, make: Make) -> None:
    source = make()
    for number in range(4):
        with (spool / "ring0.pcap").open("wb") as file:  # the same inode, cut to nothing, the same size again
            file.write(capture_of(number))
        assert read(source, 10) == of(number)


def test_files_that_are_no_captures_are_counted_and_named(spool: Path, make: Make) -> None:
    put(spool / "a.txt", b"some text", 1000)
    put(spool / "b.pcap", capture_of(1) + b"\xff" * 40, 1001)
    put(spool / "c.pcap", pcap_header(105), 1002)
    put(spool / "d.pcap", capture_of(2)[:-1], 1003)
    put(spool / "e.pcap", b"", 1004)
    (spool / "sub").mkdir()
    put(spool / ".hidden", capture_of(9), 1005)
    put(spool / "f.pcap", capture_of(3), 1006)
    source = make()
    assert read_idle(source) == of(1) + of(2)[:-1] + of(3)
    assert dict(source.tally.malformed) == {"refused_file": 3, "cut_record": 1}
    assert source.tally.offered == 29 + 4
    assert [Path(text.partition(": ")[0]).name for text in source.complaints] == ["a.txt", "b.pcap", "c.pcap"]
    source.close()
    again = make()
    assert read_idle(again) == []
    assert again.tally.offered == 0
    assert len(list(spool.iterdir())) == 8


def test_file_that_is_deleted_unread_is_counted(spool: Path, make: Make) -> None:
    put(spool / "a.pcap", capture_of(1), 1000)
    put(spool / "b.pcap", capture_of(2), 1001)
    source = make()
    (spool / "a.pcap").unlink()
    assert read_idle(source) == of(2)
    assert dict(source.tally.dropped) == {"disk": 1}
    assert "a.pcap: deleted or moved away before it was read" in source.complaints[-1]


def test_another_thread_may_read(spool: Path, make: Make) -> None:
    put(spool / "a.pcap", capture_of(1))
    source = make(follow=False)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(rest, source).result() == of(1)


def test_file_that_cannot_be_read_does_not_hide_another_in_its_inode(
    spool: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make()
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> str:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        patch.setattr("nsstream.capture.spool.head_of", refuse)
        put(spool / "a.pcap", capture_of(1))
        assert read_until(source, lambda _: bool(source.complaints)) == []
        assert "Permission denied" in source.complaints[-1]
    (spool / "a.pcap").write_bytes(capture_of(2))  # the same inode and size, another time
    assert read(source, 10) == of(2)


def test_pattern_selects_files(spool: Path, make: Make) -> None:
    put(spool / "a.pcap", capture_of(1))
    put(spool / "a.log", b"text")
    source = make(pattern="*.pcap", follow=False)
    assert rest(source) == of(1)
    assert source.tally.offered == 10


def test_ledger_inside_the_spool_is_not_read(spool: Path) -> None:
    put(spool / "a.pcap", capture_of(1))
    source = SpoolSource(spool, spool / "ledger.sqlite", follow=False)
    source.open()
    assert rest(source) == of(1)
    source.close()
    assert source.tally.offered == 10


def test_directory_that_goes_away_is_told(spool: Path, make: Make) -> None:
    put(spool / "a.pcap", capture_of(1))
    source = make()
    assert read(source, 10) == of(1)
    shutil.rmtree(spool)

    def read_on() -> None:
        read_until(source, lambda _: False)

    with pytest.raises(InputError, match="the spool directory is gone"):
        read_on()
    assert source.read_batch() is None


def test_overflow_of_events_loses_no_file(spool: Path, make: Make) -> None:
    source = make()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for _ in range(limit // 2 + 100):  # two kinds of events in turn, so that the kernel joins none
        (spool / ".one").touch()
        (spool / ".one").rename(spool / ".two")
    put(spool / "a.pcap", capture_of(1))
    assert read(source, 10) == of(1)


def test_file_whose_writer_cannot_be_seen_is_read_when_it_is_quiet(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a remote file system no lease says who writes: the time of change does."""
    monkeypatch.setattr("nsstream.capture.spool._is_being_written", lambda _: None)
    clock = ManualClock(1_000 * 10**9)
    put(spool / "a.pcap", capture_of(1), 990)
    source = SpoolSource(spool, is_polled=True, quiet_s=20, clock=clock)
    source.open()
    assert read_idle(source) == []
    clock.advance(11 * 10**9)
    assert read(source, 10) == of(1)
    source.close()


@pytest.mark.parametrize(
    "octets", [b"not a database, but long enough to be looked at", b"SQLite format 3\0" + bytes(84)]
)
def test_ledger_that_is_something_else_is_refused(octets: bytes, spool: Path, tmp_path: Path) -> None:
    put(tmp_path / "ledger", octets)
    source = SpoolSource(spool, tmp_path / "ledger")
    with pytest.raises(InputError, match="cannot be used as a spool's ledger"):
        source.open()
    source.close()


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        SpoolSource(tmp_path / "none").open()


def test_reading_before_opening_is_a_bug(spool: Path) -> None:
    with pytest.raises(RuntimeError, match="before open"):
        SpoolSource(spool).read_batch()
