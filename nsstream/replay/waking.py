"""Whether who waits for an instant sleeps until then, and how long before it the rest is waited awake.

A processor that sleeps takes tens of microseconds to wake, and now and then hundreds (in a virtual machine, 2026-11).
So a wait ends awake: by what all but few wakings take, as is learned from each, but by `spin_ns` at most. With a
`spin_ns` as long as the longest wait there is no sleep at all, and nothing to wake from.

That keeps time best while nobody else wants the processor, and worst when somebody does: then who never sleeps loses it
for milliseconds, and who has slept gets it back at once. So an adaptive waiter stays awake as long as less than a
hundredth of its time is taken from it, which it sees by its clock; else it sleeps for a quarter of a second, twice as
long each time that it finds nothing changed, and then tries again.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

LEAST_SPIN_NS: Final = 500_000  # of an adaptive waiter that sleeps
AWAKE_NS: Final = 20_000_000  # no wait is longer
WINDOW_NS: Final = 1_000_000_000
MOST_TAKEN_NS: Final = WINDOW_NS // 100
LEAST_REST_NS: Final = 250_000_000
MOST_REST_NS: Final = 16_000_000_000

_MARGIN: Final = 0
_SLEPT_UNTIL: Final = 1  # 0: it did not sleep
_AWAKE_AT: Final = 2  # when it last looked at the clock and went on waiting awake; 0: it did something else
_WINDOW: Final = 3  # when what was taken is counted from
_TAKEN: Final = 4
_RESTS_UNTIL: Final = 5
_REST: Final = 6
_WORDS: Final = 7

_MARGIN_FALL_NS: Final = 20  # after a sleep that ended within the margin
_MARGIN_RISE_NS: Final = 499 * _MARGIN_FALL_NS  # after one that did not: so the margin is the 99.8th percentile
_STEP_NS: Final = 20_000  # between two looks at the clock; what is longer was taken


@njit(cache=True, nogil=True)
def new_waiter(spin_ns: int) -> NDArray[np.int64]:
    """What `lead_ns` knows of one that waits."""
    waiter = np.zeros(_WORDS, np.int64)
    waiter[_MARGIN] = spin_ns // 2
    waiter[_REST] = LEAST_REST_NS
    return waiter


@njit(cache=True, nogil=True)
def lead_ns(waiter: NDArray[np.int64], now_ns: int, spin_ns: int, is_adaptive: bool) -> int:
    """How long before its instant a wait has to end awake, from what this reading of the clock tells."""
    if waiter[_SLEPT_UNTIL]:
        is_late = now_ns - waiter[_SLEPT_UNTIL] > waiter[_MARGIN]
        waiter[_MARGIN] += _MARGIN_RISE_NS if is_late else -_MARGIN_FALL_NS
        waiter[_MARGIN] = min(max(waiter[_MARGIN], 0), spin_ns)
        waiter[_SLEPT_UNTIL] = 0
    if not is_adaptive:
        return int(waiter[_MARGIN])
    is_resting = now_ns < waiter[_RESTS_UNTIL]
    if waiter[_AWAKE_AT]:
        step_ns = now_ns - waiter[_AWAKE_AT]
        if step_ns > _STEP_NS and not is_resting:
            waiter[_TAKEN] += step_ns
        waiter[_AWAKE_AT] = 0
    if waiter[_TAKEN] > MOST_TAKEN_NS:
        waiter[_RESTS_UNTIL] = now_ns + waiter[_REST]
        waiter[_REST] = min(2 * waiter[_REST], MOST_REST_NS)
        waiter[_WINDOW], waiter[_TAKEN] = waiter[_RESTS_UNTIL], 0
        is_resting = True
    elif now_ns - waiter[_WINDOW] > WINDOW_NS:
        waiter[_REST] = max(waiter[_REST] // 2, LEAST_REST_NS)
        waiter[_WINDOW], waiter[_TAKEN] = now_ns, 0
    return int(waiter[_MARGIN]) if is_resting else AWAKE_NS


@njit(cache=True, nogil=True)
def note_sleep(waiter: NDArray[np.int64], until_ns: int) -> None:
    """It sleeps until then; the next reading of the clock is when it woke."""
    waiter[_SLEPT_UNTIL] = until_ns


@njit(cache=True, nogil=True)
def note_awake(waiter: NDArray[np.int64], now_ns: int) -> None:
    """It waits awake: the next reading of the clock comes at once, or the processor was taken."""
    waiter[_AWAKE_AT] = now_ns
