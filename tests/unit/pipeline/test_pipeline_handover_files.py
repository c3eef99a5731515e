"""What a source hands over is read again as it was written, or not at all."""

import logging
from pathlib import Path

import pytest

from nsstream.errors import OutputError
from nsstream.pipeline.handover_files import HandoverFiles


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def test_what_was_saved_is_read_and_the_rest_is_removed(tmp_path: Path):
    files = HandoverFiles(tmp_path / "handover")
    assert files.save(None) is None
    assert names(tmp_path) == []
    first, second = files.save({"mark": 1}), files.save({"mark": 2})
    assert names(tmp_path / "handover") == sorted([first, second])
    files.keep_only(second)
    assert names(tmp_path / "handover") == [second]
    assert HandoverFiles(tmp_path / "handover").read(second) == {"mark": 2}
    assert HandoverFiles(tmp_path / "handover").read(None) is None


def test_the_same_is_not_written_again(tmp_path: Path):
    files = HandoverFiles(tmp_path / "handover")
    handover = {"mark": 1}
    name = files.save(handover)
    (tmp_path / "handover" / name).unlink()
    assert files.save(handover) == name
    assert names(tmp_path / "handover") == []
    assert files.save({"mark": 1}) == name
    assert names(tmp_path / "handover") == [name]


def test_only_files_of_its_own_are_removed(tmp_path: Path):
    files = HandoverFiles(tmp_path / "handover")
    name = files.save({"mark": 1})
    (tmp_path / "handover" / "README").touch()
    files.keep_only(None)
    assert names(tmp_path / "handover") == ["README"]
    assert HandoverFiles(tmp_path / "handover").read(name) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"mark":', b'{"mark":2}', b"[" * 100_000, b"\xff"])
def test_what_is_broken_is_not_read_and_the_log_says_so(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
):
    files = HandoverFiles(tmp_path / "handover")
    name = files.save({"mark": 1})
    (tmp_path / "handover" / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert HandoverFiles(tmp_path / "handover").read(name) is None
    assert "handover_unread" in caplog.text


@pytest.mark.parametrize("name", ["../sampling.key", "commit.json", 7, [], "0" * 32 + ".json"])
def test_a_name_that_is_none_of_ours_is_not_followed(tmp_path: Path, name: object):
    assert HandoverFiles(tmp_path / "handover").read(name) is None


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path):
    (tmp_path / "handover").touch()
    with pytest.raises(OutputError, match="handover"):
        HandoverFiles(tmp_path / "handover").save({"mark": 1})
