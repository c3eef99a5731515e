from __future__ import annotations

import contextlib
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from nfcapd_files import block, file_of, flow, old_file_of

from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.errors import InputError
from nsstream.trace import FlowTable

FLOWS = file_of(*(block(*(flow(packets=10 * b + k + 1) for k in range(10))) for b in range(5)))


def read(path: Path, **options: object) -> tuple[FlowTable, NfcapdFileSource]:
    source = NfcapdFileSource(path, **options)  # type: ignore[arg-type]
    batches = []
    with contextlib.closing(source):
        source.open()
        while (batch := source.read_batch()) is not None:
            source.tally.check()
            batches.append(batch)
    source.tally.check()
    return FlowTable.concatenate(batches), source


def test_blocks_are_batches_and_compression_around_the_file_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    for octets in (FLOWS, gzip.compress(FLOWS)):
        path.write_bytes(octets)
        flows, source = read(path)
        np.testing.assert_array_equal(flows.packet_delta_count, np.arange(1, 51))
        assert source.tally.kept == 50


def test_cut_file_is_refused_with_what_was_whole_or_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    for octets in (FLOWS[:-7], gzip.compress(FLOWS)[:-9]):
        path.write_bytes(octets)
        with pytest.raises(InputError, match=r"ends in the middle of a block, after \d+ whole records"):
            read(path)
        flows, source = read(path, allow_cut=True)
        assert len(flows) >= 40
        assert source.tally.malformed["cut_record"] >= 1


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"", "not an nfdump file"),
        (b"ts,te,td\n", "not an nfdump file"),
        (file_of(layout=3), "nfdump file of layout 3: this version reads 1 and 2"),
        (file_of(encryption=1), "encrypted"),
        (FLOWS[:20], "cut in its file header"),
        (file_of(b"\xff" * 12), "a block claims 4294967295 octets"),
        (gzip.compress(FLOWS, mtime=0)[:50] + b"\xff" * 20, "cannot be read: "),
    ],
)
def test_file_that_cannot_be_used_is_refused_in_one_sentence(octets: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "flows"
    path.write_bytes(octets)
    with pytest.raises(InputError, match=complaint) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(shutil.which("nfdump") is None, reason="nfdump is not installed")
def test_old_file_is_read_by_way_of_nfdump_which_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    os.mkdir(tmp_path / "scratch")  # noqa: PTH102
    path = tmp_path / "old"
    for octets in (old_file_of(7), gzip.compress(old_file_of(7))):
        path.write_bytes(octets)
        flows, source = read(path)
        assert source.tally.offered == 7
        np.testing.assert_array_equal(flows.packet_delta_count, np.arange(1, 8))
        np.testing.assert_array_equal(flows.octet_delta_count, 100 * np.arange(1, 8))
        assert flows.flow_start_ns[0] == 1_700_000_000_123_000_000
        assert flows.flow_end_ns[0] == 1_700_000_001_128_000_000
        assert flows.destination_address[0].tobytes()[12:] == bytes([198, 51, 100, 2])
        assert list((tmp_path / "scratch").iterdir()) == []


def test_old_file_without_nfdump_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(old_file_of(1))
    with pytest.raises(InputError, match=r"written by nfdump 1\.6 or older, and no-such-nfdump is not installed"):
        read(path, nfdump="no-such-nfdump")


@pytest.mark.skipif(shutil.which("nfdump") is None, reason="nfdump is not installed")
def test_old_file_that_nfdump_cannot_read_is_refused_in_its_words(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(old_file_of(1)[:50])
    with pytest.raises(InputError, match="cannot convert it") as caught:
        read(path)
    assert "\n" not in str(caught.value)
