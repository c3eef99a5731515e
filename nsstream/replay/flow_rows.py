"""FlowRows: flow records with the time at which each is to be seen, which is that of its end, and their block.

A record is exported when its flow has ended; so the rows stand in the order of their ends, as frames in that of their
times, and whatever counts or paces frames does the same with them. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.flows import FlowTable


class FlowRows:
    """m flow records in the order of their ends.

    Args:
        table: whose `flow_end_ns` never falls.
    """

    def __init__(self, table: FlowTable) -> None:
        if (np.diff(table.flow_end_ns) < 0).any():
            raise ValueError("flow_end_ns must never fall")
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def observation_time_ns(self) -> NDArray[np.int64]:
        """(m,) when each is to be seen, since the Unix epoch."""
        return self.table.flow_end_ns

    @cached_property
    def offset(self) -> NDArray[np.int64]:
        """(m + 1,) octets that the records before each count, from 0."""
        octets = (self.table.octet_delta_count + self.table.reverse_octet_delta_count).astype(np.int64)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(octets)])

    @property
    def packet_count(self) -> int:
        """Packets that they count."""
        return int((self.table.packet_delta_count + self.table.reverse_packet_delta_count).sum())

    def slice(self, start: int, stop: int) -> Self:
        """Rows ``start <= i < stop``."""
        return type(self)(self.table.take(slice(start, stop)))


@dataclass(frozen=True, slots=True)
class FlowBlock:
    """Flow records of one chunk, and what is known of them; as `stream.FrameBlock`."""

    chunk: int  # 1 for the first
    model_id: str
    rows: FlowRows
    tally: Mapping[str, int] = field(default_factory=dict)
    seek_count: int = 0
