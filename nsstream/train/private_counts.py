"""What is counted of a private chunk: one vector of whole numbers, each unit's part of it bounded, noised once.

    units | conversations | packets | by moment | by service | by responder | by length

Each block adds one a conversation, a unit has at most so many conversations, and its packets count to a bound; so one
unit's part of a block is at most `most` conversations long (l2, since it is in l1), and of all blocks sqrt(blocks)
times that. What follows from the noisy vector (`told`) costs nothing more: bins that stand out of the noise are
believed, the others have the seed's shares of what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.bins import Bins
from nsstream.encode.codec import Codec, slice_of, slice_starts, start_gaps
from nsstream.encode.schema import ATTRIBUTE_INDEX, ATTRIBUTES, LENGTH_GRID, MOMENTS, SLICES, START_GAP_GRID
from nsstream.encode.tokens import ChunkTokens, moment_of
from nsstream.encode.urns import Pairs, Urns
from nsstream.train.private_units import Units

GRAIN: Final = 64  # a conversation counts for so many, so that as many packets can count for one
_SERVICE, _RESPONDER = ATTRIBUTE_INDEX["service"], ATTRIBUTE_INDEX["responder_host"]
SIZES: Final = (1, 1, 1, MOMENTS, ATTRIBUTES["service"], ATTRIBUTES["responder_host"], len(LENGTH_GRID))
_FEWEST: Final = 8  # conversations that a chunk is taken to have at least
_MOST: Final = 1 << 22

Noisy = Callable[[NDArray[np.int64], float, float], NDArray[np.int64]]  # counts, noise multiplier, sensitivity


@dataclass(frozen=True)
class Told:
    """What is known of a private chunk: noisy, or following from what is.

    Attributes:
        units: how many there are about.
        codec: that its conversations are encoded by.
    """

    units: float
    codec: Codec


def sensitivity(most: int) -> float:
    """The most that one unit with so many conversations changes the vector, in l2."""
    return GRAIN * most * math.sqrt(len(SIZES))


def count_units(tokens: ChunkTokens, units: Units, codec: Codec, most: int) -> NDArray[np.int64]:
    """The vector of the units' conversations `tokens`, without noise: a row a unit would add `sensitivity` at most."""
    packets = np.zeros(len(units), np.int64)
    np.add.at(packets, units.owner, np.diff(tokens.packet_offset))
    moment = moment_of(slice_of(tokens.start_ns, codec.first_ns, codec.last_ns))
    said = (moment, tokens.attributes[:, _SERVICE], tokens.attributes[:, _RESPONDER], _lengths(tokens))
    totals = (
        np.array([GRAIN * most * len(units)]),
        np.array([GRAIN * len(tokens)]),
        np.array([np.minimum(packets, GRAIN * most).sum()]),
    )
    counted = [GRAIN * np.bincount(s, minlength=size) for s, size in zip(said, SIZES[3:], strict=True)]
    return np.concatenate([*totals, *counted]).astype(np.int64)


