"""Pacer: when frames are due. Absolute deadlines, so that no delay adds up; the rate may be changed at any moment.

A frame has a position: its own time (at a multiple of the twin's pace), the number of frames before it (packets a
second), or their bits (bits a second). Positions fall due on a line through the anchor, a position and the clock's time
for it::

    due = anchor_ns + (position - anchor) / speed

What is late is due at once, and does not move what follows. A change of the rate, a pause and a seek move the anchor
to where the line is at that instant, but not beyond the next frame: what remains of a wait is scaled, and what was late
is forgiven, so that the new rate holds from now on. A change to another kind of position counts from the frame before.

`due` is for the playing thread; the rest may be called from any. Whoever changes something wakes the wait of `due`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.clock import Clock
from nsstream.replay.rate import BitRate, PacketRate, Rate

MAX_BURST: Final = 4096  # frames handed out at once, so that a stop and a change of the rate are seen soon
LONGEST_WAIT_S: Final = 1.0  # a longer wait is taken in parts

_NONE: Final = np.empty(0, np.int64)


class Pacer:
    """Says which frames may go, and when.

    Args:
        rate: how fast to begin with.
        clock: its monotonic time is used.
        wait: waits for so many seconds, or less; True: told to stop, so that `due` gives up.
    """

    def __init__(self, rate: Rate, clock: Clock, wait: Callable[[float], bool]) -> None:
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._rate = rate
        self._speed = _speed(rate)  # positions a nanosecond, None: nothing is waited for
        self._anchor: float | None = None  # None: set by the next frame
        self._anchor_ns = 0
        self._is_paused = False
        self._next: float | None = None  # position of the next frame, None: not known yet
        self._next_time_ns = 0  # and its time, as far as it is known
        self._origin_ns = 0  # about the frames' times, so that positions are small enough for a float
        self._has_origin = False
        self._last_due_ns: int | None = None  # of the newest frame handed out, as is what follows
        self._last_time_ns = 0
        self._last_bits = 0
        self._frame_count = 0
        self._bit_count = 0

    @property
    def rate(self) -> Rate:
        """How fast it goes now."""
        return self._rate

    @property
    def is_paused(self) -> bool:
        """Whether nothing is due until `resume`."""
        return self._is_paused

    @property
    def late_s(self) -> float:
        """How long the next frame has been due; 0.0 where it is not yet, or at the rate "max"."""
        with self._lock:
            if self._anchor is None or self._next is None or self._is_paused or self._speed is None:
                return 0.0
            return max(self._clock.monotonic_ns() - float(self._due_ns(self._next)), 0.0) * 1e-9

    @property
    def twin_now_ns(self) -> int | None:
        """The twin's time while a frame is waited for: between the last one's and that of the next, by the clock.

        None where nothing is waited for, or where that is not known: paused, before the first frame, behind a seek.
        """
        with self._lock:
            if self._anchor is None or self._next is None or self._speed is None or self._is_paused:
                return None
            if self._last_due_ns is None:
                return None
            waits_ns = float(self._due_ns(self._next)) - self._last_due_ns
            waited_ns = min(self._clock.monotonic_ns() - self._last_due_ns, waits_ns)
            if waited_ns <= 0:
                return self._last_time_ns
            left_ns = round((self._next_time_ns - self._last_time_ns) * (1 - waited_ns / waits_ns))
            return max(self._next_time_ns - max(left_ns, 1), self._last_time_ns)

    def set_rate(self, rate: Rate) -> None:
        """Go on at another rate, from now on; the one that holds already changes nothing."""
        with self._lock:
            if rate == self._rate:
                return
            if type(rate) is type(self._rate):
                self._hold()
            else:
                self._anchor = self._next = None
            self._rate, self._speed = rate, _speed(rate)

    def pause(self) -> None:
        """Let nothing be due until `resume`."""
        with self._lock:
            self._hold()
            self._is_paused = True

    def resume(self) -> None:
        """Go on where `pause` held the line."""
        with self._lock:
            if self._is_paused:
                self._is_paused = False
                self._anchor_ns = self._clock.monotonic_ns()
                if self._last_due_ns is not None:
                    self._last_due_ns = self._anchor_ns

    def restart(self) -> None:
        """Let the next frame be due at once, whatever its time: after a seek."""
        with self._lock:
            self._anchor = self._next = self._last_due_ns = None

    def due(self, times_ns: NDArray[np.int64], offset: NDArray[np.int64], ahead_ns: int = 0) -> NDArray[np.int64]:
        """Wait until the first of these frames is due; gives when the leading ones that are fall due.

        Args:
            times_ns: (m,) rising, m >= 1, not before those of the call before unless `restart` came between.
            offset: (m + 1,) where frame i has its octets, for the bits.
            ahead_ns: frames that fall due within so many nanoseconds from now count as due; the wait ends when the
                first is within half of it.

        Returns (k,) times of the clock, k <= MAX_BURST, 0 each at the rate "max"; k = 0: told to stop while waiting.
        """
        times_ns, offset = times_ns[:MAX_BURST], offset[: MAX_BURST + 1]
        while True:
            with self._lock:
                wait_s, due_ns = self._take(times_ns, offset, ahead_ns)
            if len(due_ns) or self._wait(wait_s):
                return due_ns

    def _take(
        self, times_ns: NDArray[np.int64], offset: NDArray[np.int64], ahead_ns: int
    ) -> tuple[float, NDArray[np.int64]]:
        """How long to wait, or the times of those that need no wait and are thereby handed out."""
        if self._is_paused:
            return LONGEST_WAIT_S, _NONE
        now_ns = self._clock.monotonic_ns()
        if not self._has_origin:
            self._origin_ns, self._has_origin = int(times_ns[0]), True
        if self._speed is None:
            self._hand_out(times_ns, offset, len(times_ns), now_ns)
            return 0.0, np.zeros(len(times_ns), np.int64)
        positions = self._positions(times_ns, offset)
        self._next, self._next_time_ns = float(positions[0]), int(times_ns[0])
        self._set_anchor(self._next, now_ns)
        wait_ns = self._due_ns(self._next) - ahead_ns / 2 - now_ns
        if wait_ns > 0:
            return min(wait_ns * 1e-9, LONGEST_WAIT_S), _NONE
        deadlines = self._due_ns(positions)
        # The first is due by the test above, whatever the last digits of a float say.
        count = max(int(np.searchsorted(deadlines, now_ns + ahead_ns, side="right")), 1)
        due_ns = deadlines[:count].astype(np.int64)
        self._hand_out(times_ns, offset, count, int(due_ns[-1]))
        if count < len(positions):
            self._next, self._next_time_ns = float(positions[count]), int(times_ns[count])
        return 0.0, due_ns

    def _positions(self, times_ns: NDArray[np.int64], offset: NDArray[np.int64]) -> NDArray[np.float64]:
        positions: NDArray[np.float64]
        if isinstance(self._rate, PacketRate):
            positions = self._frame_count + np.arange(len(times_ns), dtype=np.float64)
        elif isinstance(self._rate, BitRate):
            positions = self._bit_count + (offset[:-1] - offset[0]) * 8.0
        else:
            positions = (times_ns - self._origin_ns).astype(np.float64)
        return positions

    def _set_anchor(self, position: float, now_ns: int) -> None:
        """Begin a line at the frame before, or at this one where there is none or it would be late already."""
        if self._anchor is not None:
            # Where the next frame was not known when the line was held, the line may have run past it.
            self._anchor = min(self._anchor, position)
            return
        self._anchor, self._anchor_ns = position, now_ns
        if self._last_due_ns is not None:
            if isinstance(self._rate, PacketRate):
                self._anchor = position - 1
            elif isinstance(self._rate, BitRate):
                self._anchor = position - self._last_bits
            else:
                self._anchor = float(self._last_time_ns - self._origin_ns)
            self._anchor_ns = self._last_due_ns
            if self._due_ns(position) < now_ns:
                self._anchor, self._anchor_ns = position, now_ns

    def _hold(self) -> None:
        """Move the anchor to where the line is now, and not beyond the next frame."""
        if self._anchor is None or self._speed is None or self._is_paused:
            return
        now_ns = self._clock.monotonic_ns()
        position = self._anchor + (now_ns - self._anchor_ns) * self._speed
        self._anchor = position if self._next is None else min(position, self._next)
        self._anchor_ns = now_ns

    def _due_ns(self, position: Any) -> Any:
        """When a position, or an array of them, falls due."""
        assert self._anchor is not None
        assert self._speed is not None
        return self._anchor_ns + (position - self._anchor) / self._speed

    def _hand_out(self, times_ns: NDArray[np.int64], offset: NDArray[np.int64], count: int, last_due_ns: int) -> None:
        self._frame_count += count
        self._bit_count += 8 * int(offset[count] - offset[0])
        self._last_bits = 8 * int(offset[count] - offset[count - 1])
        self._last_time_ns = int(times_ns[count - 1])
        self._last_due_ns = last_due_ns
        self._next = None


def _speed(rate: Rate) -> float | None:
    if isinstance(rate, PacketRate):
        return rate.packets_per_s * 1e-9
    if isinstance(rate, BitRate):
        return rate.bits_per_s * 1e-9
    return None if rate == "max" else float(rate)
