"""Frames: whole Ethernet frames with the time at which each is to be seen, ready for a pcap writer or a sender.

Promises: times rise strictly, offsets rise from 0 to the number of octets, arrays are read-only. The arrays are what
`nsstream.wire.pcap.write_records` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Frames:
    """m frames in time order; frame i is ``octets[offset[i]:offset[i + 1]]``, without preamble, padding and FCS.

    `side` says which end of its conversation a frame comes from: 0 the initiator (the client), 1 the responder.
    """

    observation_time_ns: NDArray[np.int64]  # (m,), since the Unix epoch, strictly rising
    offset: NDArray[np.int64]  # (m + 1,)
    octets: NDArray[np.uint8]
    side: NDArray[np.uint8] = field(
        default_factory=lambda: np.empty(0, np.uint8)
    )  # (m,), see above; zeros if not given

    def __post_init__(self) -> None:
        m = len(self.observation_time_ns)
        if m and not len(self.side):
            object.__setattr__(self, "side", np.zeros(m, np.uint8))
        if self.offset.shape != (m + 1,) or self.offset[0] != 0 or self.offset[-1] != len(self.octets):
            raise ValueError(f"offset must rise from 0 to {len(self.octets)} in {m + 1} steps")
        if m > 1 and (np.diff(self.observation_time_ns) <= 0).any():
            raise ValueError("observation_time_ns must rise strictly")
        if self.side.shape != (m,):
            raise ValueError(f"side must have {m} rows, got shape {self.side.shape}")
        for column in (self.observation_time_ns, self.offset, self.octets, self.side):
            column.flags.writeable = False

    def __len__(self) -> int:
        return len(self.observation_time_ns)

    def slice(self, start: int, stop: int) -> Self:
        """Frames ``start <= i < stop``; the octets are a view."""
        start, stop, _ = slice(start, stop).indices(len(self))
        stop = max(start, stop)
        first, last = int(self.offset[start]), int(self.offset[stop])
        return type(self)(
            self.observation_time_ns[start:stop],
            self.offset[start : stop + 1] - first,
            self.octets[first:last],
            self.side[start:stop],
        )

    def frame(self, i: int) -> bytes:
        """The octets of frame i."""
        return self.octets[self.offset[i] : self.offset[i + 1]].tobytes()
