"""Urns: how often a chunk's conversations say one thing given another, which drawing keeps as balls from an urn.

A network that feeds on what it said falls into saying one service on and on, gives a scan's single packets to a
download, and has a host ask peers that it never asked. What the chunk counted of such pairs is drawn without
replacement (`model.attribute_urns`): who starts and who is asked when, for which service, whom each host
talks to, which services and hosts answer, and how long conversations are when. How long those of each service are,
answered or not, is handed out at the end (`model.settle_lengths`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.schema import ATTRIBUTES, HOST_SLOTS, LENGTH_GRID, MOMENTS, SERVICE_SLOTS

OFTEN: Final = 8  # conversations of a service that has lengths, or of a host that has peers for it, of its own
STACKS: Final = 6  # of `codec.stack_of`: a rarer service's lengths are those of all such of its stack
CLASSES: Final = SERVICE_SLOTS + STACKS
MOST_ASKED: Final = 1 << 14  # hosts and classes with peers; 50,000 conversations have 7,276 at most
ASKED: Final = CLASSES + 1  # the last: all classes of which a host has few
PARTIES: Final = 2 * (HOST_SLOTS + 2) + ATTRIBUTES["ttl"]
LEAST_LOAD: Final = 17  # the length's token, of conversations that are counted for each of their parties
NAMES: Final = ("hosts", "services", "peers", "servers", "ttls", "answers", "lengths", "volumes", "loads")
_LIMITS: Final = {
    "hosts": (MOMENTS, HOST_SLOTS + 2),
    "services": (MOMENTS, SERVICE_SLOTS),
    "peers": ((HOST_SLOTS + 2) * ASKED, HOST_SLOTS + 2),
    "servers": (MOMENTS, HOST_SLOTS + 2),
    "ttls": (CLASSES, ATTRIBUTES["ttl"]),
    "answers": (HOST_SLOTS + 2, ATTRIBUTES["ttl"]),
    "lengths": (2 * CLASSES, len(LENGTH_GRID)),
    "volumes": (MOMENTS, len(LENGTH_GRID)),
    "loads": (PARTIES, len(LENGTH_GRID)),
}

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Urns:
    """Counted pairs, each (k, 3): given, said, how often; rising by the first two.

    Attributes:
        hosts: moment of the chunk, initiator token.
        services: moment of the chunk, service token.
        peers: ASKED times the initiator token and the class (below) or CLASSES, responder token.
        servers: moment, responder token.
        ttls: class (service token, or SERVICE_SLOTS + stack), TTL token, which says whether anybody answers.
        answers: responder token, TTL token.
        lengths: twice the class, and 1 more where nobody answers, token of the number of packets.
        volumes: moment, token of the number of packets.
        loads: party (`parties_of`), token of the number of packets from `LEAST_LOAD` on.
    """

    hosts: Pairs
    services: Pairs
    peers: Pairs
    servers: Pairs
    ttls: Pairs
    answers: Pairs
    lengths: Pairs
    volumes: Pairs
    loads: Pairs

    @classmethod
    def empty(cls) -> Self:
        """Nothing counted: the networks alone decide."""
        return cls(*(np.zeros((0, 3), np.int64) for _ in NAMES))

    @classmethod
    def fit(
        cls,
        moment: NDArray[np.int64],
        initiator: NDArray[np.int64],
        service: NDArray[np.int64],
        responder: NDArray[np.int64],
        ttl: NDArray[np.int64],
        is_silent: NDArray[np.bool_],
        length: NDArray[np.int64],
        stack: NDArray[np.int64],
    ) -> Self:
        """Count n conversations, each argument (n,): tokens, moments, stacks, and whether the responder is silent."""
        class_, is_long = _class_of(service, stack), length >= LEAST_LOAD
        parties = parties_of(initiator, responder, ttl)[is_long]
        return cls(
            hosts=_count(moment, initiator),
            services=_count(moment, service),
            peers=_count(_asked_for(initiator, class_), responder),
            servers=_count(moment, responder),
            ttls=_count(class_, ttl),
            answers=_count(responder, ttl),
            lengths=_count(2 * class_ + is_silent, length),
            volumes=_count(moment, length),
            loads=_count(parties.ravel(), np.repeat(length[is_long], parties.shape[1])),
        )

    def classes(self, stack_of_service: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class of each service token (SERVICE_SLOTS,), of these stacks (SERVICE_SLOTS,)."""
        own = np.zeros(SERVICE_SLOTS, bool)
        own[self.ttls[self.ttls[:, 0] < SERVICE_SLOTS, 0]] = True
        return np.where(own, np.arange(SERVICE_SLOTS), SERVICE_SLOTS + stack_of_service)

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {name: getattr(self, name).tolist() for name in NAMES}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`; raises LookupError, TypeError or ValueError on anything else."""
        pairs = {name: np.array(data[name], np.int64).reshape(-1, 3) for name in NAMES}
        for name, (givens, saids) in _LIMITS.items():
            rows = pairs[name]
            if not ((rows >= 0).all() and (rows[:, 0] < givens).all() and (rows[:, 1] < saids).all()):
                raise ValueError(f"the counts of {name} name what there is not")
        if len(np.unique(pairs["peers"][:, 0])) > MOST_ASKED:
            raise ValueError(f"peers are counted for more than {MOST_ASKED} hosts and classes")
        return cls(**pairs)


def parties_of(initiator: NDArray[np.int64], responder: NDArray[np.int64], ttl: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers (n, 3) below `PARTIES` of both hosts of conversations and of their TTLs: tokens (n,) each."""
    return np.stack([initiator, HOST_SLOTS + 2 + responder, 2 * (HOST_SLOTS + 2) + ttl], axis=1)


def _count(given: NDArray[np.int64], said: NDArray[np.int64]) -> Pairs:
    pairs, times = np.unique(np.stack([given, said], axis=1), axis=0, return_counts=True)
    return np.concatenate([pairs, times[:, None]], axis=1).reshape(-1, 3)


def _class_of(service: NDArray[np.int64], stack: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whose lengths a conversation's is one of: (n,)."""
    often = np.bincount(service, minlength=SERVICE_SLOTS) >= OFTEN
    return np.where(often[service], service, SERVICE_SLOTS + stack)


def _asked_for(initiator: NDArray[np.int64], class_: NDArray[np.int64]) -> NDArray[np.int64]:
    """What `Urns.peers` is given for each conversation: (n,)."""
    given = initiator * ASKED + class_
    _, where, times = np.unique(given, return_inverse=True, return_counts=True)
    room = MOST_ASKED - (HOST_SLOTS + 2)  # of those that have peers of their own
    least = OFTEN if len(times) <= room else max(OFTEN, int(np.partition(times, -room)[-room]) + 1)
    return np.where(times[where.ravel()] >= least, given, initiator * ASKED + CLASSES)
