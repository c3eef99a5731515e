"""ProcessMemory: the server's heap and its garbage collector, set up so that hours of a run change nothing.

The heap: glibc gives each thread an arena of its own, and hands a large block back to the kernel or not by what came
before. Blocks of frames of all sizes are made by one thread and freed by another, so that the arenas fragment, and
memory creeps up for hours though no more of it is used. Here there is one arena; blocks are cut from it, since fresh
pages for each would cost more than the frames in them; and every second all pages that are free go back. Arrow, which
writes tables, would have a heap of its own besides, and is told to use this one. numpy asks for huge pages under arrays
of 4 MB and more; where those were, the kernel goes on for a quarter of an hour to put 2 MB under what else is there
now. So there are none in this process, and its children.

The collector: a full collection looks at every object that could be part of a cycle, with the interpreter's lock held.
The libraries have about half a million, which takes 0.1 to 0.3 s, and no command is answered meanwhile. What was
loaded before the first packets of a kind of run is put where the collector does not look (``gc.freeze``). Objects of a
run are in no cycle, and go with it.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from typing import Final

from nsstream.clock import Clock

_ARENA_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3  # malloc.h
LARGEST_KEPT: Final = 32 << 20  # a longer block is the kernel's own matter; no more than that may be asked for
MOST_SPARE: Final = 64 << 20  # free octets at the heap's end, beyond which they are given back at once
TRIM_EVERY_NS: Final = 1_000_000_000
LONGEST_LOADING_NS: Final = 60_000_000_000
_NEVER: Final = (1 << 31) - 1
_PR_SET_THP_DISABLE: Final = 41  # of <linux/prctl.h>


def keep_one_heap() -> bool:
    """Let all threads share one heap of small pages that keeps its blocks; call it before there are any.

    False: this is no glibc, or no Linux.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # read when pyarrow is first imported
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, LARGEST_KEPT), (_TRIM_THRESHOLD, MOST_SPARE))
    taken = [mallopt(name, value) for name, value in settings]
    prctl = _glibc("prctl")
    return all(taken) and prctl is not None and prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc's; None where there is no glibc."""
    try:
        function: Callable[..., int] = ctypes.CDLL(None)[name]
    except (OSError, AttributeError):
        return None
    return function


class ProcessMemory:
    """Gives free pages back; puts off full collections while a kind of run is loaded, and spares what was loaded.

    All of it is of one thread.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kinds: set[str] = set()
        self._thresholds: tuple[int, int, int] | None = None  # to be set again
        self._began_ns = 0
        self._trimmed_ns = clock.monotonic_ns()
        self._trim = _glibc("malloc_trim")

    def begin(self, kind: str) -> None:
        """A run of this kind begins."""
        self.settle()
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        gc.collect()  # what is garbage now would be spared with the rest
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], _NEVER)
        self._began_ns = self._clock.monotonic_ns()

    def look(self, *, has_written: bool) -> None:
        """Do what is due; call it often while there is a run, with whether it has written something (or has ended).

        Then what was to be loaded is; or once the run has gone on for a minute without.
        """
        now_ns = self._clock.monotonic_ns()
        if has_written or now_ns - self._began_ns >= LONGEST_LOADING_NS:
            self.settle()
        if self._trim is not None and now_ns - self._trimmed_ns >= TRIM_EVERY_NS:
            self._trimmed_ns = now_ns
            self._trim(0)  # about a millisecond; other threads go on

    def settle(self) -> None:
        """What was to be loaded is."""
        if self._thresholds is not None:
            gc.freeze()
            gc.set_threshold(*self._thresholds)
            self._thresholds = None
