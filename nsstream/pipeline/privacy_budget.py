"""Privacy budget: what the jobs of a stream cost one unit, in any stretch of time and for ever. No files here.

Theory: a *cost* is what was done to the data of one stretch of time. Two costs of one learned thing (a digest) are
attempts at one job, which see the same units. Whether costs add up depends on the unit:

- A flow is one conversation. It stands in few chunks, at most `most_chunks` of them, which whoever makes the training
  data sees to (`PrivacyLedger.admit`). So of all jobs the `most_chunks` costliest can concern one flow, however many
  there are: between disjoint flows composition is parallel, within a flow it is sequential.
- A host comes again. Its costs add up over all chunks; with `most_chunks`, over so many in a horizon.

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

from nsstream.privacy import Mechanism, epsilon, merged
from nsstream.privacy.accountant import epsilon_of_curve
from nsstream.privacy.renyi import curve

DAY_NS: Final = 86_400 * 10**9
FAR_NS: Final = 100 * 365 * DAY_NS  # that a forecast looks ahead
_GRID: Final = 16  # times at which a forecast looks first
_CLOSE: Final = 0.01  # to which it is told, relative

Unit = Literal["host", "flow"]
Uses = Counter[tuple[Mechanism, ...]]  # what was done with one digest, and of how many digests that is so


@dataclass(frozen=True, slots=True)
class Cost:
    """What was done, or may have been done, with the traffic of ``start_ns <= time < end_ns``."""

    digest: str
    start_ns: int
    end_ns: int
    mechanisms: tuple[Mechanism, ...]


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


def uses_of(costs: Iterable[Cost]) -> Uses:
    """Costs, by what was done with each digest in all its attempts."""
    by_digest: dict[str, tuple[Mechanism, ...]] = {}
    for cost in costs:
        by_digest[cost.digest] = by_digest.get(cost.digest, ()) + cost.mechanisms
    return Counter(_merged(done) for done in by_digest.values())


def total(uses: Uses, delta: float, most: int | None) -> float:
    """The epsilon of a unit that is in `most` of the uses, the worst that there are; None: in all."""
    every = _composed(_flat(uses), delta)
    if most is None or uses.total() <= most:
        return every
    if len(uses) == 1:
        (one,) = uses
        return _composed(_flat(Counter({one: most})), delta)
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
    most, every = terms.most_chunks, [*costs, new]
    near = in_window(every, new.end_ns + terms.horizon_ns, 2 * terms.horizon_ns + new.end_ns - new.start_ns)
    bound = total(uses_of(near), terms.delta, most)
    if bound <= terms.epsilon:
        return bound  # as a rule: nothing is behind by a horizon
    ends = {new.start_ns + 1, *(cost.start_ns + 1 for cost in near if new.start_ns < cost.start_ns)}
    windows = (in_window(near, end, terms.horizon_ns) for end in ends if end - terms.horizon_ns < new.end_ns)
    return max(total(uses_of(window), terms.delta, most) for window in windows)


def total_now(costs: Sequence[Cost], now_ns: int, terms: Terms) -> float:
    """What the newest window holds."""
    window = in_window(costs, newest_ns(costs, now_ns), terms.horizon_ns)
    return total(uses_of(window), terms.delta, terms.most_chunks)


def total_for_ever(costs: Iterable[Cost], terms: Terms) -> float:
    """What all costs come to: a host comes again after any horizon, a flow does not."""
    return total(uses_of(costs), terms.delta, terms.most_chunks if terms.unit == "flow" else None)


def newest_ns(costs: Iterable[Cost], now_ns: int) -> int:
    """The later of now and the end of the newest cost: traffic of a time to come is learned where clocks differ."""
    return max([now_ns, *(cost.end_ns for cost in costs)])


def runs_out(costs: Sequence[Cost], now_ns: int, terms: Terms, *, for_ever: bool) -> int | None:
    """Nanoseconds until a budget is spent if it goes on as in the last day; None: it is not, for a hundred years."""
    bound = terms.for_ever if for_ever else terms.epsilon
    if bound is None:
        return None
    at = newest_ns(costs, now_ns)
    day = in_window(costs, at, DAY_NS)
    if not day:
        return None
    rate = uses_of(day)
    span_ns = min(DAY_NS, at - min(cost.start_ns for cost in day))

    def spent(ahead_ns: int) -> float:
        left = costs if for_ever else in_window(costs, at, terms.horizon_ns - ahead_ns) if ahead_ns < far_ns else []
        to_come = Counter({done: count * ahead_ns // span_ns for done, count in rate.items()})
        most = (terms.most_chunks if terms.unit == "flow" else None) if for_ever else terms.most_chunks
        return total(uses_of(left) + to_come, terms.delta, most)

    far_ns = FAR_NS if for_ever else terms.horizon_ns
    looks = _doubling(span_ns, far_ns) if for_ever else [far_ns * step // _GRID for step in range(_GRID + 1)]
    return _first_beyond(spent, bound, looks)


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
