"""RecordIndex: where the packet records of a block of octets are, whatever file format or ring framed them.

The meeting point of framing (`pcap`, `pcapng`) and dissection (`dissect`): a scan fills an index, `dissect` reads it.
An index is scratch memory that its owner fills again and again; only rows below the count that the scan returned count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

OUT_OF_RANGE: Final = -1  # in time_ns: before 1970 or after 2262
NO_TIME: Final = -2  # in time_ns: the record says none


@dataclass(frozen=True, slots=True)
class RecordIndex:
    """Columns of equal length, one row a record."""

    time_ns: NDArray[np.int64]  # since the Unix epoch, or OUT_OF_RANGE or NO_TIME
    start: NDArray[np.int64]  # index of the first octet of the frame in the block
    captured_length: NDArray[np.int64]  # octets of the frame in the block
    original_length: NDArray[np.int64]  # octets on the wire, at least captured_length
    link_type: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time_ns)

    @classmethod
    def with_room_for(cls, n: int) -> Self:
        """An index of n rows, contents undefined."""
        return cls(*(np.empty(n, np.int64) for _ in range(5)))
