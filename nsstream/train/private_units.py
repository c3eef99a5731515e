"""Units: whose conversations are protected together, and how many of each are learned.

A *host* is all conversations that an address initiates, a *flow* is one conversation: in a chunk there is one to a
five-tuple (`trace.grouping`). Addresses are those that were seen, before any map. At most so many conversations of
a unit are learned, and so many packets, chosen by lot for each unit apart: what a unit gives does not depend on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.trace import ConversationTable
from nsstream.train.private_chance import Chance

UnitName = Literal["host", "flow"]


@dataclass(frozen=True)
class Units:
    """The units of a chunk, by key.

    Attributes:
        keys: of u units.
        rows: (n,) the conversations that are kept, rising.
        owner: (n,) which unit each of them is of.
    """

    keys: list[bytes]
    rows: NDArray[np.int64]
    owner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def conversation_count(self) -> NDArray[np.int64]:
        """Conversations kept of each unit: (u,)."""
        return np.bincount(self.owner, minlength=len(self))


def units_of(table: ConversationTable, unit: UnitName, most: int, chance: Chance) -> Units:
    """The units of a chunk's conversations, and at most so many conversations of each."""
    return units_by(_keys(table, unit), most, chance)


def units_by(keys: NDArray[np.uint8], most: int, chance: Chance) -> Units:
    """Units by what tells them apart (n, octets), and at most so many conversations of each."""
    keys, which = np.unique(keys, axis=0, return_inverse=True)
    which = which.ravel()
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=len(keys)))
    named = [key.tobytes() for key in keys]
    kept = []
    for u, (begin, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)):
        kept.append(order[begin + chance.choose(b"conversations", named[u], int(end - begin), most)])
    rows = np.sort(np.concatenate([np.zeros(0, np.int64), *kept]))
    return Units(named, rows, which[rows])


def _keys(table: ConversationTable, unit: UnitName) -> NDArray[np.uint8]:
    """What tells units apart, an octet string a conversation: (n, octets)."""
    host = [table.ip_version[:, None].astype(np.uint8), table.initiator_address]
    if unit == "host":
        return np.concatenate(host, axis=1)
    numbers = (table.protocol_identifier, table.initiator_port, table.responder_port, table.is_fragment)
    told = [np.ascontiguousarray(column, np.int64)[:, None].view(np.uint8) for column in numbers]
    return np.concatenate([*host, table.responder_address, *told], axis=1)
