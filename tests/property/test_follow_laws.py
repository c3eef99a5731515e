"""The law of a followed file: whatever its writer, logrotate and restarts do, each whole line comes once, in order."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rotated_log import RotatedLog

from nsstream.capture.follow_position import FollowPosition
from nsstream.capture.followed_file import FollowedFile

ACTS = st.one_of(
    st.tuples(st.just("lines"), st.integers(1, 40)),
    st.tuples(st.just("half"), st.integers(1, 60)),
    st.tuples(st.sampled_from(["rename", "copy", "read", "restart", "crash"]), st.just(0)),
)


def whole(number: int) -> bytes:
    """A line; some have two hundred octets, so that the head of a file takes one line or several."""
    return b"%08d %s\n" % (number, b"x" * (number * 37 % 200))


def read_all(file: FollowedFile) -> bytes:
    came = []
    while (lines := file.read()) is not None:
        came.append(lines)
    return b"".join(came)


def restarted(file: FollowedFile, log: RotatedLog) -> FollowedFile:
    """A new one, in a new process, of which the old one told in JSON."""
    told = json.loads(json.dumps(file.position.as_dict()))
    file.close()
    heir = FollowedFile(log.path)
    heir.open(FollowPosition.from_dict(told))
    return heir


@given(st.lists(ACTS, max_size=40))
def test_each_line_comes_once_and_in_order(acts: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = RotatedLog(Path(directory) / "eve.json")
        file = FollowedFile(log.path)
        file.open()
        came, number, rest = b"", 0, b""
        stood = file.position, 0  # where a crash goes back to: what was committed with so many octets
        for act, amount in acts:
            if act in ("rename", "copy"):  # neither is done in the middle of a line
                log.write(rest)
                rest = b""
                log.rename() if act == "rename" else log.copy_and_truncate()
            elif act == "lines":
                log.write(rest + b"".join(map(whole, range(number, number + amount))))
                number, rest = number + amount, b""
            elif act == "half":
                log.write(rest)
                line = whole(number)
                number, at = number + 1, amount % len(line)
                log.write(line[:at])
                rest = line[at:]
            elif act == "read":
                lines = file.read()
                came += lines or b""
                stood = file.position, len(came)
            elif act == "restart":
                file = restarted(file, log)
            else:
                came = came[: stood[1]]
                file.close()
                file = FollowedFile(log.path)
                file.open(stood[0])
        came += read_all(file)
        log.write(rest + whole(number))  # the last file of all has octets, so that it is gone on to
        came += read_all(file)
        file.close()
        log.close()
        assert came == log.written
        assert (file.long_line_count, file.cut_count, file.lost_count) == (0, 0, 0)
