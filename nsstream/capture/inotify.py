"""DirectoryWatch: what happens to the files of one directory, told by the kernel (inotify(7)) through ctypes.

Promises: `read` never waits longer than asked; events come in their order; an overflow of the kernel's queue is told,
not hidden. Memory is bounded by one read. Raises OSError where the kernel or the file system has no inotify.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from enum import IntFlag
from pathlib import Path
from typing import Final, NamedTuple

_EVENT: Final = struct.Struct("iIII")
_READ_BYTES: Final = 1 << 16


class Happening(IntFlag):
    """Bits of an event's mask, from linux/inotify.h."""

    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000


WATCHED: Final = (
    Happening.CLOSE_WRITE
    | Happening.MOVED_FROM
    | Happening.MOVED_TO
    | Happening.DELETE
    | Happening.DELETE_SELF
    | Happening.MOVE_SELF
)
IS_GONE: Final = Happening.DELETE_SELF | Happening.MOVE_SELF | Happening.UNMOUNT | Happening.IGNORED


class Event(NamedTuple):
    """One thing that happened; the name is empty where it happened to the directory itself."""

    mask: int
    name: str


class DirectoryWatch:
    """A watch on one directory, not on those below it."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1 failed")
        if libc.inotify_add_watch(self._descriptor, os.fsencode(directory), ctypes.c_uint32(WATCHED)) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number))
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def read(self, wait_s: float) -> list[Event]:
        """The next events; none if none happened within `wait_s`."""
        if not self._poll.poll(1000 * wait_s):
            return []
        octets = os.read(self._descriptor, _READ_BYTES)
        events = []
        at = 0
        while at < len(octets):
            _, mask, _, length = _EVENT.unpack_from(octets, at)
            at += _EVENT.size
            events.append(Event(mask, os.fsdecode(octets[at : at + length].rstrip(b"\0"))))
            at += length
        return events

    def close(self) -> None:
        """End the watch; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
