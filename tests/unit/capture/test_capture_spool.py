"""SpoolSource: every packet of every file once, whatever happens to the files; restarts; files that are no captures."""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from nfcapd_files import block, file_of, flow
from spooled import (
    FRAME,
    Make,
    capture_of,
    of,
    put,
    read,
    read_idle,
    rest,
)

from nsstream.capture.spool import SpoolSource
from nsstream.clock import ManualClock
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.wire import pcap_header


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


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_compressed_files_are_read(compress: Callable[[bytes], bytes], spool: Path, make: Make) -> None:
    source = make()
    put(spool / "one.pcap.z", compress(capture_of(1)))
    assert read(source, 10) == of(1)


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


def test_pattern_selects_files(spool: Path, make: Make) -> None:
    put(spool / "a.pcap", capture_of(1))
    put(spool / "a.log", b"text")
    source = make(pattern="*.pcap", follow=False)
    assert rest(source) == of(1)
    assert source.tally.offered == 10


def test_file_whose_writer_cannot_be_seen_is_read_when_it_is_quiet(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a remote file system no lease says who writes: the time of change does."""
    monkeypatch.setattr("nsstream.capture.spool_file.is_being_written", lambda _: None)
    clock = ManualClock(1_000 * 10**9)
    put(spool / "a.pcap", capture_of(1), 990)
    source = SpoolSource(spool, is_polled=True, quiet_s=20, clock=clock)
    source.open()
    assert read_idle(source) == []
    clock.advance(11 * 10**9)
    assert read(source, 10) == of(1)
    source.close()


def test_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        SpoolSource(tmp_path / "none").open()


def test_reading_before_opening_is_a_bug(spool: Path) -> None:
    with pytest.raises(RuntimeError, match="before open"):
        SpoolSource(spool).read_batch()


def test_flows_of_a_collector_are_read_once_over_restarts(spool: Path, make: Make) -> None:
    """As nfcapd leaves them: the file in hand under a name of its own, renamed when its time is over."""
    put(spool / "nfcapd.202601010000", file_of(block(flow(), flow())), 1000)
    with (spool / "nfcapd.current.77").open("wb") as current:
        current.write(file_of(block(flow(), flow(), flow())))
        current.flush()
        source = make(content="flows")
        assert len(source.read_batch()) == 2
        assert len(source.read_batch()) == 0
    (spool / "nfcapd.current.77").rename(spool / "nfcapd.202601010005")
    wait_for(source, lambda: source.tally.kept == 5)
    put(spool / "trace.pcap", capture_of(1))
    wait_for(source, lambda: bool(source.complaints))
    assert "trace.pcap" in source.complaints[0]
    source.close()
    again = make(content="flows", follow=False)
    assert again.read_batch() is None
    assert again.tally.offered == 0


def wait_for(source: SpoolSource, is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < until_s, f"not so in time: {source.tally} {source.complaints}"
        assert isinstance(source.read_batch(), FlowTable)
        source.tally.check()


def test_content_is_packets_or_flows(spool: Path) -> None:
    with pytest.raises(ValueError, match="packets or flows, got 'fish'"):
        SpoolSource(spool, content="fish")
