"""Settle servers: a long conversation is with a server as far away as one of that length was in the chunk.

A session that sends half of a chunk's packets is one of hundreds of conversations, and the network hardly knows with
whom it goes: the twin's is with the server that is asked most. Then half of all packets have come over so many hops
more or less. So it changes places with another conversation of the same host and service, answered or not as
it is, whose TTLs are those that the chunk counted of such a length: everybody is asked as often as before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.schema import ATTRIBUTE_INDEX, ATTRIBUTES, LENGTH_GRID

_INITIATOR, _SERVICE, _RESPONDER, _TTL, _LENGTH = (
    ATTRIBUTE_INDEX[name] for name in ("initiator_host", "service", "responder_host", "ttl", "packet_count")
)


def settle_servers(attributes: NDArray[np.int64], codec: Codec) -> None:
    """Exchange responders and TTLs among n conversations (n, a), in place, whose lengths are settled."""
    to_come = np.zeros((ATTRIBUTES["ttl"], len(LENGTH_GRID)), np.int64)
    to_come[codec.urns.loads[:, 0], codec.urns.loads[:, 1]] = codec.urns.loads[:, 2]
    is_silent = codec.ttl.table()[:, -1] == 0
    long = np.flatnonzero(attributes[:, _LENGTH] > LENGTH_GRID.exact)
    is_free = np.ones(len(attributes), bool)
    for row in long[np.argsort(-attributes[long, _LENGTH], kind="stable")].tolist():
        wanted = to_come[:, attributes[row, _LENGTH]]
        is_free[row] = False
        if wanted[attributes[row, _TTL]] <= 0 and (wanted > 0).any():
            fits = is_free & (attributes[:, _INITIATOR] == attributes[row, _INITIATOR])
            fits &= (attributes[:, _SERVICE] == attributes[row, _SERVICE]) & (wanted[attributes[:, _TTL]] > 0)
            fits &= is_silent[attributes[:, _TTL]] == is_silent[attributes[row, _TTL]]
            if fits.any():
                both = np.array([row, int(np.argmax(fits))])[:, None]
                attributes[both, [_RESPONDER, _TTL]] = attributes[both[::-1], [_RESPONDER, _TTL]]
        wanted[attributes[row, _TTL]] -= 1
