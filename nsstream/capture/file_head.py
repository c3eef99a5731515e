"""FileHead: the first octets of a file that grows, by which it is known again whatever it is called by then.

Rotation renames a file, or copies it and cuts the original off (copytruncate): the name, the inode or both are then of
another one. What was read of it stays the same. A head is of at most `HEAD_BYTES`; logs begin with a time, or say when
they were opened, so two of one tool have different ones.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any, Final, Self

from nsstream.errors import InputError

HEAD_BYTES: Final = 1024

_DIGEST_CHARACTERS: Final = 32


@dataclass(frozen=True, slots=True)
class FileHead:
    """The first `count` octets of a file, by their digest; of none, it is every file's."""

    count: int
    digest: str

    @classmethod
    def of(cls, octets: bytes) -> Self:
        """The head of a file that begins with these octets."""
        octets = octets[:HEAD_BYTES]
        return cls(len(octets), hashlib.sha256(octets).hexdigest()[:_DIGEST_CHARACTERS])

    def begins(self, descriptor: int) -> bool:
        """Whether the file open there begins so; raises OSError."""
        return self.count == 0 or FileHead.of(os.pread(descriptor, self.count, 0)) == self

    def as_list(self) -> list[Any]:
        """Plain values."""
        return [self.count, self.digest]

    @classmethod
    def from_list(cls, values: object) -> Self:
        """The head that `as_list` wrote; raises InputError for anything else."""
        match values:
            case [count, str(digest)] if type(count) is int and 0 <= count <= HEAD_BYTES:
                return cls(count, digest[:_DIGEST_CHARACTERS])
        raise InputError(f"the head of a file must be a count and a digest, got {values!r:.60}")


NO_HEAD: Final = FileHead.of(b"")
