"""Hosts of conversations as tokens that name nobody rare, and back.

A host that is frequent has a slot. Any other is new, or somebody of a kind, last named so many rare hosts ago (a lag,
by bin): named in that role (who sends the first record, or who gets it) once before, twice, more often, or in the other
role alone. How often hosts come back, after how long and in which roles is kept, and who they are is not. Where one of
both is rare, a server whom its client asked lately is told as that: as its latest peer for the same service, the one
before, ..., or as one for another service. Of rare servers that come back otherwise, some were with the same client
before and some with another; their share differs from network to network, and is kept. So hosts talk to as many others
as they did.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_schema import FRESH, HOST_SLOTS, LAG, LAGS, PEERS

KNOWN: Final = 4  # kinds of rare hosts that were named before
REACHES: Final = LAGS // KNOWN  # bins of lags
_OTHER_ROLE: Final = KNOWN - 1

# First lag of each bin; the last one has no end.
LAG_EDGES: Final[NDArray[np.int64]] = np.append(2 ** np.arange(REACHES), 1 << 62)

_ANYBODY, _OTHER, _SAME = range(3)  # with whom somebody who comes back was before
_KEPT: Final = 16  # peers that are remembered of a client, each with a service


@numba.njit(cache=True, nogil=True)
def host_tokens(
    client: NDArray[np.int64],
    server: NDArray[np.int64],
    service: NDArray[np.int64],
    service_first: NDArray[np.int64],
    family: NDArray[np.int64],
    slot: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Tokens (n,) of clients and of servers, and with whom each server was before, where its token is a lag.

    That is 1 if it was with the same client, 0 if with another, and -1 where the token is no lag.

    Args:
        client: (n,) a number a host, below `len(slot)`.
        server: (n,) the same.
        service: (n,) what for.
        service_first: (n,) 1 where the server sends the first record, else 0.
        family: (n,) 0 or 1: lags are counted within one IP version.
        slot: slot of each host, -1 where it has none.
        edges: `LAG_EDGES`.
    """
    n, hosts = len(client), len(slot)
    out_client, out_server, again = np.empty(n, np.int64), np.empty(n, np.int64), np.full(n, -1, np.int64)
    last, partner = np.full(hosts, -1, np.int64), np.full(hosts, -1, np.int64)
    named = np.zeros((2, hosts), np.int64)
    met = np.zeros(2, np.int64)
    peers = np.full((hosts, _KEPT, 2), -1, np.int32)
    for i in range(n):
        c, s, f = client[i], server[i], family[i]
        role = service_first[i]
        if slot[c] >= 0:
            out_client[i] = slot[c]
        elif last[c] >= 0:
            out_client[i] = _lag_token(met[f] - last[c], named[role, c], edges)
        else:
            out_client[i] = FRESH
        token = _peer_token(peers[c], s, service[i])
        if token >= 0 and (slot[c] < 0 or slot[s] < 0):
            out_server[i] = token
        elif slot[s] >= 0:
            out_server[i] = PEERS + slot[s]
        elif last[s] >= 0:
            out_server[i] = PEERS + _lag_token(met[f] - last[s], named[1 - role, s], edges)
            again[i] = partner[s] == c
        else:
            out_server[i] = PEERS + FRESH
        _remember(peers[c], s, service[i])
        partner[c], partner[s] = s, c
        for way, host in ((role, c), (1 - role, s)):
            if slot[host] < 0:
                last[host] = met[f]
                named[way, host] += 1
                met[f] += 1
    return out_client, out_server, again


@numba.njit(cache=True, nogil=True)
def hosts_of_tokens(
    client: NDArray[np.int64],
    server: NDArray[np.int64],
    service: NDArray[np.int64],
    service_first: NDArray[np.int64],
    family: NDArray[np.int64],
    edges: NDArray[np.int64],
    chance: NDArray[np.float64],
    share_again: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """A number a host for the client and the server of each conversation (n,), and the family of each made-up host.

    Numbers below `HOST_SLOTS` are slots; the k-th made-up host is `HOST_SLOTS` + k. What a token asks for and is not
    there is, of a peer, the latest one, of somebody known, one of that kind with another lag, and else a new host.
    `chance` (n, 3) is uniform. `share_again` of the servers that come back were with the same client before.
    """
    n = len(client)
    hosts = HOST_SLOTS + 2 * n
    out_client, out_server = np.empty(n, np.int64), np.empty(n, np.int64)
    made = np.empty(2 * n, np.int64)
    count = 0
    peers = np.full((hosts, _KEPT, 2), -1, np.int32)
    seen = np.empty((2, 2 * n), np.int64)
    last, partner = np.full(hosts, -1, np.int64), np.full(hosts, -1, np.int64)
    named = np.zeros((2, hosts), np.int64)
    met = np.zeros(2, np.int64)
    for i in range(n):
        f, role = family[i], service_first[i]
        c = s = -1
        token = client[i]
        if token < HOST_SLOTS:
            c = token
        elif token >= LAG:
            c = _back(seen[f, : met[f]], last, named[role], token - LAG, edges, chance[i, 0], -1, partner, _ANYBODY)
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
            was_with = _SAME if chance[i, 2] < share_again else _OTHER
            kind = token - PEERS - LAG
            s = _back(seen[f, : met[f]], last, named[1 - role], kind, edges, chance[i, 1], c, partner, was_with)
        if s < 0:
            s = HOST_SLOTS + count
            made[count] = f
            count += 1
        _remember(peers[c], s, service[i])
        partner[c], partner[s] = s, c
        for way, host in ((role, c), (1 - role, s)):
            if host >= HOST_SLOTS:
                seen[f, met[f]] = host
                last[host] = met[f]
                named[way, host] += 1
                met[f] += 1
        out_client[i], out_server[i] = c, s
    return out_client, out_server, made[:count]


@numba.njit(cache=True, nogil=True)
def _lag_token(lag: int, named: int, edges: NDArray[np.int64]) -> int:
    """The token of a host that was last named so many rare hosts ago, and so often in this role."""
    return LAG + _kind(named) * REACHES + int(np.searchsorted(edges, lag, side="right")) - 1


@numba.njit(cache=True, nogil=True)
def _kind(named: int) -> int:
    """Once, twice, more often; or, never in this role, the last kind."""
    return min(named, _OTHER_ROLE) - 1 if named else _OTHER_ROLE


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
def _back(
    seen: NDArray[np.int64],
    last: NDArray[np.int64],
    named: NDArray[np.int64],
    token: int,
    edges: NDArray[np.int64],
    chance: float,
    other: int,
    partner: NDArray[np.int64],
    was_with: int,
) -> int:
    """A host of a token's kind, last named a lag ago or, where there is none, at any time; -1 where there is none.

    `seen` (k,) are the rare hosts in the order in which they were named, `last` and `named` where and how often each
    was, `partner` with whom; `other` is nobody to be found, and who is was last with him, or not, if there are such:
    of that kind, or of any.
    """
    kind, reach = token // REACHES, token % REACHES
    met = len(seen)
    near = max(met - edges[reach + 1] + 1, 0), met - edges[reach] + 1
    for wanted, of_any_kind in ((was_with, False), (was_with, True), (_ANYBODY, False)):
        for first, end in (near, (0, met)):
            for step in range(end - first):
                at = first + (int(chance * (end - first)) + step) % (end - first)
                host = seen[at]
                fits = wanted == _ANYBODY or (partner[host] == other) == (wanted == _SAME)
                fits &= of_any_kind or _kind(named[host]) == kind
                if fits and last[host] == at and host != other:
                    return int(host)
        if was_with == _ANYBODY:
            break
    return -1
