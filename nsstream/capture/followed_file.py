"""FollowedFile: the lines of a file that somebody appends to, over rotations and restarts, each once.

Rules:

- Only whole lines are given; the beginning of one waits in the file. A position is always between two lines.
- A file is known by what was read of it (`FileHead`), so it is found again under another name, or as the copy that
  copytruncate made of it: in the same directory, not compressed, called ``NAME.1``, ``NAME-20260101``,
  ``STEM-20260101.SUFFIX`` or the like. Before anything is believed that was read, it is seen that the file still begins
  as it did.
- A file that was renamed is left when another one of its name has octets, and nothing came in the old one after that
  was seen: whoever writes the new one is through with it. Files that came and went between two looks follow by their
  time of change.
- Counted are lines that were too long (`long_line_count`), those that a file which was left ends in the middle of
  (`cut_count`), and files of which something was not read when they could not be found any more (`lost_count`).
- Nothing is ever changed, and nothing is waited for: `read` says None where there is nothing new.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nsstream.capture.file_head import HEAD_BYTES, FileHead
from nsstream.capture.follow_position import MAX_FINISHED, FollowPosition
from nsstream.capture.line_blocks import MAX_LINE_BYTES, tidied
from nsstream.capture.rotated_files import find, opened, opened_sibling, siblings_of, status_of
from nsstream.errors import InputError

_FIRST_LINES_BYTES: Final = 1 << 16

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Hand:
    """The file that is read now."""

    descriptor: int
    began_ns: int  # when it was last written to, as it was begun
    offset: int = 0
    first: bytes = b""  # of what was read, at most `HEAD_BYTES`
    is_inside_long_line: bool = False
    is_left: bool = False  # another file has the name, so what is there now is the rest

    @property
    def head(self) -> FileHead:
        return FileHead.of(self.first)

    def is_as_read(self) -> bool:
        """Whether the file still begins with what was read of it."""
        return os.fstat(self.descriptor).st_size >= self.offset and self.head.begins(self.descriptor)

    def pass_over(self, octets: bytes) -> None:
        """Go on behind octets that begin where we stand."""
        self.first += octets[: HEAD_BYTES - len(self.first)]
        self.offset += len(octets)


class FollowedFile:
    """Follows one path.

    Args:
        path: of a regular file in a directory that is there; the file may come later.
        from_end: begin, where there is no position to go on from, behind the last line that is there.
        block_bytes: read at a time; as many as a line may have, at least.
    """

    def __init__(self, path: Path, *, from_end: bool = False, block_bytes: int = 1 << 20) -> None:
        self.long_line_count = 0
        self.cut_count = 0
        self.lost_count = 0
        self.file_count = 0  # changes with each file that is begun or found again
        self.began_at = 0  # where the file in hand was begun, in octets
        self._path = path
        self._from_end = from_end
        self._block_bytes = max(block_bytes, 2 * MAX_LINE_BYTES)
        self._hand: _Hand | None = None
        self._finished: deque[FileHead] = deque(maxlen=MAX_FINISHED)
        self._changed_ns = 0
        self._is_open = False
        self._position = self._new_position()

    @property
    def position(self) -> FollowPosition:
        """Where we stand: behind the lines given last. The same object as long as nothing was read."""
        if self._is_open:
            new = self._new_position()
            if new != replace(self._position, changed_ns=new.changed_ns):
                self._position = new
        return self._position

    def open(self, position: FollowPosition | None = None) -> None:
        """Begin, or go on where a position says.

        Raises InputError if the directory is not there, or the path is of something else than a regular file.
        """
        self.close()
        if not self._path.parent.is_dir():
            raise InputError(f"{self._path}: {self._path.parent} is not a directory")
        self._is_open = True
        try:
            if position is None:
                self._finished.clear()
                self._begin()
            else:
                self._finished = deque(position.finished, MAX_FINISHED)
                self._resume(position)
        except OSError as err:
            raise InputError(f"{self._path}: cannot be read: {err.strerror or err}") from err

    def read(self) -> bytes | None:
        """The next whole lines; none where what came has none; None where nothing is new.

        Raises InputError if the file cannot be read.
        """
        try:
            while True:
                if self._hand is None and status_of(self._path) is not None:
                    self._take_next(self._changed_ns)
                hand = self._hand
                if hand is None:
                    return None
                lines = self._read_on(hand)
                if lines is not None:
                    return lines
                if self._hand is hand and not self._move_on(hand):
                    return None
        except OSError as err:
            raise InputError(f"{self._path}: cannot be read: {err.strerror or err}") from err

    def first_lines(self) -> bytes:
        """The whole lines that the file in hand begins with, up to 64 KiB: what says which columns it has."""
        if self._hand is None:
            return b""
        octets = os.pread(self._hand.descriptor, _FIRST_LINES_BYTES, 0)
        return tidied(octets[: octets.rfind(b"\n") + 1])[0]

    def close(self) -> None:
        """Let go of the file; the position stays."""
        self._position = self.position
        self._is_open = False
        if self._hand is not None:
            os.close(self._hand.descriptor)
            self._hand = None

    def _read_on(self, hand: _Hand) -> bytes | None:
        octets = os.pread(hand.descriptor, self._block_bytes, hand.offset)
        # What follows is asked behind the reading: what was read is of the file that it was.
        if not hand.offset and self._was_cut_before_it_was_read(hand):
            return None
        if not octets or not hand.is_as_read():
            return None
        start = 0
        if hand.is_inside_long_line:
            start = octets.find(b"\n") + 1
            hand.is_inside_long_line = not start
            if not start:
                hand.pass_over(octets)
                return b""
        end = octets.rfind(b"\n") + 1
        if end <= start:
            is_long = len(octets) - start > MAX_LINE_BYTES
            if not start and not is_long:
                return None
            self.long_line_count += is_long
            hand.is_inside_long_line = is_long
            end = len(octets) if is_long else start
            start = end
        hand.pass_over(octets[:end])
        lines, long_line_count = tidied(octets[start:end]) if end > start else (b"", 0)
        self.long_line_count += long_line_count
        return lines

    def _move_on(self, hand: _Hand) -> bool:
        """Nothing whole is left in the file in hand: whether there is another one, or more, to be read."""
        if not hand.is_as_read():
            self._leave_cut_off(hand)
            return True
        ours, named = os.fstat(hand.descriptor), status_of(self._path)
        if named is None or not named.st_size or os.path.samestat(named, ours):
            return False
        if not hand.is_left:
            hand.is_left = True
            return True
        if ours.st_size > hand.offset and not hand.is_inside_long_line:
            self.cut_count += 1
        self._finish(hand, FileHead.of(os.pread(hand.descriptor, HEAD_BYTES, 0)))
        self._take_next(ours.st_mtime_ns)
        return True

    def _was_cut_before_it_was_read(self, hand: _Hand) -> bool:
        """Whether a file that nothing was read of yet had octets that are in a copy now, which is gone to."""
        changed_ns = os.fstat(hand.descriptor).st_mtime_ns
        if changed_ns == hand.began_ns:
            return False
        began_ns, hand.began_ns = hand.began_ns, changed_ns
        self._hand = None
        if self._take_rotated(began_ns):
            os.close(hand.descriptor)
            return True
        self._hand = hand
        return False

    def _leave_cut_off(self, hand: _Hand) -> None:
        """The file in hand was truncated: go on in the copy that was made of it, if there is one."""
        head, offset, is_inside = hand.head, hand.offset, hand.is_inside_long_line
        copy = find(head, offset, [path for _, path in siblings_of(self._path)])
        if copy is not None:
            os.close(hand.descriptor)
            self._hold(copy, offset, is_inside)
            return
        _log.warning("followed_file_cut path=%s read=%d", self._path, offset)
        self._finish(hand, head)
        self._take(self._path)

    def _begin(self) -> None:
        """Without a position: what was rotated before is not ours to read."""
        for changed_ns, path in siblings_of(self._path)[-MAX_FINISHED:]:
            self._changed_ns = changed_ns
            if (descriptor := opened_sibling(path)) is not None:
                self._note_finished(FileHead.of(os.pread(descriptor, HEAD_BYTES, 0)))
                os.close(descriptor)
        if self._take(self._path) and self._from_end and self._hand is not None:
            self._go_to_end(self._hand)

    def _go_to_end(self, hand: _Hand) -> None:
        size = at = os.fstat(hand.descriptor).st_size
        while at:
            start = max(0, at - self._block_bytes)
            end = os.pread(hand.descriptor, at - start, start).rfind(b"\n") + 1
            if end:
                hand.offset = self.began_at = start + end
                hand.first = os.pread(hand.descriptor, min(HEAD_BYTES, hand.offset), 0)
                return
            at = start
        hand.is_inside_long_line = size > MAX_LINE_BYTES

    def _resume(self, position: FollowPosition) -> None:
        self._changed_ns = position.changed_ns
        if not position.head.count:
            self._take_next(position.changed_ns)
            return
        paths = [self._path, *(path for _, path in reversed(siblings_of(self._path)))]
        found = find(position.head, position.offset, paths)
        if found is not None:
            self._hold(found, position.offset, position.is_inside_long_line)
            return
        self.lost_count += 1
        self._note_finished(position.head)
        _log.warning("followed_file_gone path=%s read=%d", self._path, position.offset)
        self._take_next(position.changed_ns)

    def _take_next(self, after_ns: int) -> None:
        """Begin the file that follows one that was last changed then: one that came and went, or the path's."""
        if not self._take_rotated(after_ns):
            self._take(self._path)

    def _take_rotated(self, after_ns: int) -> bool:
        paths = [path for changed_ns, path in siblings_of(self._path) if changed_ns >= after_ns]
        return any(self._take(path, is_rotated=True) for path in paths)

    def _take(self, path: Path, *, is_rotated: bool = False) -> bool:
        """Begin a file; whether there is one, and, of those that were rotated, one that was not read."""
        descriptor = opened_sibling(path) if is_rotated else opened(path)
        if descriptor is None:
            return False
        if is_rotated:
            first = os.pread(descriptor, HEAD_BYTES, 0)
            if not first or any(head.count and head.begins(descriptor) for head in self._finished):
                os.close(descriptor)
                return False
        self._hand = _Hand(descriptor, max(0, os.fstat(descriptor).st_mtime_ns))
        self.file_count += 1
        self.began_at = 0
        return True

    def _hold(self, descriptor: int, offset: int, is_inside_long_line: bool) -> None:
        first = os.pread(descriptor, min(HEAD_BYTES, offset), 0)
        self._hand = _Hand(descriptor, 0, offset, first, is_inside_long_line)
        self.file_count += 1
        self.began_at = offset

    def _finish(self, hand: _Hand, head: FileHead) -> None:
        self._changed_ns = max(0, os.fstat(hand.descriptor).st_mtime_ns)
        os.close(hand.descriptor)
        self._hand = None
        self._note_finished(head)

    def _note_finished(self, head: FileHead) -> None:
        if head.count and head not in self._finished:
            self._finished.append(head)

    def _new_position(self) -> FollowPosition:
        hand = self._hand
        if hand is None:
            return FollowPosition(FileHead.of(b""), 0, self._changed_ns, False, tuple(self._finished))
        # Of a file that nothing was read of, copies that are younger than its beginning have what is gone from it.
        changed_ns = max(0, os.fstat(hand.descriptor).st_mtime_ns) if hand.offset else hand.began_ns
        is_inside = hand.is_inside_long_line
        return FollowPosition(hand.head, hand.offset, changed_ns, is_inside, tuple(self._finished))
