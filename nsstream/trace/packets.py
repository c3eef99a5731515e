"""PacketBatch: packets as read-only columns, no Python object a packet.

Promises: every column of `fields.PACKET_FIELDS` is there, with its exact dtype, and all are of one length; nobody
writes to them (the arrays are flagged read-only). Rows are in the order of observation; times may step back where the
capture did. Ports are 0 unless the packet is the first fragment of TCP, UDP or SCTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.fields import PACKET_FIELDS


@dataclass(frozen=True, slots=True)
class PacketBatch:
    """n packets; each attribute is a column, documented in `fields.PACKET_FIELDS`."""

    observation_time_ns: NDArray[np.int64]
    ip_version: NDArray[np.uint8]
    source_address: NDArray[np.uint8]  # (n, 16)
    destination_address: NDArray[np.uint8]  # (n, 16)
    protocol_identifier: NDArray[np.uint8]
    source_transport_port: NDArray[np.uint16]
    destination_transport_port: NDArray[np.uint16]
    ip_total_length: NDArray[np.uint32]
    ip_header_length: NDArray[np.uint16]
    ip_class_of_service: NDArray[np.uint8]
    ip_ttl: NDArray[np.uint8]
    flow_label_ipv6: NDArray[np.uint32]
    fragment_identification: NDArray[np.uint32]
    fragment_offset: NDArray[np.uint16]
    fragment_flags: NDArray[np.uint8]
    tcp_control_bits: NDArray[np.uint16]
    tcp_sequence_number: NDArray[np.uint32]
    tcp_acknowledgement_number: NDArray[np.uint32]
    tcp_window_size: NDArray[np.uint16]
    tcp_header_length: NDArray[np.uint8]
    icmp_type: NDArray[np.uint8]
    icmp_code: NDArray[np.uint8]
    vlan_id: NDArray[np.uint16]

    def __post_init__(self) -> None:
        n = len(self.observation_time_ns)
        for name, (dtype, cell, _) in PACKET_FIELDS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != (n, *cell):
                raise ValueError(f"{name} must be {dtype} {(n, *cell)}, got {column.dtype} {column.shape}")
            column.flags.writeable = False

    def __len__(self) -> int:
        return len(self.observation_time_ns)

    @classmethod
    def empty(cls, n: int = 0) -> Self:
        """A batch of n rows of zeros."""
        return cls.from_columns({k: np.zeros((n, *cell), dtype) for k, (dtype, cell, _) in PACKET_FIELDS.items()})

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[np.generic]]) -> Self:
        """Make a batch from a mapping of all columns by name; the arrays become read-only."""
        return cls(**columns)  # type: ignore[arg-type]  # __post_init__ checks what mypy cannot

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """All columns by name, in the order of `PACKET_FIELDS`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def take(self, rows: NDArray[np.generic] | slice) -> Self:
        """The rows that an index array, a mask or a slice selects."""
        return type(self).from_columns({k: v[rows] for k, v in self.columns().items()})

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """One batch of all rows in order; of no batches, the empty one."""
        if not batches:
            return cls.empty()
        if len(batches) == 1:
            return batches[0]
        return cls.from_columns({k: np.concatenate([getattr(b, k) for b in batches]) for k in PACKET_FIELDS})
