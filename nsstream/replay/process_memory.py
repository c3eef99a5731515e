"""ProcessMemory: the server's heap and its garbage collector, set up so that hours of a run change nothing.

The heap: glibc gives each thread an arena of its own, and hands a large block back to the kernel or not by what came
before. Blocks of frames are made by one thread and freed by another, so that the arenas fragment, and memory creeps up
for hours. Here there is one arena, which keeps what it has had.

The collector: a full collection looks at every object that could be part of a cycle, with the interpreter's lock held.
The libraries have about half a million, which takes 0.1 to 0.3 s, and no command is answered meanwhile. What was
loaded before the first packets of a kind of run is put where the collector does not look (``gc.freeze``). Objects of a
run are in no cycle, and go with it.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

from nsstream.clock import Clock

_ARENA_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3  # malloc.h
LARGEST_KEPT: Final = 32 << 20  # a longer block is the kernel's own matter; no more than that may be asked for
MOST_SPARE: Final = 64 << 20  # free octets at the heap's end, beyond which they are given back
LONGEST_LOADING_NS: Final = 60_000_000_000
_NEVER: Final = (1 << 31) - 1


def keep_one_heap() -> bool:
    """Let all threads share one heap that keeps its blocks; call it before there are any. False: this is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, LARGEST_KEPT), (_TRIM_THRESHOLD, MOST_SPARE))
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)


class Collector:
    """Puts off full collections while a kind of run is loaded for the first time, and spares what was loaded.

    All of it is of one thread.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kinds: set[str] = set()
        self._thresholds: tuple[int, int, int] | None = None  # to be set again
        self._began_ns = 0

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
        """Settle once the run has written something; or has gone on for a minute without."""
        is_over = self._clock.monotonic_ns() - self._began_ns >= LONGEST_LOADING_NS
        if self._thresholds is not None and (has_written or is_over):
            self.settle()

    def settle(self) -> None:
        """What was to be loaded is."""
        if self._thresholds is not None:
            gc.freeze()
            gc.set_threshold(*self._thresholds)
            self._thresholds = None
