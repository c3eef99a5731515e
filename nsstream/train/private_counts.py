"""What is counted of a private chunk: one vector of whole numbers, each unit's part of it bounded, noised once.

    units | conversations | by moment | by service | by responder | by length

Each block adds one a conversation (the first, what a full unit would add), and a unit has at most so many of them; so
one unit's part of a block is at most `most` conversations long (l2, since it is in l1), and of all blocks sqrt(blocks)
times that. What follows from the noisy vector (`tell`) costs nothing more: each count is drawn towards the seed's share
of conversations, the further the more noise there is beside it. The number of packets follows from lengths.
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
from nsstream.encode.vocabulary import Vocabulary
from nsstream.train.private_units import Units
from nsstream.train.private_urns import LOUD, Known, counts_of, private_urns, whole

_SERVICE, _RESPONDER = ATTRIBUTE_INDEX["service"], ATTRIBUTE_INDEX["responder_host"]
SIZES: Final = (1, 1, MOMENTS, ATTRIBUTES["service"], ATTRIBUTES["responder_host"], len(LENGTH_GRID))
_DOUBT: Final = 100  # chunks, in fewer than one of which noise makes a bin that the seed does not know
_FEWEST: Final = 8  # conversations that a chunk is taken to have at least
_MOST: Final = 1 << 22

Noisy = Callable[[NDArray[np.int64], float, float], NDArray[np.int64]]  # counts, noise multiplier, sensitivity


@dataclass(frozen=True)
class Told:
    """What is known of a private chunk: noisy, or following from what is.

    Attributes:
        units: how many there are about.
        codec: that its conversations are encoded by.
        is_loud: whether the noise leaves most of what goes with what to the seed.
    """

    units: float
    codec: Codec
    is_loud: bool


def sensitivity(most: int) -> float:
    """The most that one unit with so many conversations changes the vector, in l2."""
    return most * math.sqrt(len(SIZES))


def count_units(tokens: ChunkTokens, units: Units, codec: Codec, most: int) -> NDArray[np.int64]:
    """The vector of the units' conversations `tokens`, without noise; one unit more adds `sensitivity` at most."""
    moment = moment_of(slice_of(tokens.start_ns, codec.first_ns, codec.last_ns))
    length = LENGTH_GRID.tokens(np.diff(tokens.packet_offset))
    said = (moment, tokens.attributes[:, _SERVICE], tokens.attributes[:, _RESPONDER], length)
    counted = [np.bincount(s, minlength=size) for s, size in zip(said, SIZES[2:], strict=True)]
    return np.concatenate([[most * len(units)], [len(tokens)], *counted]).astype(np.int64)


def tell(noisy: NDArray[np.int64], noise_multiplier: float, most: int, codec: Codec, seed: Codec) -> Told:
    """What the noisy vector says of the chunk, with the seed's shares where the noise hides what the chunk has."""
    std = noise_multiplier * sensitivity(most)
    units, conversations, moments, services, responders, lengths = np.split(noisy.astype(float), np.cumsum(SIZES)[:-1])
    total = int(np.clip(round(float(conversations[0])), _FEWEST, _MOST))
    asked = counts_of(seed.urns.servers, ATTRIBUTES["responder_host"])
    known = Known(
        moments=_settle(moments, np.ones(MOMENTS), np.ones(MOMENTS, bool), total, std),
        services=_settle(
            services, counts_of(seed.urns.services, ATTRIBUTES["service"]), codec.service.is_active(), total, std
        ),
        responders=_settle(responders, asked, asked > 0, total, std),
        lengths=_settle(lengths, seed.length.counts.astype(float), np.ones(len(lengths), bool), total, std),
    )
    is_loud = std > LOUD * total
    times = total / max(int(seed.profile.sum()), 1)
    endings = replace(
        seed.endings,
        reopens=math.ceil(seed.endings.reopens * times),
        events=tuple(math.ceil(n * times) for n in seed.endings.events),
        completeness=seed.endings.completeness if is_loud else (),
    )
    profile = _even(known.moments)
    made = replace(
        codec,
        profile=profile,
        urns=private_urns(known, codec, seed, is_loud=is_loud),
        packet_count=max(round(float(known.lengths @ seed.length.quantiles.mean(axis=1))), total),
        service=Vocabulary(codec.service.slots, tuple(known.services.tolist())),
        length=replace(codec.length, counts=known.lengths),
        start_gap=_gaps_by_chance(codec, profile),
        gap_shapes=seed.gap_shapes if is_loud else codec.gap_shapes,
        endings=endings,
    )
    return Told(float(np.clip(units[0] / most, 1.0, _MOST)), made, is_loud)


def _settle(
    noisy: NDArray[np.float64], known: NDArray[np.float64], may: NDArray[np.bool_], total: int, std: float
) -> NDArray[np.int64]:
    """Whole counts (b,) that add up to `total`, of bins that `may` hold something.

    A bin that the seed knows is expected to have the seed's share, give or take as much, and is told by both as they
    deserve; one that it does not know is believed beyond all that noise alone is likely to make.
    """
    expected = np.where(may, known, 0.0)
    expected *= total / max(expected.sum(), 1.0)
    trust = expected**2 / (expected**2 + std**2)
    hidden = std * math.sqrt(2 * math.log(_DOUBT * max(int(may.sum()), 1)))
    fresh = np.where(may & (noisy > hidden), noisy, 0.0)
    return whole(np.where(expected > 0, np.maximum(expected + trust * (noisy - expected), 0.0), fresh), total)


def _even(by_moment: NDArray[np.int64]) -> NDArray[np.int64]:
    """What each slice has where the slices of a moment have alike: (SLICES,)."""
    each = SLICES // MOMENTS
    counts, at = np.repeat(by_moment, each), np.tile(np.arange(each), MOMENTS)
    return np.asarray(counts * (at + 1) // each - counts * at // each, np.int64)


def _gaps_by_chance(codec: Codec, profile: NDArray[np.int64]) -> Bins:
    """Gaps of starts that are as many a slice as the profile says, each at any time in its slice."""
    rng, edges = np.random.default_rng(0), slice_starts(codec.first_ns, codec.last_ns)
    where = np.repeat(np.arange(SLICES), profile)
    starts = np.sort(edges[where] + (rng.random(len(where)) * (edges[where + 1] - edges[where])).astype(np.int64))
    return Bins.fit(START_GAP_GRID, start_gaps(starts, codec.first_ns, codec.last_ns))
