"""Files that travel: they come out as they went in, under names that are names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsstream.errors import OutputError, StateError
from nsstream.pipeline.parcel import pack, place_folder, read_folder, unpack

OCTETS = np.frombuffer(b"\x00\x01\xff", np.uint8)


def test_a_job_finds_its_files_in_a_folder_of_its_own(tmp_path: Path):
    (tmp_path / "m1").mkdir()
    (tmp_path / "m1" / "weights").write_bytes(b"w")
    (tmp_path / "m1" / "empty").touch()
    for name in ("a.arrow", "b.arrow"):
        (tmp_path / name).write_bytes(name.encode())
    told: dict[str, Any] = {
        "chunk": str(tmp_path / "a.arrow"), "before": None, "parent": str(tmp_path / "m1"), "steps": 4,
        "models": [str(tmp_path / "m1"), str(tmp_path / "b.arrow")], "out": str(tmp_path / "out"),
    }  # fmt: skip
    room = tmp_path / "room"
    room.mkdir()
    here = unpack(told, pack(told), room)
    assert (here["steps"], here["before"]) == (4, None)
    assert Path(here["chunk"]).name == "a.arrow"
    assert Path(here["chunk"]).read_bytes() == b"a.arrow"
    assert {path.name: path.read_bytes() for path in Path(here["parent"]).iterdir()} == {"weights": b"w", "empty": b""}
    assert [Path(path).name for path in here["models"]] == ["m1", "b.arrow"]
    assert list(Path(here["out"]).iterdir()) == []
    assert all(Path(path).is_relative_to(room) for path in (here["chunk"], *here["models"], here["out"]))
    made = Path(here["out"]) / "abc"
    made.mkdir()
    (made / "manifest.json").write_bytes(b"{}")
    placed = place_folder(tmp_path / "out", "abc", read_folder(made))
    assert placed == tmp_path / "out" / "abc"
    assert (placed / "manifest.json").read_bytes() == b"{}"
    assert place_folder(tmp_path / "out", "abc", {}) == placed  # it was there
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["abc"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "..", "a\0b", 7, None])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: Any):
    with pytest.raises(StateError, match="is no name of a file or checkpoint"):
        place_folder(tmp_path, name, {})
    with pytest.raises(StateError, match="is no name of a file or checkpoint"):
        place_folder(tmp_path, "good", {name: OCTETS})
    with pytest.raises(StateError, match="is no name of a file or checkpoint"):
        unpack({"chunk": "x"}, {"chunk": [{"name": name, "file": OCTETS}]}, tmp_path)
    assert not (tmp_path / "good").exists()


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path):
    with pytest.raises(StateError, match=r"cannot read .*nothing: No such file"):
        pack({"chunk": str(tmp_path / "nothing")})
    (tmp_path / "many").mkdir()
    for number in range(65):
        (tmp_path / "many" / str(number)).touch()
    with pytest.raises(StateError, match="65 files, more than a checkpoint has"):
        pack({"parent": str(tmp_path / "many")})
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        place_folder(tmp_path / "file", "abc", {"x": OCTETS})
