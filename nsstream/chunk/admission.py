"""Admission: which rows an interval takes, row by row, so that no cut of the stream into batches changes anything.

Rules, for a row of time t, with `latest` the latest time admitted so far:

- Out of [1970, 2262): malformed.
- The clock says what is possible, where there is one: t beyond `now + allowed_future` is future.
- Where there is none, the stream's own progress does: rows beyond ``latest + allowed_future`` are undecided. Once there
  are `witnesses` of them in a row, the stream has really jumped, and the first is admitted; the others are judged anew.
  A row contradicts those undecided ones that are further than `allowed_future` ahead of it: they are future. One that
  is not beyond makes all of them future. At the very start all rows are so judged. So one absurd time cannot make a
  whole stream late, and a stream of few rows, each hours behind the other, is none the worse.
- A row whose interval has closed before it came is late; the watermark, ``latest - lateness``, closes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

ADMITTED: Final = 0
LATE: Final = 1
FUTURE: Final = 2
MALFORMED: Final = 3
UNDECIDED: Final = 4
_UNKNOWN: Final = 5


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """What is late and what is future, in ns."""

    length_ns: int
    last_time_ns: int
    allowed_lateness_ns: int
    allowed_future_ns: int | None  # None: nothing is future
    witnesses: int  # rows that must attest a jump


def judge(
    time_ns: NDArray[np.int64], rules: AdmissionRules, latest_ns: int, closed_before: int, now_ns: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """Judge rows in order.

    Args:
        time_ns: (n,) undecided rows of before first.
        rules: what is late and what is future.
        latest_ns: the latest time admitted so far, -1 before any.
        closed_before: intervals with a smaller index are closed.
        now_ns: the clock, None where the stream's own progress judges.

    Returns:
        fates (n,); (n,) what `closed_before` is once a row was judged: rises with the admitted rows; the latest time.
        Undecided rows stand behind all admitted ones.
    """
    allowed = -1 if rules.allowed_future_ns is None else rules.allowed_future_ns
    limit = rules.last_time_ns
    by_progress = allowed >= 0 and now_ns is None
    if allowed >= 0 and now_ns is not None:
        limit = min(limit, now_ns + allowed)
    return _judge(
        time_ns, latest_ns, closed_before, rules.last_time_ns, limit, allowed, by_progress, rules.witnesses,
        rules.allowed_lateness_ns, rules.length_ns,
    )  # fmt: skip


@njit(cache=True)
def _judge(
    time_ns: NDArray[np.int64],
    latest: int,
    closed_before: int,
    last_time: int,
    limit: int,
    allowed: int,
    by_progress: bool,
    witnesses: int,
    lateness: int,
    length: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    n = len(time_ns)
    fate = np.full(n, _UNKNOWN, np.uint8)
    closed = np.empty(n, np.int64)
    group = 0  # the first undecided row, where there is one
    count = 0  # undecided rows
    highest = 0  # of them
    i = 0
    while i < n:
        if fate[i] != _UNKNOWN:  # decided before the stream was taken up again behind an admitted row
            i += 1
            continue
        t = time_ns[i]
        closed[i] = closed_before
        if t < 0 or t > last_time:
            fate[i] = MALFORMED
            i += 1
            continue
        if t > limit:
            fate[i] = FUTURE
            i += 1
            continue
        admitted = i
        if by_progress and (latest < 0 or t - latest > allowed):
            if count > 0 and highest - t > allowed:
                group, highest, count = _contradict(time_ns, fate, group, i, t + allowed)
            if count == 0:
                group, highest = i, t
            count += 1
            highest = max(highest, t)
            fate[i] = UNDECIDED
            if count < witnesses:
                i += 1
                continue
            admitted = group
            for k in range(group + 1, i + 1):
                if fate[k] == UNDECIDED:
                    fate[k] = _UNKNOWN
        elif count > 0:
            _contradict(time_ns, fate, group, i, -1)
        count = 0
        latest = max(latest, time_ns[admitted])
        closed_before = max(closed_before, max(latest - lateness, 0) // length)
        closed[admitted] = closed_before
        fate[admitted] = LATE if time_ns[admitted] // length < closed_before else ADMITTED
        i = admitted + 1
    return fate, closed, latest


@njit(cache=True)
def _contradict(
    time_ns: NDArray[np.int64], fate: NDArray[np.uint8], group: int, end: int, limit: int
) -> tuple[int, int, int]:
    """Make the undecided rows of ``group:end`` beyond a limit future; the first of the others, their highest, count."""
    first, highest, count = end, 0, 0
    for k in range(end - 1, group - 1, -1):
        if fate[k] != UNDECIDED:
            continue
        if time_ns[k] > limit:
            fate[k] = FUTURE
        else:
            first, highest, count = k, max(highest, time_ns[k]), count + 1
    return first, highest, count
