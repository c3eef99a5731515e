"""What is counted of a private chunk: one vector of whole numbers, each unit's part of it bounded, noised once.

    conversations | by moment | by service | by length | hosts by IP version | by conversations | by hosts they ask

The first four blocks add one a conversation, and a unit has at most so many of them; so one unit's part of a block is
at most `most` conversations long (l2, since it is in l1). The last three count hosts that start conversations, each as
much as a full unit, by octaves of how many it starts, and of how many others it asks, of those that are kept. A host as
the unit is one of them, so its part of a block is `most` again; a flow moves its host by a bin at most, sqrt(2) in each
of the last two.

What follows from the noisy vector (`tell`) costs nothing more: each count is drawn towards the seed's share, the
further the more noise there is beside it. The number of packets follows from lengths.
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
from nsstream.encode.schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    HOST_SLOTS,
    LENGTH_GRID,
    MOMENTS,
    SERVICE_SLOTS,
    SLICES,
    START_GAP_GRID,
)
from nsstream.encode.tokens import ChunkTokens, moment_of
from nsstream.encode.vocabulary import Vocabulary
from nsstream.trace import ConversationTable
from nsstream.train.private_hosts import OCTAVES, VERSIONS, Hosts, draw_hosts, octave, octaves_of_seed
from nsstream.train.private_settle import settle
from nsstream.train.private_units import UnitName
from nsstream.train.private_urns import LOUD, Known, counts_of, private_urns, whole

_SERVICE: Final = ATTRIBUTE_INDEX["service"]
SIZES: Final = (1, MOMENTS, ATTRIBUTES["service"], len(LENGTH_GRID), len(VERSIONS), OCTAVES, OCTAVES)
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


def sensitivity(unit: UnitName, most: int) -> float:
    """The most that one unit with so many conversations changes the vector, in l2."""
    return most * math.sqrt(len(SIZES)) if unit == "host" else most * math.sqrt(len(SIZES) + 2)


def count_units(kept: ConversationTable, tokens: ChunkTokens, codec: Codec, most: int) -> NDArray[np.int64]:
    """The vector of the conversations that are kept of all units, without noise; a unit adds `sensitivity` at most.

    Args:
        kept: the conversations with the addresses that they had.
        tokens: the same.
        codec: that encoded them.
        most: conversations of a unit.
    """
    moment = moment_of(slice_of(tokens.start_ns, codec.first_ns, codec.last_ns))
    length = LENGTH_GRID.tokens(np.diff(tokens.packet_offset))
    said = (moment, tokens.attributes[:, _SERVICE], length)
    counted = [np.bincount(s, minlength=size) for s, size in zip(said, SIZES[1:4], strict=True)]
    initiators = np.concatenate([kept.ip_version[:, None].astype(np.uint8), kept.initiator_address], axis=1)
    hosts, starts = np.unique(initiators, axis=0, return_counts=True)
    pairs = np.unique(np.concatenate([initiators, kept.responder_address], axis=1), axis=0)
    asks = np.unique(pairs[:, :17], axis=0, return_counts=True)[1]
    of_hosts = [np.array([(hosts[:, 0] == version).sum() for version in VERSIONS])]
    of_hosts += [np.bincount(octave(number), minlength=OCTAVES) for number in (starts, asks)]
    return np.concatenate([[len(tokens)], *counted, *(most * counts for counts in of_hosts)]).astype(np.int64)


def tell(
    noisy: NDArray[np.int64], noise_multiplier: float, unit: UnitName, most: int, codec: Codec, seed: Codec
) -> Told:
    """What the noisy vector says of the chunk, with the seed's shares where the noise hides what the chunk has."""
    std = noise_multiplier * sensitivity(unit, most)
    blocks = np.split(noisy.astype(float), np.cumsum(SIZES)[:-1])
    conversations, moments, services, lengths, of_versions, busy, asks = blocks
    units = max(float(of_versions.sum()) / most, 1.0)
    most_of_all = max(units * most, _FEWEST) if unit == "host" else _MOST
    total = int(np.clip(round(float(conversations[0])), max(units, _FEWEST), min(most_of_all, _MOST)))
    said = _settle(services, counts_of(seed.urns.services, SERVICE_SLOTS), codec.service.is_active(), total, std)
    hosts = _hosts(
        of_versions / most, busy / most, asks / most, std / most, most if unit == "host" else _MOST, said, codec, seed
    )
    known = Known(
        moments=_settle(moments, np.ones(MOMENTS), np.ones(MOMENTS, bool), total, std),
        services=said,
        initiators=hosts.initiators,
        responders=whole(hosts.asked.astype(float), total),
        lengths=_settle(lengths, seed.length.counts.astype(float), np.ones(len(lengths), bool), total, std),
        peers=hosts.peers,
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
        host=Vocabulary(codec.host.slots, tuple((hosts.initiators + hosts.asked)[:HOST_SLOTS].tolist())),
        packet_count=max(round(float(known.lengths @ seed.length.quantiles.mean(axis=1))), total),
        service=Vocabulary(codec.service.slots, tuple(known.services.tolist())),
        length=replace(codec.length, counts=known.lengths),
        start_gap=_gaps_by_chance(codec, profile),
        gap_shapes=seed.gap_shapes if is_loud else codec.gap_shapes,
        endings=endings,
    )
    return Told(units if unit == "host" else float(total), made, is_loud)


def _hosts(
    of_versions: NDArray[np.float64],
    busy: NDArray[np.float64],
    asks: NDArray[np.float64],
    std: float,
    most: int,
    services: NDArray[np.int64],
    codec: Codec,
    seed: Codec,
) -> Hosts:
    """Hosts of a chunk by their noisy numbers, each with noise of that deviation."""
    is_6 = codec.service.table()[:, 1] == VERSIONS[1]
    conversations = int(services[~is_6].sum()), int(services[is_6].sum())
    four, six = (
        min(max(round(float(number)), min(there, 1)), there)
        for number, there in zip(of_versions, conversations, strict=True)
    )
    may = 2 ** np.arange(OCTAVES) <= most
    seeds = octaves_of_seed(seed, sum(conversations) / (four + six), most)
    by_starts, by_asks = (
        whole(_shape(noisy, known, may, four + six, std), four + six)
        for noisy, known in zip((busy, asks), seeds, strict=True)
    )
    return draw_hosts((four, six), by_starts, by_asks, conversations, seed)


def _settle(
    noisy: NDArray[np.float64], known: NDArray[np.float64], may: NDArray[np.bool_], total: int, std: float
) -> NDArray[np.int64]:
    """Whole counts (b,) that add up to `total`, of bins that `may` hold something, with the seed's shares expected."""
    told = np.zeros(len(noisy))
    told[may] = settle(noisy[may], known[may], std, float(total))
    return whole(told, total)


def _shape(
    noisy: NDArray[np.float64], known: NDArray[np.float64], may: NDArray[np.bool_], total: int, std: float
) -> NDArray[np.float64]:
    """Counts (b,) of `total` hosts in bins that `may` hold some, by noisy ones and the seed's.

    The seed's networks are no measure of how uneven hosts are: a bin is expected to have the seed's share, give or take
    as much, or as an even share where that is more.
    """
    expected = np.where(may, known, 0.0) * (total / max(known[may].sum(), 1.0))
    doubt = np.maximum(expected, total / max(int(may.sum()), 1))
    trust = doubt**2 / (doubt**2 + std**2)
    return np.where(may, np.maximum(expected + trust * (noisy - expected), 0.0), 0.0)


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
