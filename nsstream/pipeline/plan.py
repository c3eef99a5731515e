"""The plan of a run: how long a chunk is, which are learned together, and who gets how much time. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from typing import Final

from nsstream.errors import InputError

BIN_S: Final = 10  # every length below is a multiple of it
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_S: Final = (1 << 63) // 10**9  # of times in nanoseconds
LENGTHS_S: Final = (
    *(10, 30, 60, 120, 300, 600, 900, 1800, _HOUR_S, 2 * _HOUR_S, 3 * _HOUR_S, 6 * _HOUR_S, 12 * _HOUR_S),
    *(_DAY_S, 7 * _DAY_S, 28 * _DAY_S, 364 * _DAY_S, 3640 * _DAY_S),
)
MOST_CHUNKS: Final = 8
MOST_PACKETS: Final = 50_000  # of a chunk, where that can be; within it, more are learned better
MOST_SILENT: Final = 0.5  # of a chunk's span: what is silent for longer is better two chunks
MOST_SPANS: Final = 8  # of the trace, that a chunk is long

SEED_SHARE: Final = 0.4  # of the training time, where there are other chunks than the seed's
FINE_TUNE_STEPS_SHARE: Final = 0.25  # of the seed's steps


def choose_length_s(packets_by_bin: Mapping[int, int]) -> int:
    """The chunk length for a trace, from its packets by 10 s of the UTC grid.

    The shortest of the lengths that give the fewest chunks with packets, as long as none has more than `MOST_PACKETS`
    or is silent for more than `MOST_SILENT` of its span. Where there is no such length, the shortest that gives at most
    `MOST_CHUNKS`.
    """
    bins = sorted(packets_by_bin)
    span_s = BIN_S * (bins[-1] + 1 - bins[0]) if bins else 0
    found: list[tuple[bool, int, int]] = []
    for length_s in LENGTHS_S:
        chunks = [list(group) for _, group in groupby(bins, (length_s // BIN_S).__rfloordiv__)]
        if len(chunks) <= MOST_CHUNKS:
            suits = length_s <= MOST_SPANS * span_s and all(_is_one(chunk, packets_by_bin) for chunk in chunks)
            found.append((not suits, len(chunks) if suits else 0, length_s))
    return min(found)[2] if found else LENGTHS_S[-1]


def _is_one(chunk: Sequence[int], packets_by_bin: Mapping[int, int]) -> bool:
    """Whether these bins are well learned as one chunk: not too many packets, no long silence."""
    silence = max((later - bin_ - 1 for bin_, later in pairwise(chunk)), default=0)
    return sum(packets_by_bin[bin_] for bin_ in chunk) <= MOST_PACKETS and silence <= MOST_SILENT * (
        chunk[-1] + 1 - chunk[0]
    )


def merge_small(
    conversation_counts: Sequence[int], gaps_ns: Sequence[int], *, fewest: int, widest_gap_ns: int
) -> list[range]:
    """Which neighbouring chunks to learn as one, so that each holds at least `fewest` conversations.

    `gaps_ns[i]` lies between chunks i and i + 1; neighbours further apart than `widest_gap_ns` are never merged, so a
    small chunk that stands alone stays small. The smallest is merged first, over its narrower gap.
    """
    groups = [range(i, i + 1) for i in range(len(conversation_counts))]
    while True:
        small = sorted(
            (total, at)
            for at, group in enumerate(groups)
            if (total := sum(conversation_counts[group.start : group.stop])) < fewest
        )
        for _, at in small:
            sides = [(gaps_ns[groups[left].stop - 1], left) for left in (at - 1, at) if 0 <= left < len(groups) - 1]
            near = [side for side in sides if side[0] <= widest_gap_ns]
            if near:
                left = min(near)[1]
                groups[left : left + 2] = [range(groups[left].start, groups[left + 1].stop)]
                break
        else:
            return groups


def choose_seed(conversation_counts: Sequence[int], *, fewest: int) -> int:
    """The chunk that the seed model learns: the first with at least `fewest` conversations, else the largest."""
    for at, count in enumerate(conversation_counts):
        if count >= fewest:
            return at
    return max(range(len(conversation_counts)), key=lambda at: (conversation_counts[at], -at))


def make_lanes(sizes: Sequence[int], *, seed_at: int, workers: int) -> list[list[int]]:
    """Which chunks each of at most `workers` workers fine-tunes, one after another; lanes of about the same size."""
    others = sorted((at for at in range(len(sizes)) if at != seed_at), key=lambda at: (-sizes[at], at))
    lanes: list[list[int]] = [[] for _ in range(min(workers, len(others)))]
    for at in others:
        min(lanes, key=lambda lane: sum(sizes[other] for other in lane)).append(at)
    return lanes


def split_time(total_s: float, sizes: Sequence[int], lanes: Sequence[Sequence[int]], *, seed_at: int) -> list[float]:
    """Seconds of training for each chunk: `SEED_SHARE` for the seed, then each lane shares the rest by size.

    Seed first and then all lanes at once take `total_s`, and every lane ends when the others do.
    """
    shares_s = [0.0] * len(sizes)
    shares_s[seed_at] = SEED_SHARE * total_s if lanes else total_s
    for lane in lanes:
        for at in lane:
            shares_s[at] = (1 - SEED_SHARE) * total_s * sizes[at] / sum(sizes[other] for other in lane)
    return shares_s


def split_steps(steps: int, count: int, *, seed_at: int) -> list[int]:
    """Training steps for each chunk: `steps` for the seed, a quarter of that for each fine-tune, and at least one."""
    return [steps if at == seed_at else max(1, round(FINE_TUNE_STEPS_SHARE * steps)) for at in range(count)]


def parse_duration_s(text: str) -> float:
    """Seconds of a duration such as ``90``, ``60s``, ``5m``, ``1.5h`` or ``7d``; raises InputError otherwise."""
    units = {"s": 1, "m": 60, "h": _HOUR_S, "d": _DAY_S}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not number.replace(".", "", 1).isdecimal() or not number.isascii():
        raise InputError(f"{text!r} is not a duration; write it as 60s, 5m, 1.5h or 7d")
    return float(number) * units[unit]


def parse_interval_ns(text: str) -> tuple[int, int]:
    """[start, end) of an interval of ISO 8601: ``2026-11-21T08:00/2026-11-21T18:00``, or ``2026-11-21/24h``.

    Whole seconds; UTC unless it names another zone. Raises InputError otherwise.
    """
    start_text, _, end_text = text.partition("/")
    try:
        start_s = _second_of(start_text)
        try:
            end_s = _second_of(end_text)
        except ValueError:
            length_s = parse_duration_s(end_text)
            end_s = start_s + int(length_s)
            if length_s != int(length_s):
                raise
    except (ValueError, OverflowError, InputError) as err:
        raise InputError(
            f"{text!r} is no interval; write it as START/END or START/LENGTH in whole seconds of UTC, "
            "such as 2026-11-21T08:00/2026-11-21T18:00 or 2026-11-21/24h"
        ) from err
    if not 0 <= start_s < end_s < _LAST_S:
        raise InputError(f"{text!r}: an interval ends after it begins, and is within 1970 to 2262")
    return start_s * 10**9, end_s * 10**9


def _second_of(text: str) -> int:
    """Seconds since the Unix epoch of a date or a time of ISO 8601; raises ValueError."""
    at = datetime.fromisoformat(text)
    since = (at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH
    if since % timedelta(seconds=1):
        raise ValueError(f"{text!r} is no whole second")
    return since // timedelta(seconds=1)


def parse_octets(text: str) -> int:
    """Octets of a size such as ``512M``, ``1.5G`` or ``1000``; raises InputError otherwise."""
    units = {"k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "")
    if not number.replace(".", "", 1).isdecimal() or not number.isascii():
        raise InputError(f"{text!r} is not a size; write it as 512M, 1.5G or 2T")
    return max(1, round(float(number) * units.get(unit, 1)))
