"""Hosts of conversations as tokens that name nobody rare, and back.

A host that is frequent has a slot. Any other is new, or whoever stood in that role so many rare hosts ago (a lag, by
bin): how often hosts come back, and after how long, is kept, and who they are is not. Where one of the two ends is rare,
a server is rather told as one of the client's latest peers, so that hosts talk to as many others as they did.
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


@numba.njit(cache=True)
def host_tokens(
    client: NDArray[np.int64],
    server: NDArray[np.int64],
    family: NDArray[np.int64],
    slot: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens (n,) of clients and of servers.

    Args:
        client, server: (n,) a number a host, below `len(slot)`.
        family: (n,) 0 or 1: lags are counted within one IP version.
        slot: slot of each host, -1 where it has none.
        edges: `LAG_EDGES`.
    """
    n, hosts = len(client), len(slot)
    out_client, out_server = np.empty(n, np.int64), np.empty(n, np.int64)
    last = np.full((2, hosts), -1, np.int64)
    met = np.zeros((2, 2), np.int64)
    peers = np.full((hosts, PEERS), -1, np.int64)
    for i in range(n):
        c, s, f = client[i], server[i], family[i]
        if slot[c] >= 0:
            out_client[i] = slot[c]
        elif last[0, c] >= 0:
            out_client[i] = LAG + min(np.searchsorted(edges, met[0, f] - last[0, c], side="right") - 1, LAGS - 1)
        else:
            out_client[i] = FRESH
        place = PEERS
        for j in range(PEERS):
            if peers[c, j] == s:
                place = j
                break
        if slot[c] >= 0 and slot[s] >= 0:
            out_server[i] = PEERS + slot[s]
        elif place < PEERS:
            out_server[i] = place
        elif slot[s] >= 0:
            out_server[i] = PEERS + slot[s]
        elif last[1, s] >= 0:
            lag = met[1, f] - last[1, s]
            out_server[i] = PEERS + LAG + min(np.searchsorted(edges, lag, side="right") - 1, LAGS - 1)
        else:
            out_server[i] = PEERS + FRESH
        for j in range(min(place, PEERS - 1), 0, -1):
            peers[c, j] = peers[c, j - 1]
        peers[c, 0] = s
        if slot[c] < 0:
            last[0, c] = met[0, f]
            met[0, f] += 1
        if slot[s] < 0:
            last[1, s] = met[1, f]
            met[1, f] += 1
    return out_client, out_server


@numba.njit(cache=True)
def hosts_of_tokens(
    client: NDArray[np.int64],
    server: NDArray[np.int64],
    family: NDArray[np.int64],
    edges: NDArray[np.int64],
    chance: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """A number a host for the client and the server of each conversation (n,), and the family of each made-up host.

    Numbers below `HOST_SLOTS` are slots; the k-th made-up host is `HOST_SLOTS` + k. What a token asks for and is not
    there (a peer that the client does not have, a lag before the first) is a new host. `chance` (n, 2) is uniform.
    """
    n = len(client)
    hosts = HOST_SLOTS + 2 * n
    out_client, out_server = np.empty(n, np.int64), np.empty(n, np.int64)
    made = np.empty(2 * n, np.int64)
    count = 0
    peers = np.full((hosts, PEERS), -1, np.int32)
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
        place = PEERS
        if token < PEERS:
            s = peers[c, token]
        elif token < PEERS + HOST_SLOTS:
            s = token - PEERS
        elif token >= PEERS + LAG:
            s = _back(seen[1, f], met[1, f], token - PEERS - LAG, edges, chance[i, 1])
        if s < 0:
            s = HOST_SLOTS + count
            made[count] = f
            count += 1
        for j in range(PEERS):
            if peers[c, j] == s:
                place = j
                break
        for j in range(min(place, PEERS - 1), 0, -1):
            peers[c, j] = peers[c, j - 1]
        peers[c, 0] = s
        if c >= HOST_SLOTS:
            seen[0, f, met[0, f]] = c
            met[0, f] += 1
        if s >= HOST_SLOTS:
            seen[1, f, met[1, f]] = s
            met[1, f] += 1
        out_client[i], out_server[i] = c, s
    return out_client, out_server, made[:count]


@numba.njit(cache=True)
def _back(
    seen: NDArray[np.int64], met: int, lag_bin: int, edges: NDArray[np.int64], chance: float
) -> int:
    """The host that was met a lag ago, -1 where nobody was."""
    first, end = edges[lag_bin], edges[lag_bin + 1]
    lag = first + np.int64(chance * (end - first))
    return seen[met - lag] if lag <= met else (seen[met - first] if first <= met else -1)
