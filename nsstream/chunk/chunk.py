"""Chunk: the rows of one interval, closed and immutable, with what became of every record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np

from nsstream.chunk.interval import id_of
from nsstream.chunk.rows import FIELDS, Fate, Kind, Rows, kind_of, label_names_of, time_of, with_sorted_labels
from nsstream.chunk.scratch import BLOCK_ROWS, is_in_time_order, shed
from nsstream.counters import Tally
from nsstream.errors import StateError
from nsstream.trace import FlowTable, PacketBatch


@dataclass(frozen=True, slots=True)
class Chunk:
    """The packets or flows of one interval, in time order (rows of one time in order of arrival); immutable.

    A flow is in the interval of its end. `tally` counts what became of the interval's rows, and of all other records
    that came since a chunk last closed: late, future, malformed, dropped; and what became of the packets behind flows
    since then. `is_partial` says that the input did not
    reach the end of the interval, or that another part of it stands in a chunk before (`part_id`). `digest` is the
    SHA-256 of id and columns: same input, same digest. `sampling_interval`: one conversation in so many was kept, each
    of them whole. `recovered` rows came out of a journal after the writing process had died.

    A chunk of another fate than kept holds the late or the future rows that another one's tally tells of, and has its
    interval: of their arrival. Those are a chunk's `apart` as it closes, and of what is read none.
    """

    id: str
    start_ns: int
    end_ns: int
    table: Rows
    tally: Tally
    is_partial: bool
    digest: str
    sampling_interval: int = 1
    recovered: int = 0
    fate: Fate = Fate.KEPT
    apart: tuple[Chunk, ...] = ()

    def __post_init__(self) -> None:
        time_ns = time_of(self.table)
        is_kept = self.fate is Fate.KEPT
        if is_kept and len(time_ns) and not (self.start_ns <= time_ns[0] and time_ns[-1] < self.end_ns):
            raise ValueError(f"chunk {self.id} holds rows outside [{self.start_ns}, {self.end_ns})")
        if not is_in_time_order([self.table]):
            raise ValueError(f"chunk {self.id} is not in time order")

    @property
    def kind(self) -> Kind:
        """What its rows are."""
        return kind_of(self.table)

    @property
    def packets(self) -> PacketBatch:
        """The rows of a chunk of packets; raises StateError if it holds flows, or late or future packets."""
        if not isinstance(self.table, PacketBatch):
            raise StateError(f"chunk {self.id} holds flows, and packets are needed")
        self._check_kept()
        return self.table

    @property
    def flows(self) -> FlowTable:
        """The rows of a chunk of flows; raises StateError if it holds packets, or late or future flows."""
        if not isinstance(self.table, FlowTable):
            raise StateError(f"chunk {self.id} holds packets, and flows are needed")
        self._check_kept()
        return self.table

    def check_digest(self) -> None:
        """Raise StateError if the rows are not those that the digest was made of; reads all of them."""
        if digest_of(self.id, self.table) != self.digest:
            raise StateError(f"chunk {self.id} is damaged: its rows are not those that its digest was made of")

    def _check_kept(self) -> None:
        if self.fate is not Fate.KEPT:
            raise StateError(f"chunk {self.id} holds {self.fate} rows, which are to be looked at and not learned from")

    @classmethod
    def of(
        cls,
        start_ns: int,
        end_ns: int,
        table: Rows,
        tally: Tally,
        *,
        is_partial: bool,
        part: int = 0,
        sampling_interval: int = 1,
        recovered: int = 0,
        fate: Fate = Fate.KEPT,
        apart: tuple[Chunk, ...] = (),
    ) -> Self:
        """A chunk of these rows, which are in time order; id and digest follow from interval, part and rows."""
        table = with_sorted_labels(table)
        chunk_id = part_id(start_ns, end_ns, kind_of(table), part, fate)
        digest = digest_of(chunk_id, table)
        return cls(
            chunk_id, start_ns, end_ns, table, tally, is_partial, digest, sampling_interval, recovered, fate, apart
        )  # fmt: skip


def part_id(start_ns: int, end_ns: int, kind: Kind, part: int = 0, fate: Fate = Fate.KEPT) -> str:
    """The id of a chunk: its interval's, what it holds, and its part.

    ``-flows`` where it holds flows, ``-late`` or ``-future`` where its rows are apart, ``-p<part>`` behind a stop in
    its middle.
    """
    held = ("-flows" if kind is Kind.FLOWS else "") + ("" if fate is Fate.KEPT else f"-{fate}")
    return id_of(start_ns, end_ns) + held + (f"-p{part}" if part else "")


def digest_of(chunk_id: str, table: Rows) -> str:
    """SHA-256 over an id and every column's name, dtype and octets (little endian), and label names; hexadecimal."""
    digest = hashlib.sha256(chunk_id.encode())
    for name, (dtype, _, _) in FIELDS[kind_of(table)].items():
        digest.update(f"\0{name}:{dtype.newbyteorder('<').str}\0".encode())
        column = getattr(table, name)
        for start in range(0, len(column), BLOCK_ROWS):
            digest.update(np.ascontiguousarray(column[start : start + BLOCK_ROWS], dtype.newbyteorder("<")).data)
            shed([column])
    for label in label_names_of(table):
        digest.update(f"\0{label}".encode())
    return digest.hexdigest()
