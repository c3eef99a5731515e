from pathlib import Path

import pytest

from nsstream.errors import InputError, OutputError
from nsstream.pipeline.outputs import check_output, check_state, publish, staging


def test_an_output_that_exists_is_refused_unless_it_is_replaced(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(OutputError, match="exists already; give --force"):
        check_output(tmp_path / "x", replaces=False)
    check_output(tmp_path / "x", replaces=True)
    check_output(tmp_path / "y", replaces=False)


def test_a_folder_an_input_and_a_missing_folder_are_never_written_over(tmp_path: Path):
    (tmp_path / "in").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, replaces=True)
    with pytest.raises(InputError, match="is the input as well"):
        check_output(tmp_path / "link", inputs=[tmp_path / "in"], replaces=True)
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "no" / "x", replaces=True)


def test_only_a_state_directory_is_ever_replaced(tmp_path: Path):
    check_state(tmp_path / "new", replaces=False)
    (tmp_path / "state" / "chunks").mkdir(parents=True)
    with pytest.raises(OutputError, match="exists already; give --force"):
        check_state(tmp_path / "state", replaces=False)
    check_state(tmp_path / "state", replaces=True)
    (tmp_path / "home").mkdir()
    check_state(tmp_path / "home", replaces=False)
    (tmp_path / "home" / "thesis").write_bytes(b"")
    with pytest.raises(OutputError, match="no state directory"):
        check_state(tmp_path / "home", replaces=True)


def test_a_staging_folder_goes_with_its_block(tmp_path: Path):
    def fail() -> None:
        with staging(tmp_path / "x") as folder:
            (folder / "half").write_bytes(b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_publishing_replaces_files_and_folders(tmp_path: Path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "old").write_bytes(b"")
    (tmp_path / "x").write_bytes(b"old")
    with staging(tmp_path / "x") as staged:
        (staged / "x").write_bytes(b"new")
        (staged / "state").mkdir()
        publish([(staged / "state", tmp_path / "state"), (staged / "x", tmp_path / "x")], trash=staged)
    assert (tmp_path / "x").read_bytes() == b"new"
    assert list((tmp_path / "state").iterdir()) == []


def test_publishing_is_all_or_none(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"old")
    with staging(tmp_path / "x") as staged:
        (staged / "x").write_bytes(b"new")
        with pytest.raises(OutputError, match="cannot write"):
            publish([(staged / "x", tmp_path / "x"), (staged / "missing", tmp_path / "y")], trash=staged)
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
