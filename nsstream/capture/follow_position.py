"""FollowPosition: how far a followed file was read, in plain values, for whoever goes on there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

from nsstream.capture.file_head import FileHead
from nsstream.errors import InputError

MAX_FINISHED: Final = 64

_FORMAT: Final = "nsstream-followed-file"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class FollowPosition:
    """A place between two lines of one file, known by its head, and which files were read to their end before it."""

    head: FileHead  # of what was read
    offset: int
    changed_ns: int  # when the file was last written to, as far as it was seen
    is_inside_long_line: bool
    finished: tuple[FileHead, ...]  # the last ones, oldest first

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "head": self.head.as_list(),
            "offset": self.offset,
            "changed_ns": self.changed_ns,
            "is_inside_long_line": self.is_inside_long_line,
            "finished": [head.as_list() for head in self.finished],
        }

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The position that `as_dict` wrote; raises InputError for anything else."""
        if not isinstance(values, dict) or (values.get("format"), values.get("version")) != (_FORMAT, _VERSION):
            raise InputError(f"what was handed over is no position in a followed file: {values!r:.60}")
        numbers = [values.get("offset"), values.get("changed_ns")]
        if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
            raise InputError(f"a position in a file must be of whole numbers, got {numbers!r:.60}")
        finished, is_inside = values.get("finished"), values.get("is_inside_long_line")
        if not isinstance(finished, list) or len(finished) > MAX_FINISHED or not isinstance(is_inside, bool):
            raise InputError(f"the files before must be a list of at most {MAX_FINISHED}, got {finished!r:.60}")
        heads = tuple(map(FileHead.from_list, finished))
        return cls(FileHead.from_list(values.get("head")), values["offset"], values["changed_ns"], is_inside, heads)
