"""SpoolWatch through SpoolSource: the order of files, renames, a queue of events that overflows, a spool that goes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from spooled import (
    Make,
    capture_of,
    of,
    put,
    read,
    read_idle,
    read_until,
)

from nsstream.errors import InputError


def test_files_from_before_are_read_first_by_time_then_by_number(spool: Path, make: Make) -> None:
    put(spool / "a9.pcap", capture_of(2), 1000)
    put(spool / "a10.pcap", capture_of(3), 1000)
    put(spool / "z.pcap", capture_of(1), 999)
    source = make()
    put(spool / "0.pcap", capture_of(4))
    assert read(source, 40) == of(1, 2, 3, 4)


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


def test_file_that_is_renamed_while_it_waits_is_not_lost(spool: Path, make: Make) -> None:
    """Its writer has it open, so it waits; its new name has not been seen when the old one is gone."""
    source = make()
    with (spool / "one.part").open("wb") as file:
        file.write(capture_of(1))
        file.flush()
        put(spool / "zero.pcap", capture_of(0))
        assert read(source, 10) == of(0)
        (spool / "one.part").rename(spool / "one.pcap")
    assert read(source, 10) == of(1)
    assert source.tally.offered == 20
    assert not source.complaints
