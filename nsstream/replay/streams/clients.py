"""NewClients: who has the conversations that a scenario adds, where they are not to be the same clients again.

Promises: a client keeps its new address as long as the stream lasts; the new address is of the old one's subnet (/24;
/64 of IPv6), and where that is full of the next larger one (/16), and is no host that the model knows. Hosts that
answer in the table keep their addresses, and so do addresses that are not one host's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from nsstream.trace import ConversationTable

MOST_REMEMBERED: Final = 1 << 16
_TRIES: Final = 64
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class NewClients:
    """Replaces initiators; `key` makes one set of new clients differ from another."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key, digest_size=32).digest()
        self._new: dict[bytes, bytes] = {}
        self._taken: set[bytes] = set()

    def replace(self, table: ConversationTable, known: Iterable[bytes]) -> ConversationTable:
        """The table with other initiators; `known` are addresses that no client may get."""
        initiators, where = np.unique(table.initiator_address, axis=0, return_inverse=True)
        servers = {address.tobytes() for address in np.unique(table.responder_address, axis=0)}
        avoided = servers | {address.tobytes() for address in initiators} | set(known)
        new = [self._of(a.tobytes(), avoided) if a.tobytes() not in servers else a.tobytes() for a in initiators]
        column = np.frombuffer(b"".join(new), np.uint8).reshape(-1, 16)[where.reshape(-1)].copy()
        return replace(table, initiator_address=column)

    def _of(self, address: bytes, avoided: set[bytes]) -> bytes:
        found = self._new.get(address)
        if found is not None:
            return found
        if not _is_host(address):
            return address
        new = address
        for attempt in range(_TRIES):
            drawn = hashlib.blake2b(address + attempt.to_bytes(1, "big"), key=self._key, digest_size=8).digest()
            if address.startswith(_V4_MAPPED):
                middle = address[14:15] if attempt < _TRIES // 2 else drawn[1:2]
                new = address[:14] + middle + bytes([1 + drawn[0] % 254])
            else:
                new = address[:8] + drawn
            if new not in avoided and new not in self._taken:
                break
        else:
            return address
        if len(self._new) >= MOST_REMEMBERED:
            self._new.clear()
            self._taken.clear()
        self._new[address] = new
        self._taken.add(new)
        return new


def _is_host(address: bytes) -> bool:
    """Whether the address is one host's: not unspecified, loopback, multicast or broadcast."""
    if address.startswith(_V4_MAPPED):
        return 0 < address[12] < 224 and address[12] != 127
    return address[0] != 0xFF and any(address[:15])
