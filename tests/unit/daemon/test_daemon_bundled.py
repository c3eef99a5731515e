"""Bundled captures: each that is listed is there and reads as a capture; none is written over another file."""

from pathlib import Path

import pytest
from nsstream_daemon.bundled_command import CAPTURES, bundled, capture_of

from nsstream.capture import PcapFileSource
from nsstream.errors import InputError, OutputError


@pytest.mark.parametrize("name", CAPTURES)
def test_a_bundled_capture_is_written_whole_and_reads_as_one(name: str, tmp_path: Path):
    output = tmp_path / "out.pcap.xz"
    bundled(name, output)
    assert output.read_bytes() == capture_of(name).read_bytes()
    source, packets = PcapFileSource(output), 0
    source.open()
    while (batch := source.read_batch()) is not None:
        packets += len(batch)
    source.close()
    assert packets > 20_000


def test_all_are_listed(capsys: pytest.CaptureFixture[str]):
    bundled()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CAPTURES)


def test_what_is_not_there_what_is_there_already_and_no_room_are_told(tmp_path: Path):
    with pytest.raises(InputError, match="'office'; there are lab and home"):
        bundled("office")
    output = tmp_path / "there"
    output.write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        bundled("lab", output)
    assert output.read_text() == "mine"
    bundled("lab", output, force=True)
    assert output.read_bytes() == capture_of("lab").read_bytes()
    with pytest.raises(OutputError, match="does not exist"):
        bundled("lab", tmp_path / "gone" / "x")
