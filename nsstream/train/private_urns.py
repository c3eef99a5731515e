"""The urns of a private chunk: what noisy counts say of single attributes, and for pairs of them the seed's.

Where the noise is loud (`LOUD`), the network can have learned little, and the seed's pairs, lengths by service and so
on, are scaled to the noisy counts; where it is not, what goes with what is left to the network. Who talks to whom is
`private_hosts`' in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec, stack_of
from nsstream.encode.schema import SERVICE_SLOTS
from nsstream.encode.urns import CLASSES, Pairs, Urns

LOUD: Final = 1 / 16  # of a chunk's conversations, the noise of one count from which on it is
_NOTHING: Final = np.zeros((0, 3), np.int64)


@dataclass(frozen=True)
class Known:
    """Whole counts of conversations by token of each attribute, or by moment, all of one sum; and pairs of peers."""

    moments: NDArray[np.int64]
    services: NDArray[np.int64]
    initiators: NDArray[np.int64]
    responders: NDArray[np.int64]
    lengths: NDArray[np.int64]
    peers: Pairs

    @property
    def total(self) -> int:
        """Conversations."""
        return int(self.moments.sum())


def private_urns(known: Known, codec: Codec, seed: Codec, *, is_loud: bool) -> Urns:
    """Urns of what is known of a private chunk, with the seed's pairs where the noise `is_loud`."""
    ttls, lengths = _NOTHING, _NOTHING
    if is_loud:
        service = codec.service.table()
        stacks = stack_of(service[:, 0], service[:, 1], service[:, 2])[:SERVICE_SLOTS]
        had = np.bincount(seed.urns.ttls[:, 0], seed.urns.ttls[:, 2], minlength=CLASSES)
        has = np.bincount(seed.urns.classes(stacks), known.services, minlength=CLASSES)
        times = np.divide(has, had, out=np.zeros(CLASSES), where=had > 0)
        ttls = _scaled(seed.urns.ttls, times[seed.urns.ttls[:, 0]])
        lengths = _scaled(seed.urns.lengths, times[seed.urns.lengths[:, 0] // 2])
    return Urns(
        hosts=spread(known.moments, known.initiators),
        services=spread(known.moments, known.services),
        peers=known.peers,
        servers=spread(known.moments, known.responders),
        ttls=ttls,
        answers=_NOTHING,
        lengths=lengths,
        volumes=spread(known.moments, known.lengths),
        loads=_NOTHING,
    )


def counts_of(pairs: Pairs, size: int) -> NDArray[np.float64]:
    """How often an urn says each token: (size,)."""
    return np.bincount(pairs[:, 1], pairs[:, 2], minlength=size).astype(np.float64)


def whole(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers (b,) in proportion to shares, of a given sum; alike where all shares are 0."""
    if shares.sum() <= 0:
        shares = np.ones(len(shares))
    exact = np.cumsum(shares) * (total / shares.sum())
    return np.asarray(np.diff(np.rint(exact), prepend=0.0), np.int64)


def spread(given: NDArray[np.int64], said: NDArray[np.int64]) -> Pairs:
    """Pairs of an urn: so many of each given (g,), and so many that say each token (b,), in proportion; of one sum."""
    ends, total = np.cumsum(said), max(int(said.sum()), 1)
    steps = np.concatenate([[0], np.cumsum(given)])
    upto = (steps[:, None] * said[None, :] + (ends - said)[None, :] % total) // total  # (g + 1, b)
    counts = np.diff(upto, axis=0)
    rows, columns = np.nonzero(counts)
    return np.stack([rows, columns, counts[rows, columns]], axis=1).astype(np.int64).reshape(-1, 3)


def _scaled(pairs: Pairs, times: NDArray[np.float64]) -> Pairs:
    """Pairs (k, 3) counted so many times (k,) as often, rounded up."""
    return np.concatenate([pairs[:, :2], np.ceil(pairs[:, 2:] * times[:, None]).astype(np.int64)], axis=1)
