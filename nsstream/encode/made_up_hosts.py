"""Hosts that nobody has: slots for the hosts of a private chunk, whose own addresses no codec may hold.

Each is like one of the public seed's hosts, one that starts conversations or one that is asked, by turns: it has an
address under the same prefix, and networks take it for that host until told otherwise. All of it follows from the seed
alone, so the hosts of one chunk are there in the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, cycle
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.schema import HOST_SLOTS
from nsstream.encode.vocabulary import Value, Vocabulary

_TRIES: Final = 64  # of another address under a prefix
_RANDOM: Final = {4: 1, 6: 8}  # last octets that are made up


@dataclass(frozen=True)
class MadeUpHosts:
    """A host vocabulary whose free and inactive slots are filled anew.

    Attributes:
        host: the seed's slots as they were; the made-up ones are inactive.
        like: (HOST_SLOTS,) the slot of the seed that each is like: its own for the seed's hosts, -1 where nothing is.
        askers, asked: slots that may start conversations, and that may be asked, of either IP version: the seed's
            first, those it counted most often before others.
        groups: the seed's multicast groups.
    """

    host: Vocabulary
    like: NDArray[np.int64]
    askers: dict[int, NDArray[np.int64]]
    asked: dict[int, NDArray[np.int64]]
    groups: NDArray[np.int64]


def made_up_hosts(seed: Codec) -> MadeUpHosts:
    """Fill the slots of a public seed's hosts that its chunk does not show."""
    rng = np.random.default_rng(0)
    askers = {version: hosts_of(seed.urns.hosts, seed.host, version) for version in (4, 6)}
    asked = {version: hosts_of(seed.urns.servers, seed.host, version) for version in (4, 6)}
    slots = list(seed.host.slots)
    taken = {value for value in slots if value is not None}
    like = np.where(seed.host.is_active(), np.arange(HOST_SLOTS), -1)
    fresh: dict[tuple[bool, int], list[int]] = {(asks, v): [] for asks in (True, False) for v in (4, 6)}
    ask = [(version, int(at), True) for version, tokens in askers.items() for at in tokens]
    answer = [(version, int(at), False) for version, tokens in asked.items() for at in tokens]
    free = np.flatnonzero(~seed.host.is_active()).tolist()
    turns = zip(cycle(ask or answer), cycle(answer or ask), strict=False)
    for at, (version, model, asks) in zip(free, chain.from_iterable(turns), strict=False):
        value = _beside(slots[model], taken, rng)
        if value is not None:
            slots[at], like[at] = value, model
            taken.add(value)
            fresh[asks, version].append(at)
    return MadeUpHosts(
        Vocabulary(tuple(slots), seed.host.counts),
        like,
        {v: np.concatenate([askers[v], fresh[True, v]]).astype(np.int64) for v in (4, 6)},
        {v: np.concatenate([asked[v], fresh[False, v]]).astype(np.int64) for v in (4, 6)},
        np.concatenate([hosts_of(seed.urns.servers, seed.host, v, groups=True) for v in (4, 6)]),
    )


def hosts_of(counted: NDArray[np.int64], host: Vocabulary, version: int, *, groups: bool = False) -> NDArray[np.int64]:
    """Which slots that an urn's pairs (k, 3) name are of an IP version: (n,), the most counted first.

    Those of one host each; with `groups`, those of multicast groups.
    """
    times = np.bincount(counted[:, 1], counted[:, 2], minlength=HOST_SLOTS)[:HOST_SLOTS]
    tokens = np.argsort(-times, kind="stable")[: int((times > 0).sum())]
    table, active = host.table()[tokens], host.is_active()[tokens]
    if not len(tokens) or table.shape[1] != 17:
        return np.zeros(0, np.int64)
    is_group = (table[:, 13] >= 224) if version == 4 else (table[:, 1] == 0xFF)
    return np.asarray(tokens[active & (table[:, 0] == version) & (is_group == groups)], np.int64)


def _beside(value: Value | None, taken: set[Value], rng: np.random.Generator) -> Value | None:
    """An address under the prefix of a host's that nobody has; None where there is none to be found."""
    if value is None:
        return None
    octets = _RANDOM[value[0]]
    for attempt in range(_TRIES):
        some = octets + (attempt >= _TRIES // 2)  # a crowded prefix is left for the one around it
        made = (*value[: 17 - some], *rng.integers(1, 255, some).tolist())
        if made not in taken:
            return made
    return None
