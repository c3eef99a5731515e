"""SpoolHistory and SpoolLedger through SpoolSource: restarts, files that grow, are renamed, compressed or replaced."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
from pathlib import Path

import pytest
from spooled import (
    Make,
    capture_of,
    numbers,
    of,
    put,
    read,
    read_idle,
    read_until,
    rest,
)

from nsstream.capture.spool import SpoolSource
from nsstream.errors import InputError
from nsstream.trace import PacketBatch


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


def test_file_that_cannot_be_read_does_not_hide_another_in_its_inode(
    spool: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make()
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> str:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        patch.setattr("nsstream.capture.spool_history.head_of", refuse)
        put(spool / "a.pcap", capture_of(1))
        assert read_until(source, lambda _: bool(source.complaints)) == []
        assert "Permission denied" in source.complaints[-1]
    (spool / "a.pcap").write_bytes(capture_of(2))  # the same inode and size, another time
    assert read(source, 10) == of(2)


def test_ledger_inside_the_spool_is_not_read(spool: Path) -> None:
    put(spool / "a.pcap", capture_of(1))
    source = SpoolSource(spool, spool / "ledger.sqlite", follow=False)
    source.open()
    assert rest(source) == of(1)
    source.close()
    assert source.tally.offered == 10


@pytest.mark.parametrize(
    "octets", [b"not a database, but long enough to be looked at", b"SQLite format 3\0" + bytes(84)]
)
def test_ledger_that_is_something_else_is_refused(octets: bytes, spool: Path, tmp_path: Path) -> None:
    put(tmp_path / "ledger", octets)
    source = SpoolSource(spool, tmp_path / "ledger")
    with pytest.raises(InputError, match="cannot be used as a spool's ledger"):
        source.open()
    source.close()
