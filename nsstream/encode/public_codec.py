"""A public seed's codec made ready for a private chunk, of which it is told the interval alone.

Nothing here is fitted: services that everybody knows and made-up hosts get free slots, every service and length may be
shown, and what the seed's chunk counted in particular (pairs, exact gaps, how complete its connections were) is left
out. A private conversation is encoded by this codec as it stands: a value without a slot as the nearest one that has,
or not at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.bins import QUANTILES
from nsstream.encode.codec import Codec, host_values
from nsstream.encode.encoding import encode_alone
from nsstream.encode.gap_shapes import GapShapes
from nsstream.encode.made_up_hosts import hosts_of, made_up_hosts
from nsstream.encode.pace import Pace
from nsstream.encode.profiles import Profiles
from nsstream.encode.public_services import PUBLIC_SERVICES
from nsstream.encode.schema import ATTRIBUTE_INDEX, HOST_SLOTS, SLICES
from nsstream.encode.tokens import ChunkTokens
from nsstream.encode.urns import Urns
from nsstream.encode.vocabulary import Vocabulary
from nsstream.trace.conversations import ConversationTable

_INITIATOR, _RESPONDER = ATTRIBUTE_INDEX["initiator_host"], ATTRIBUTE_INDEX["responder_host"]
_MIX: Final = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)


def public_codec(seed: Codec, start_ns: int, end_ns: int) -> Codec:
    """The seed's codec for a chunk of this interval, of which nothing else is known."""
    no_shapes = GapShapes(np.zeros((0, 4), np.int64), np.zeros(0, np.int64), np.zeros((0, QUANTILES)))
    return replace(
        seed,
        start_ns=start_ns,
        end_ns=end_ns,
        first_ns=start_ns,
        last_ns=end_ns - 1,
        profile=np.ones(SLICES, np.int64),
        urns=Urns.empty(),
        host=made_up_hosts(seed).host,
        service=_with_public_services(seed.service),
        length=replace(seed.length, counts=np.maximum(seed.length.counts, 1)),
        gap_shapes=no_shapes,
        endings=replace(seed.endings, completeness=()),
        pace=Pace(),
        waits=Profiles.empty(),
        makeup=Profiles.empty(),
    )


def encode_privately(table: ConversationTable, codec: Codec, seed: Codec) -> ChunkTokens:
    """Encode conversations (sorted by start, addresses mapped), each by itself, with a codec that knows none of them.

    A host without a slot stands for one of the seed's hosts of its IP version that start conversations, or are asked,
    always the same: which, says a hash of its mapped address.
    """
    tokens = encode_alone(table, codec)
    attributes = tokens.attributes.copy()
    for role, column, counted in ((0, _INITIATOR, seed.urns.hosts), (1, _RESPONDER, seed.urns.servers)):
        unknown = np.flatnonzero(attributes[:, column] >= HOST_SLOTS)
        values = host_values(table, role)[unknown]
        for version in (4, 6):
            stand_ins = hosts_of(counted, codec.host, version)
            rows = values[:, 0] == version
            if len(stand_ins):
                attributes[unknown[rows], column] = stand_ins[_hash(values[rows, 1:]) % np.uint64(len(stand_ins))]
    return replace(tokens, attributes=attributes)


def _with_public_services(known: Vocabulary) -> Vocabulary:
    held = {value for value in known.slots if value is not None}
    fresh = [value for value in PUBLIC_SERVICES if value not in held]
    slots = list(known.slots)
    for at, value in zip([i for i, v in enumerate(slots) if v is None], fresh, strict=False):
        slots[at] = value
    counts = (0 if value is None else max(count, 1) for value, count in zip(slots, known.counts, strict=True))
    return Vocabulary(tuple(slots), tuple(counts))


def _hash(addresses: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number that goes with each address (n, 16); the map has made them random already."""
    halves = np.ascontiguousarray(addresses, np.uint8).view(np.uint64).reshape(-1, 2)
    mixed = (halves * _MIX).sum(axis=1, dtype=np.uint64)
    return np.asarray((mixed ^ (mixed >> np.uint64(29))) >> np.uint64(3), np.uint64)
