"""Who talks to whom in a private chunk, by noisy counts of hosts alone: how many, how busy, how many each asks.

The private hosts have no slots. The seed's own, and made-up ones (`encode.made_up_hosts`), stand for as many as the
noisy number says; the busiest asks the most. How many hosts are asked in all no bounded count tells: that is as among
the seed's. The k-th of them is asked 1 / k as often as the first (Zipf's law, as popularity on the web has it: Breslau
et al. 1999). Multicast groups are the seed's, which the network asks where a service wants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.made_up_hosts import made_up_hosts
from nsstream.encode.schema import HOST_SLOTS, RARE_IPV4, RARE_IPV6
from nsstream.encode.urns import ASKED, CLASSES, Pairs
from nsstream.train.private_urns import counts_of, whole

OCTAVES: Final = 16  # bins of a host's conversations, and of how many it asks: 1, 2 to 3, 4 to 7, ...
VERSIONS: Final = (4, 6)
_MIDDLE: Final = 1.25  # of an octave, in multiples of its least: the more, the fewer


@dataclass(frozen=True)
class Hosts:
    """Counts of conversations by host token, and the pairs of an urn of peers (`encode.urns`).

    `asked` is in proportion, `initiators` adds up to all conversations.
    """

    initiators: NDArray[np.int64]
    asked: NDArray[np.int64]
    peers: Pairs


def octave(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bin of each number >= 1."""
    return np.minimum(np.log2(np.maximum(number, 1)).astype(np.int64), OCTAVES - 1)


def octaves_of_seed(seed: Codec, a_host: float, most: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How many of the seed's hosts would be so busy, and ask so many, if each started as many on average: (OCTAVES,).

    Args:
        seed: the public one.
        a_host: conversations.
        most: that any starts.
    """
    busy = np.bincount(seed.urns.hosts[:, 1], seed.urns.hosts[:, 2], minlength=HOST_SLOTS + 2)
    asks = np.bincount(_pairs(seed)[:, 0], minlength=HOST_SLOTS + 2)[busy > 0]
    busy = busy[busy > 0] * (a_host / max(busy.sum() / max((busy > 0).sum(), 1), 1))
    busy = np.clip(np.rint(busy), 1, most).astype(np.int64)
    asks = np.minimum(asks, busy)
    by_octave = [np.bincount(octave(n), minlength=OCTAVES).astype(float) for n in (busy, asks)]
    return by_octave[0], by_octave[1]


def draw_hosts(
    units: tuple[int, int],
    busy: NDArray[np.int64],
    asks: NDArray[np.int64],
    of_versions: tuple[int, int],
    seed: Codec,
) -> Hosts:
    """Hosts of a chunk, all of public chance.

    Args:
        units: how many start conversations, of IPv4 and of IPv6; at most as many as there are conversations.
        busy: (OCTAVES,) how many of them start so many conversations.
        asks: (OCTAVES,) how many of them ask so many hosts; of the same sum.
        of_versions: conversations over IPv4 and over IPv6.
        seed: the public one.
    """
    rng, made = np.random.default_rng(0), made_up_hosts(seed)
    about, wishes = (
        np.asarray(_MIDDLE * 2.0 ** np.repeat(np.arange(OCTAVES), of_octave)[::-1], np.float64)
        for of_octave in (busy, asks)
    )
    started = np.zeros(len(about), np.int64)
    split = _split(about, units[1], of_versions)
    for rows, there in zip(split, of_versions, strict=True):
        if len(rows):
            started[rows] = 1 + whole(about[rows] - 1, there - len(rows))
    wanted = np.minimum(np.rint(wishes).astype(np.int64), started)
    ratio = _asked_a_pair(seed)
    initiators, asked, peers = np.zeros(HOST_SLOTS + 2, np.int64), np.zeros(HOST_SLOTS + 2, np.int64), []
    for version, rows, rare in zip(VERSIONS, split, (RARE_IPV4, RARE_IPV6), strict=True):
        askers, pool = made.askers[version], made.asked[version]
        if not len(askers) or not len(pool):
            initiators[rare] += started[rows].sum()
            asked[rare] += started[rows].sum()
            continue
        most = int(wanted[rows].max(initial=1))
        pool = pool[: max(round(ratio * int(wanted[rows].sum())), most + 1)]
        weight = 1 / np.arange(1, len(pool) + 1)
        for at, row in enumerate(rows):
            asker = int(askers[at % len(askers)])
            others = pool != asker
            few = min(int(wanted[row]), int(others.sum()))
            initiators[asker] += started[row]
            if not few:
                continue
            chosen = rng.choice(pool[others], few, replace=False, p=weight[others] / weight[others].sum())
            counts = whole(np.ones(few), int(started[row]))
            np.add.at(asked, chosen, counts)
            peers += [(asker * ASKED + CLASSES, int(host), int(n)) for host, n in zip(chosen, counts, strict=True)]
    times = counts_of(seed.urns.servers, HOST_SLOTS + 2)[made.groups]
    asked[made.groups] = np.ceil(times * (sum(of_versions) / max(int(seed.profile.sum()), 1)))
    return Hosts(initiators, asked, _added_up(peers))


def only_these(hosts: NDArray[np.float64]) -> NDArray[np.float32]:
    """What to add to the logits of host tokens, so that none but those that are counted (t,) is likely: (t,)."""
    return np.where(hosts > 0, 0.0, -20.0).astype(np.float32)


def _pairs(seed: Codec) -> NDArray[np.int64]:
    """Who asks whom among the seed's hosts, rows of two tokens."""
    return np.unique(np.stack([seed.urns.peers[:, 0] // ASKED, seed.urns.peers[:, 1]], axis=1), axis=0)


def _asked_a_pair(seed: Codec) -> float:
    """How many hosts the seed's ask, a pair of one that asks and one that is asked."""
    pairs = _pairs(seed)
    return len(np.unique(pairs[:, 1])) / len(pairs) if len(pairs) else 1.0


def _split(
    about: NDArray[np.float64], six: int, of_versions: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which hosts, busiest first, are of IPv4 and which `six` of IPv6: a run of them starts about IPv6's share."""
    ends = np.concatenate([[0], np.cumsum(about)])
    shares = (ends[six:] - ends[: len(ends) - six]) / max(float(ends[-1]), 1.0)
    begin = int(np.argmin(np.abs(shares - of_versions[1] / sum(of_versions))))
    is_6 = np.zeros(len(about), bool)
    is_6[begin : begin + six] = True
    return np.flatnonzero(~is_6), np.flatnonzero(is_6)


def _added_up(peers: list[tuple[int, int, int]]) -> Pairs:
    """Pairs with the counts of equal ones added up, rising."""
    rows = np.array(peers, np.int64).reshape(-1, 3)
    pairs, which = np.unique(rows[:, :2], axis=0, return_inverse=True)
    counts = np.bincount(which.ravel(), rows[:, 2], minlength=len(pairs)).astype(np.int64)
    return np.concatenate([pairs, counts[:, None]], axis=1).reshape(-1, 3)
