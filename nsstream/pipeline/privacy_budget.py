"""Privacy budget: what the jobs of a stream cost one unit, in any stretch of time and for ever. No files here.

Theory: a *cost* is what was done to the data of one stretch of time. Two costs of one learned thing (a digest) are
attempts at one job, which see the same units. Whether costs add up depends on the unit:

- A flow is what one five-tuple exchanges within a horizon. It is let into `most_chunks` jobs (`unit_uses`). So of all
  jobs the `most_chunks` costliest can concern one flow, however many there are: between disjoint flows composition is
  parallel, within a flow it is sequential.
- A host comes again. Its costs add up over all chunks; with `most_chunks`, over so many in a horizon.
- That holds of jobs whose units were let in so. Where some were not, or by another bound, the loosest counts.

The promise is of every window of one horizon of the *traffic's* time ("w-event", Kellaris et al. 2014): two streams
that differ in what one unit did within it give models that differ by (epsilon, delta) at most. So a cost counts in
every window that its stretch of time touches, whenever it was spent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.privacy import Mechanism, epsilon, merged
from nsstream.privacy.accountant import epsilon_of_curve, renyi_epsilon
from nsstream.privacy.renyi import curve

DAY_NS: Final = 86_400 * 10**9
FAR_NS: Final = 100 * 365 * DAY_NS  # that a forecast looks ahead
_LONG_AGO: Final = -(1 << 63)
_GRID: Final = 16  # times at which a forecast looks first
_CLOSE: Final = 0.01  # to which it is told, relative

Unit = Literal["host", "flow"]
Measure = Callable[[tuple[Mechanism, ...], float], float]
Uses = Counter[tuple[Mechanism, ...]]  # what was done with one digest, and of how many digests that is so


@dataclass(frozen=True, slots=True)
class Cost:
    """What was done, or may have been done, with the traffic of ``start_ns <= time < end_ns``."""

    digest: str
    start_ns: int
    end_ns: int
    mechanisms: tuple[Mechanism, ...]
    most_chunks: int | None = None  # jobs of a horizon that its units were let into, it too; None: any number


@dataclass(frozen=True, slots=True)
class Terms:
    """What is promised: so much in a horizon, so much for ever (None: no bound), so much in a job."""

    unit: Unit
    epsilon: float
    delta: float
    horizon_ns: int
    most_chunks: int | None
    for_ever: float | None
    chunk_epsilon: float


def most_of(costs: Iterable[Cost], terms: Terms) -> int | None:
    """In how many of these jobs one unit can be: as many as the loosest of their bounds lets; None: in all."""
    bounds = [cost.most_chunks for cost in costs]
    known = [bound for bound in bounds if bound is not None]
    return None if terms.most_chunks is None or len(known) < len(bounds) else max([terms.most_chunks, *known])


def uses_of(costs: Iterable[Cost]) -> Uses:
    """Costs, by what was done with each digest in all its attempts."""
    kinds, which, _ = _by_digest(costs)
    return _counted(kinds, which)


def total(uses: Uses, delta: float, most: int | None) -> float:
    """The epsilon of a unit that is in `most` of the uses, the worst that there are; None: in all."""
    return _total(uses, delta, most, _composed)


def _total(uses: Uses, delta: float, most: int | None, measure: Measure) -> float:
    every = measure(_flat(uses), delta)
    if most is None or uses.total() <= most:
        return every
    if len(uses) == 1:
        (one,) = uses
        return measure(_flat(Counter({one: most})), delta)
    # Which of them are the worst depends on the order of the divergence: so take the worst of each order.
    curves = np.stack([curve(each) for each in uses])  # (uses, orders)
    counts = np.array([min(uses[each], most) for each in uses])
    rows = np.repeat(curves, counts, axis=0)
    worst = np.sort(rows, axis=0)[-most:].sum(axis=0)
    return min(every, epsilon_of_curve(worst, delta))


def in_window(costs: Iterable[Cost], end_ns: int, horizon_ns: int) -> list[Cost]:
    """The costs that the window of one horizon up to a time touches."""
    return [cost for cost in costs if cost.start_ns < end_ns and cost.end_ns > end_ns - horizon_ns]


def worst_total(costs: Sequence[Cost], new: Cost, terms: Terms) -> float:
    """The largest total of a window that touches a new cost, which is counted in."""
    every = [*costs, new]
    near = in_window(every, new.end_ns + terms.horizon_ns, 2 * terms.horizon_ns + new.end_ns - new.start_ns)
    most = most_of(near, terms)
    bound = total(uses_of(near), terms.delta, most)
    if bound <= terms.epsilon:
        return bound  # as a rule: nothing is behind by a horizon
    ends = {new.start_ns + 1, *(cost.start_ns + 1 for cost in near if new.start_ns < cost.start_ns)}
    windows = (in_window(near, end, terms.horizon_ns) for end in ends if end - terms.horizon_ns < new.end_ns)
    return max(total(uses_of(window), terms.delta, most) for window in windows)


def total_now(costs: Sequence[Cost], now_ns: int, terms: Terms) -> float:
    """What the newest window holds."""
    window = in_window(costs, newest_ns(costs, now_ns), terms.horizon_ns)
    return total(uses_of(window), terms.delta, most_of(window, terms))


def total_for_ever(costs: Sequence[Cost], terms: Terms) -> float:
    """What all costs come to: a host comes again after any horizon, a flow does not."""
    return total(uses_of(costs), terms.delta, most_of(costs, terms) if terms.unit == "flow" else None)


def newest_ns(costs: Iterable[Cost], now_ns: int) -> int:
    """The later of now and the end of the newest cost: traffic of a time to come is learned where clocks differ."""
    return max([now_ns, *(cost.end_ns for cost in costs)])


def runs_out(costs: Sequence[Cost], now_ns: int, terms: Terms, *, for_ever: bool) -> int | None:
    """Nanoseconds until a budget is spent if it goes on as in the last day; None: it is not, for a hundred years.

    An estimate: the bound of `total` is taken to stay as much below that by Rényi divergences as it is now.
    """
    bound = terms.for_ever if for_ever else terms.epsilon
    if bound is None:
        return None
    at = newest_ns(costs, now_ns)
    day = in_window(costs, at, DAY_NS)
    if not day:
        return None
    rate = uses_of(day)
    span_ns = min(DAY_NS, at - min(cost.start_ns for cost in day))
    kinds, which, ends = _by_digest(costs)
    bounded = most_of(costs, terms)

    def spent(ahead_ns: int) -> float:
        left = _counted(kinds, which[ends > (_LONG_AGO if for_ever else at - terms.horizon_ns + ahead_ns)])
        to_come = Counter({done: count * ahead_ns // span_ns for done, count in rate.items()})
        most = None if for_ever and terms.unit != "flow" else bounded
        return _total(left + to_come, terms.delta, most, renyi_epsilon)

    now = total_for_ever(costs, terms) if for_ever else total_now(costs, now_ns, terms)
    bound *= spent(0) / now if now else 1.0  # what is told by divergences alone is that much larger
    far_ns = FAR_NS if for_ever else terms.horizon_ns
    looks = _doubling(span_ns, far_ns) if for_ever else [far_ns * step // _GRID for step in range(_GRID + 1)]
    return _first_beyond(spent, bound, looks)


def _by_digest(costs: Iterable[Cost]) -> tuple[list[tuple[Mechanism, ...]], NDArray[np.int64], NDArray[np.int64]]:
    """What was done with digests, which of that with each of them, and the ends of their traffic: (digests,)."""
    done: dict[str, tuple[Mechanism, ...]] = {}
    ends: dict[str, int] = {}
    for cost in costs:
        done[cost.digest] = done.get(cost.digest, ()) + cost.mechanisms
        ends[cost.digest] = cost.end_ns
    numbers: dict[tuple[Mechanism, ...], int] = {}
    which = [numbers.setdefault(_merged(each), len(numbers)) for each in done.values()]
    return list(numbers), np.array(which, np.int64), np.array(list(ends.values()), np.int64)


def _counted(kinds: list[tuple[Mechanism, ...]], which: NDArray[np.int64]) -> Uses:
    counts = np.bincount(which, minlength=len(kinds)).tolist()
    return Counter({done: count for done, count in zip(kinds, counts, strict=True) if count})


def _doubling(start: int, end: int) -> list[int]:
    looks = [0, start]
    while looks[-1] < end:
        looks.append(min(2 * looks[-1], end))
    return looks


def _first_beyond(spent: Callable[[int], float], bound: float, looks: Sequence[int]) -> int | None:
    low = 0
    for look in looks:
        if spent(look) > bound:
            high = look
            break
        low = look
    else:
        return None
    while high - low > _CLOSE * high:
        middle = (low + high) // 2
        low, high = (low, middle) if spent(middle) > bound else (middle, high)
    return high


def _flat(uses: Uses) -> tuple[Mechanism, ...]:
    counts: Counter[Mechanism] = Counter()
    for done, times in uses.items():
        for mechanism in done:
            counts[mechanism] += times
    return merged(counts)


@lru_cache(maxsize=4096)
def _merged(mechanisms: tuple[Mechanism, ...]) -> tuple[Mechanism, ...]:
    return merged(Counter(mechanisms))


@lru_cache(maxsize=1024)
def _composed(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    return epsilon(mechanisms, delta)
