"""Hosts of conversations as tokens that name nobody rare, and back.

A host that is frequent has a slot. Any other is new, or whoever stood in that role so many rare hosts ago (a lag, by
bin): how often hosts come back, and after how long, is kept, and who they are is not. Where one of both is rare, a
server whom its client asked lately is told as that: as its latest peer for the same service, the one before, ..., or as
one for another service. So hosts talk to as many others as they did.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_schema import FRESH, HOST_SLOTS, LAG, LAGS, PEERS

_EXACT: Final = 8
_PER_DOUBLING: Final = 3.3

# First lag of each bin, and behind the last the first lag that has none.
LAG_EDGES: Final[NDArray[np.int64]] = np.unique(
    np.concatenate([np.arange(1, _EXACT + 1), np.ceil(_EXACT * 2 ** (np.arange(1, LAGS) / _PER_DOUBLING))])
)[: LAGS + 1].astype(np.int64)


_KEPT: Final = 16  # peers that are remembered of a client, each with a service


@numba.njit(cache=True, nogil=True)
def host_tokens(
    client: NDArray[np.int64],
    server: NDArray[np.int64],
    service: NDArray[np.int64],
    family: NDArray[np.int64],
    slot: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens (n,) of clients and of servers.

    Args:
        client: (n,) a number a host, below `len(slot)`.
        server: (n,) the same.
        service: (n,) what for.
        family: (n,) 0 or 1: lags are counted within one IP version.
        slot: slot of each host, -1 where it has none.
        edges: `LAG_EDGES`.
    """
    n, hosts = len(client), len(slot)
    out_client, out_server = np.empty(n, np.int64), np.empty(n, np.int64)
    last = np.full((2, hosts), -1, np.int64)
    met = np.zeros((2, 2), np.int64)
    peers = np.full((hosts, _KEPT, 2), -1, np.int32)
    for i in range(n):
        c, s, f = client[i], server[i], family[i]
        if slot[c] >= 0:
            out_client[i] = slot[c]
        elif last[0, c] >= 0:
            out_client[i] = LAG + min(np.searchsorted(edges, met[0, f] - last[0, c], side="right") - 1, LAGS - 1)
        else:
            out_client[i] = FRESH
        token = _peer_token(peers[c], s, service[i])
        if token >= 0 and (slot[c] < 0 or slot[s] < 0):
            out_server[i] = token
        elif slot[s] >= 0:
            out_server[i] = PEERS + slot[s]
        elif last[1, s] >= 0:
            lag = met[1, f] - last[1, s]
            out_server[i] = PEERS + LAG + min(np.searchsorted(edges, lag, side="right") - 1, LAGS - 1)
        else:
            out_server[i] = PEERS + FRESH
        _remember(peers[c], s, service[i])
        if slot[c] < 0:
            last[0, c] = met[0, f]
            met[0, f] += 1
        if slot[s] < 0:
            last[1, s] = met[1, f]
            met[1, f] += 1
    return out_client, out_server


@numba.njit(cache=True, nogil=True)
def hosts_of_tokens(
    client: NDArray[np.int64],
    server: NDArray[np.int64],
    service: NDArray[np.int64],
    family: NDArray[np.int64],
    edges: NDArray[np.int64],
    chance: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """A number a host for the client and the server of each conversation (n,), and the family of each made-up host.

    Numbers below `HOST_SLOTS` are slots; the k-th made-up host is `HOST_SLOTS` + k. What a token asks for and is not
    there is, of a peer, the latest one, and else a new host. `chance` (n, 2) is uniform.
    """
    n = len(client)
    hosts = HOST_SLOTS + 2 * n
    out_client, out_server = np.empty(n, np.int64), np.empty(n, np.int64)
    made = np.empty(2 * n, np.int64)
    count = 0
    peers = np.full((hosts, _KEPT, 2), -1, np.int32)
    seen = np.empty((2, 2, n), np.int64)
    met = np.zeros((2, 2), np.int64)
    for i in range(n):
        f = family[i]
        c = s = -1
        token = client[i]
        if token < HOST_SLOTS:
            c = token
        elif token >= LAG:
            c = _back(seen[0, f], met[0, f], token - LAG, edges, chance[i, 0])
        if c < 0:
            c = HOST_SLOTS + count
            made[count] = f
            count += 1
        token = server[i]
        if token < PEERS:
            s = _peer_of_token(peers[c], token, service[i])
        elif token < PEERS + HOST_SLOTS:
            s = token - PEERS
        elif token >= PEERS + LAG:
            s = _back(seen[1, f], met[1, f], token - PEERS - LAG, edges, chance[i, 1])
        if s < 0:
            s = HOST_SLOTS + count
            made[count] = f
            count += 1
        _remember(peers[c], s, service[i])
        if c >= HOST_SLOTS:
            seen[0, f, met[0, f]] = c
            met[0, f] += 1
        if s >= HOST_SLOTS:
            seen[1, f, met[1, f]] = s
            met[1, f] += 1
        out_client[i], out_server[i] = c, s
    return out_client, out_server, made[:count]


@numba.njit(cache=True, nogil=True)
def _peer_token(peers: NDArray[np.int32], server: int, service: int) -> int:
    """Which of a client's peers (k, 2) a server is, -1 where it is none: the first half of tokens by this service."""
    same = other = 0
    found = -1
    for j in range(_KEPT):
        if peers[j, 0] < 0:
            break
        if peers[j, 1] == service:
            if peers[j, 0] == server:
                return same if same < PEERS // 2 else found
            same += 1
        else:
            if peers[j, 0] == server and found < 0 and other < PEERS // 2:
                found = PEERS // 2 + other
            other += 1
    return found


@numba.njit(cache=True, nogil=True)
def _peer_of_token(peers: NDArray[np.int32], token: int, service: int) -> int:
    """The inverse of `_peer_token`; the latest peer where there is no such one, -1 where there is none at all."""
    wants_same = token < PEERS // 2
    left = token if wants_same else token - PEERS // 2
    for j in range(_KEPT):
        if peers[j, 0] < 0:
            break
        if (peers[j, 1] == service) == wants_same:
            if left == 0:
                return int(peers[j, 0])
            left -= 1
    return int(peers[0, 0])


@numba.njit(cache=True, nogil=True)
def _remember(peers: NDArray[np.int32], server: int, service: int) -> None:
    """Put a peer before all others of a client (k, 2)."""
    place = _KEPT - 1
    for j in range(_KEPT):
        if peers[j, 0] < 0 or (peers[j, 0] == server and peers[j, 1] == service):
            place = j
            break
    for j in range(place, 0, -1):
        peers[j, 0], peers[j, 1] = peers[j - 1, 0], peers[j - 1, 1]
    peers[0, 0], peers[0, 1] = server, service


@numba.njit(cache=True, nogil=True)
def _back(seen: NDArray[np.int64], met: int, lag_bin: int, edges: NDArray[np.int64], chance: float) -> int:
    """The host that was met a lag ago, -1 where nobody was."""
    first, end = edges[lag_bin], edges[lag_bin + 1]
    lag = first + np.int64(chance * (end - first))
    return seen[met - lag] if lag <= met else (seen[met - first] if first <= met else -1)
