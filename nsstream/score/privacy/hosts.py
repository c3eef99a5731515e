"""Hosts: real addresses that a twin shows, and whether its hosts can be told to be the real ones by what they do.

Re-identification takes the strongest outsider: one who knows what every real host sent and received in the capture
itself, and looks for each in the twin: by its rank in volume, by its rank in peers, or by its whole profile (volume,
peers, services used and offered), with each twin host given to one real host so that all profiles together fit best.
Who is right is known only with the key of the address map, or where the twin kept the addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.observed import Observed, address_identity, mix
from nsstream.score.privacy.copies import service_port
from nsstream.score.privacy.intervals import Rate
from nsstream.trace import PacketBatch

MOST_HOSTS: Final = 500  # of either trace, those of the most octets
SERVICE_BINS: Final = 64
SHOWN: Final = 10  # addresses that are told by name
VOLUME: Final = 0  # columns of a profile
PEERS: Final = 4
_PLAIN: Final = 6


@dataclass(frozen=True, slots=True)
class Leakage:
    """Unicast addresses of the real capture that stand in the twin."""

    addresses: Rate  # of the twin's addresses
    by_chance: float  # how many would, were the twin's hosts at random places in their /16 (IPv6: none)
    some: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reidentified:
    """Real hosts that stand in the twin, and how many of them are found by each way of looking."""

    by_volume: Rate
    by_peers: Rate
    by_profile: Rate
    by_guessing: float  # share of them that a guess at random finds

    @property
    def best(self) -> Rate:
        """What the best of the three finds."""
        return max((self.by_volume, self.by_peers, self.by_profile), key=lambda rate: rate.count)


def leakage(real: PacketBatch, twin: PacketBatch) -> Leakage:
    """Look for real unicast addresses in the twin; group, broadcast, loopback and unspecified ones are public."""
    real_hosts, twin_hosts = unicast(real), unicast(twin)
    shown = np.isin(address_identity(twin_hosts), address_identity(real_hosts))
    (real_prefix, real_count), (twin_prefix, twin_count) = (
        np.unique(address_identity(_cut(some[_is_v4(some)])), return_counts=True) for some in (real_hosts, twin_hosts)
    )
    _, at_real, at_twin = np.intersect1d(real_prefix, twin_prefix, return_indices=True)
    expected = float((real_count[at_real] * twin_count[at_twin]).sum() / 2**16)
    return Leakage(
        addresses=Rate(int(shown.sum()), len(shown)),
        by_chance=expected,
        some=tuple(text_of(address) for address in twin_hosts[shown][:SHOWN]),
    )


def reidentify(
    real: Observed, twin: Observed, mapping: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> Reidentified | None:
    """Look for each real host in the twin; `mapping` is the address map, (h, 16) to (h, 16).

    None where fewer than two of the largest real hosts stand among the twin's largest: nothing is there to confuse.
    """
    real_hosts, twin_hosts = unicast(real.packets), unicast(twin.packets)
    real_profile, twin_profile = profiles(real, real_hosts), profiles(twin, twin_hosts)
    a, b = _largest(real_profile), _largest(twin_profile)
    truth = {key: place for place, key in enumerate(address_identity(twin_hosts[b]).tolist())}
    mapped = address_identity(mapping(real_hosts[a])).tolist()
    is_there = np.array([truth.get(key, -1) for key in mapped], np.int64)  # place in b
    found_count = int((is_there >= 0).sum())
    if found_count < 2:
        return None
    there = is_there >= 0

    def right(guess: NDArray[np.int64]) -> Rate:
        return Rate(int((guess[there] == is_there[there]).sum()), found_count)

    return Reidentified(
        by_volume=right(_by_rank(real_profile[a, VOLUME], twin_profile[b, VOLUME])),
        by_peers=right(_by_rank(real_profile[a, PEERS], twin_profile[b, PEERS])),
        by_profile=right(_by_profile(real_profile[a], twin_profile[b])),
        by_guessing=1 / len(b),
    )


def profiles(trace: Observed, hosts: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What each host does: (h, _PLAIN + 2 * SERVICE_BINS).

    Logarithms of octets in all, octets and packets sent and packets received, peers and flows; then the shares of its
    flows by service, as who asks and as who serves, in bins of a hash.
    """
    identity = address_identity(hosts)
    order = np.argsort(identity)

    def rows_of(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        at = order[np.minimum(np.searchsorted(identity[order], keys), len(order) - 1)]
        return np.where(identity[at] == keys, at, len(hosts))  # what is no host goes into a row that is dropped

    n = len(hosts) + 1
    sender, receiver = rows_of(trace.source), rows_of(trace.destination)
    size = trace.packets.ip_total_length.astype(np.float64)
    sent, received = (np.bincount(side, weights=size, minlength=n) for side in (sender, receiver))
    first = trace.flow_first
    asks, serves = sender[first], receiver[first]
    source_port = trace.packets.source_transport_port[first]
    port = service_port(trace)
    answers = (source_port == port) & (trace.packets.destination_transport_port[first] != port)
    asks, serves = np.where(answers, serves, asks), np.where(answers, asks, serves)
    pairs = np.unique(np.column_stack([asks, serves]), axis=0)
    peers = np.bincount(pairs.ravel(), minlength=n)
    flows = np.bincount(asks, minlength=n) + np.bincount(serves, minlength=n)
    bin_of = (mix(trace.packets.protocol_identifier[first], port) % np.uint64(SERVICE_BINS)).astype(np.int64)
    used = np.zeros((2, n, SERVICE_BINS))
    np.add.at(used[0], (asks, bin_of), 1.0)
    np.add.at(used[1], (serves, bin_of), 1.0)
    used /= np.maximum(flows, 1)[:, None]
    plain = [sent + received, sent, np.bincount(sender, minlength=n), np.bincount(receiver, minlength=n), peers, flows]
    return np.column_stack([np.log1p(np.column_stack(plain)), *used])[:-1]


def unicast(packets: PacketBatch) -> NDArray[np.uint8]:
    """The distinct unicast addresses of a trace, in order of their identities: (h, 16)."""
    octets = np.concatenate([packets.source_address, packets.destination_address])
    distinct = octets[np.unique(address_identity(octets), return_index=True)[1]]
    first, last = distinct[:, 12], distinct[:, 15]
    is_v4_host = (first != 0) & (first != 127) & (first < 224) & (last != 255)
    is_public_v6 = (distinct[:, :15] == 0).all(axis=1) & (last <= 1)  # unspecified and loopback
    is_host: NDArray[np.bool_] = np.where(_is_v4(distinct), is_v4_host, (distinct[:, 0] != 0xFF) & ~is_public_v6)
    hosts: NDArray[np.uint8] = distinct[is_host]
    return hosts


def text_of(address: NDArray[np.uint8]) -> str:
    """An address of 16 octets as it is written."""
    real = ipaddress.IPv6Address(address.tobytes())
    return str(real.ipv4_mapped or real)


def _is_v4(addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = (addresses[:, :10] == 0).all(axis=1) & (addresses[:, 10:12] == 255).all(axis=1)
    return out


def _cut(addresses: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The /16 that IPv4 addresses are in."""
    out = addresses.copy()
    out[:, 14:] = 0
    return out


def _largest(profile: NDArray[np.float64]) -> NDArray[np.int64]:
    """The hosts of the most octets, the largest first."""
    return np.argsort(-profile[:, VOLUME], kind="stable")[:MOST_HOSTS]


def _by_rank(real: NDArray[np.float64], twin: NDArray[np.float64]) -> NDArray[np.int64]:
    """The twin host of the same rank, for each real one; -1 beyond the last."""
    guess = np.full(len(real), -1, np.int64)
    n = min(len(real), len(twin))
    guess[np.argsort(-real, kind="stable")[:n]] = np.argsort(-twin, kind="stable")[:n]
    return guess


def _by_profile(real: NDArray[np.float64], twin: NDArray[np.float64]) -> NDArray[np.int64]:
    """The assignment of twin hosts to real ones by which all profiles together fit best; -1 for who gets none."""
    from scipy.optimize import linear_sum_assignment

    scale = np.concatenate([np.maximum(real[:, :_PLAIN].std(axis=0), 1e-3), np.full(2 * SERVICE_BINS, 0.3)])
    a, b = real / scale, twin / scale
    cost = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    rows, columns = linear_sum_assignment(cost)
    guess = np.full(len(real), -1, np.int64)
    guess[rows] = columns
    return guess
