"""A spool's file: the lease that tells whether it is written to, and the quiet that tells where no lease does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsstream.capture.spool_file import SpoolFile, head_of, is_being_written, is_finished, status_of


def test_writer_is_seen_until_it_closes(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    with path.open("wb") as writer:
        writer.write(b"octets")
        writer.flush()
        assert is_being_written(path) is True
        assert not is_finished(path, path.stat(), now_ns=2**62, quiet_ns=0)  # however long it has been quiet
    assert is_being_written(path) is False
    assert is_finished(path, path.stat(), now_ns=0, quiet_ns=2**62)


def test_reader_is_no_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(b"octets")
    with path.open("rb"):
        assert is_being_written(path) is False


def test_writer_that_comes_while_we_ask_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(b"octets")
    for _ in range(100):
        assert is_being_written(path) is False
        with path.open("ab"):
            assert is_being_written(path) is True


def test_quiet_decides_where_no_lease_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsstream.capture.spool_file.is_being_written", lambda _: None)
    path = tmp_path / "a.pcap"
    path.write_bytes(b"octets")
    os.utime(path, ns=(0, 1000))
    assert not is_finished(path, path.stat(), now_ns=1009, quiet_ns=10)
    assert is_finished(path, path.stat(), now_ns=1010, quiet_ns=10)


def test_only_regular_files_have_a_status(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    assert [status_of(tmp_path / name) for name in (".", "fifo", "dangling", "none")] == [None] * 4


def test_file_is_the_same_by_another_name_and_another_with_other_octets(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"octets")
    before = SpoolFile.of((tmp_path / "a").stat())
    (tmp_path / "a").rename(tmp_path / "b")
    assert SpoolFile.of((tmp_path / "b").stat()) == before
    assert head_of(tmp_path / "b", 4) != head_of(tmp_path / "b", 6)
    with pytest.raises(FileNotFoundError):
        head_of(tmp_path / "a", 4)