def tell(noisy: NDArray[np.int64], noise_multiplier: float, most: int, codec: Codec, seed: Codec) -> Told:
    """What the noisy vector says of the chunk, with the seed's shares where the noise hides what the chunk has."""
    std = noise_multiplier * sensitivity(most) / GRAIN
    ends = np.cumsum(SIZES)[:-1]
    units, conversations, packets, moments, services, responders, lengths = np.split(noisy / GRAIN, ends)
    total = int(np.clip(round(float(conversations[0])), _FEWEST, _MOST))
    by_moment = _settle(moments, np.ones(MOMENTS), total, std)
    by_service = _settle(services, _counts_of(seed.urns.services, ATTRIBUTES["service"]) * _active(codec), total, std)
    known = _counts_of(seed.urns.servers, ATTRIBUTES["responder_host"])
    by_responder = _settle(np.where(known > 0, responders, 0), known, total, std)
    by_length = _settle(lengths, seed.length.counts.astype(np.float64), total, std)
    initiators = _whole(_counts_of(seed.urns.hosts, ATTRIBUTES["initiator_host"]), total)
    nothing = np.zeros((0, 3), np.int64)
    urns = Urns(
        hosts=_spread(by_moment, initiators),
        services=_spread(by_moment, by_service),
        peers=nothing,
        servers=_spread(by_moment, by_responder),
        ttls=nothing,
        lengths=nothing,
        volumes=_spread(by_moment, by_length),
    )
    profile = np.repeat(by_moment, SLICES // MOMENTS)
    at = np.tile(np.arange(SLICES // MOMENTS), MOMENTS)
    profile = (profile * (at + 1)) // (SLICES // MOMENTS) - (profile * at) // (SLICES // MOMENTS)
    times = total / max(int(seed.profile.sum()), 1)
    endings = replace(
        seed.endings,
        reopens=math.ceil(seed.endings.reopens * times),
        events=tuple(math.ceil(n * times) for n in seed.endings.events),
    )
    made = replace(
        codec,
        profile=profile,
        urns=urns,
        packet_count=int(np.clip(round(float(packets[0]) * GRAIN), total, GRAIN * total)),
        length=replace(codec.length, counts=by_length),
        start_gap=_gaps_by_chance(codec, profile),
        endings=endings,
    )
    return Told(float(np.clip(units[0] / most, 1.0, _MOST)), made)


def _lengths(tokens: ChunkTokens) -> NDArray[np.int64]:
    return LENGTH_GRID.tokens(np.diff(tokens.packet_offset))


def _active(codec: Codec) -> NDArray[np.float64]:
    return codec.service.is_active().astype(np.float64)


def _counts_of(pairs: Pairs, size: int) -> NDArray[np.float64]:
    """How often a seed's urn says each token: (size,)."""
    return np.bincount(pairs[:, 1], pairs[:, 2], minlength=size).astype(np.float64)


def _settle(noisy: NDArray[np.float64], known: NDArray[np.float64], total: int, std: float) -> NDArray[np.int64]:
    """Whole counts (b,) that add up to `total`.

    Bins above all that noise alone is likely to make are believed; what they leave is shared by what the seed counted,
    and no bin has more of it than noise could hide.
    """
    hidden = std * math.sqrt(2 * math.log(max(len(noisy), 2)))
    found = np.where(noisy > hidden, noisy, 0.0)
    rest = np.where(found > 0, 0.0, known)
    left = max(total - found.sum(), 0.0)
    if rest.sum() > 0:
        found += np.minimum(left * rest / rest.sum(), max(hidden, 1.0))
    return _whole(found if found.sum() > 0 else np.ones(len(noisy)), total)


def _whole(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers (b,) in proportion to shares that are not all 0, of a given sum."""
    exact = np.cumsum(shares) * (total / shares.sum())
    return np.asarray(np.diff(np.rint(exact), prepend=0.0), np.int64)


def _spread(given: NDArray[np.int64], said: NDArray[np.int64]) -> Pairs:
    """Pairs of an urn: so many a given (g,), each in the proportions of what is said (b,)."""
    ends, total = np.cumsum(said), max(int(said.sum()), 1)
    steps = np.concatenate([[0], np.cumsum(given)])
    upto = (steps[:, None] * said[None, :] + (ends - said)[None, :] % total) // total  # (g + 1, b)
    counts = np.diff(upto, axis=0)
    rows, columns = np.nonzero(counts)
    return np.stack([rows, columns, counts[rows, columns]], axis=1).astype(np.int64).reshape(-1, 3)


def _gaps_by_chance(codec: Codec, profile: NDArray[np.int64]) -> Bins:
    """Gaps of starts that are as many a slice as the profile says, each at any time in its slice."""
    rng, edges = np.random.default_rng(0), slice_starts(codec.first_ns, codec.last_ns)
    where = np.repeat(np.arange(SLICES), profile)
    starts = np.sort(edges[where] + (rng.random(len(where)) * (edges[where + 1] - edges[where])).astype(np.int64))
    return Bins.fit(START_GAP_GRID, start_gaps(starts, codec.first_ns, codec.last_ns))
