"""Settle partners: a long conversation is between hosts, as far away and as early as one of that length was.

A session that sends half of a chunk's packets is one of hundreds of conversations, and the network hardly knows with
whom it goes: the twin's is with the server that is asked most. Then half of all packets have come over so many hops
more or less, and who was a heavy hitter is none. So conversations of a service, answered or not as they are, change
lengths with one another (`exchange_sizes`) until each initiator, each responder, each pair of TTLs and each part of the
chunk has as many of each length as were counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec, slice_of
from nsstream.encode.schema import ATTRIBUTE_INDEX, LENGTH_GRID, MOMENTS
from nsstream.encode.tokens import moment_of
from nsstream.encode.urns import LEAST_LOAD, PARTIES, parties_of
from nsstream.model.exchange_sizes import exchange_sizes

_INITIATOR, _SERVICE, _RESPONDER, _TTL, _LENGTH = (
    ATTRIBUTE_INDEX[name] for name in ("initiator_host", "service", "responder_host", "ttl", "packet_count")
)


def settle_partners(
    attributes: NDArray[np.int64], start_ns: NDArray[np.int64], codec: Codec, rng: np.random.Generator
) -> None:
    """Exchange lengths among n conversations (n, a) with these starts (n,), in place, whose lengths are settled."""
    urns = codec.urns
    if not len(urns.loads):
        return
    wanted = np.zeros((PARTIES + MOMENTS, len(LENGTH_GRID)), np.int64)
    wanted[urns.loads[:, 0], urns.loads[:, 1]] = urns.loads[:, 2]
    wanted[PARTIES + urns.volumes[:, 0], urns.volumes[:, 1]] = urns.volumes[:, 2]
    ttl, length = attributes[:, _TTL], attributes[:, _LENGTH]
    parties = parties_of(attributes[:, _INITIATOR], attributes[:, _RESPONDER], ttl)
    moment = moment_of(slice_of(start_ns, codec.first_ns, codec.last_ns))
    is_silent = codec.ttl.table()[ttl, -1] == 0
    kind = 2 * codec.service_classes()[attributes[:, _SERVICE]] + is_silent
    all_parties = np.concatenate([parties, PARTIES + moment[:, None]], axis=1)
    attributes[:, _LENGTH] = length[exchange_sizes(all_parties, length, kind, wanted, LEAST_LOAD, rng)]
