"""FlowTable: flow records as read-only columns, whoever metered them: an exporter, a collector's file, or `metering`.

Promises: every column of `fields.FLOW_FIELDS` is there, with its exact dtype, and all are of one length; every flow has
``flow_start_ns <= flow_end_ns`` and counts at least one packet, forward or reverse; nobody writes to the columns. Rows
are in the order of arrival. Counts are as exported; `scaled_packet_count` and `scaled_octet_count` multiply them by the
sampling interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.fields import FLOW_FIELDS

# What a column holds where nobody told; every other one holds zeros.
DEFAULTS: Final[dict[str, int]] = {"sampling_interval": 1, "flow_direction": 255}


class FlowEndReason(IntEnum):
    """Why metering of a flow ended: IANA element 136, RFC 5102 section 5.11.3; 0 where nobody said."""

    UNKNOWN = 0
    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_OF_FLOW = 3  # detected: FIN from both sides, or RST
    FORCED_END = 4  # the meter was shut down
    LACK_OF_RESOURCES = 5


class TimeQuality(IntFlag):
    """What the times of a flow rest on; 0: absolute times in the record itself, or uptime and its epoch."""

    EXACT = 0
    GUESSED_UPTIME = 1  # relative to a boot time that the exporter never told: it was inferred from the export time
    EXPORT_TIME = 2  # the record has no times: they are those of the export
    CLAMPED = 4  # far from the time of receipt, and moved to it; or the end was before the start, and moved to that


@dataclass(frozen=True, slots=True)
class FlowTable:
    """n flows; each attribute but the last is a column, documented in `fields.FLOW_FIELDS`."""

    flow_start_ns: NDArray[np.int64]
    flow_end_ns: NDArray[np.int64]
    ip_version: NDArray[np.uint8]
    source_address: NDArray[np.uint8]  # (n, 16)
    destination_address: NDArray[np.uint8]  # (n, 16)
    protocol_identifier: NDArray[np.uint8]
    source_transport_port: NDArray[np.uint16]
    destination_transport_port: NDArray[np.uint16]
    icmp_type_code: NDArray[np.uint16]
    packet_delta_count: NDArray[np.uint64]
    octet_delta_count: NDArray[np.uint64]
    tcp_control_bits: NDArray[np.uint16]
    reverse_packet_delta_count: NDArray[np.uint64]
    reverse_octet_delta_count: NDArray[np.uint64]
    reverse_tcp_control_bits: NDArray[np.uint16]
    ip_class_of_service: NDArray[np.uint8]
    flow_end_reason: NDArray[np.uint8]
    flow_direction: NDArray[np.uint8]
    ingress_interface: NDArray[np.uint32]
    egress_interface: NDArray[np.uint32]
    bgp_source_as_number: NDArray[np.uint32]
    bgp_destination_as_number: NDArray[np.uint32]
    source_prefix_length: NDArray[np.uint8]
    destination_prefix_length: NDArray[np.uint8]
    ip_next_hop_address: NDArray[np.uint8]  # (n, 16)
    vlan_id: NDArray[np.uint16]
    sampling_interval: NDArray[np.uint32]
    exporter_address: NDArray[np.uint8]  # (n, 16)
    observation_domain_id: NDArray[np.uint32]
    time_quality: NDArray[np.uint8]
    label: NDArray[np.uint16]
    label_names: tuple[str, ...] = ()  # what the codes of `label` stand for: code k is the name at k - 1, 0 is no label

    def __post_init__(self) -> None:
        n = len(self.flow_start_ns)
        for name, (dtype, cell, _) in FLOW_FIELDS.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != (n, *cell):
                raise ValueError(f"{name} must be {dtype} {(n, *cell)}, got {column.dtype} {column.shape}")
            column.flags.writeable = False
        if (self.flow_start_ns > self.flow_end_ns).any():
            raise ValueError("a flow ends before it starts")
        if ((self.packet_delta_count == 0) & (self.reverse_packet_delta_count == 0)).any():
            raise ValueError("a flow has no packet")
        if n and int(self.label.max()) > len(self.label_names):
            raise ValueError("a label has no name")

    def __len__(self) -> int:
        return len(self.flow_start_ns)

    @property
    def scaled_packet_count(self) -> NDArray[np.uint64]:
        """Packets of both directions that the wire is estimated to have had."""
        return (self.packet_delta_count + self.reverse_packet_delta_count) * self.sampling_interval.astype(np.uint64)

    @property
    def scaled_octet_count(self) -> NDArray[np.uint64]:
        """Octets of both directions that the wire is estimated to have had."""
        return (self.octet_delta_count + self.reverse_octet_delta_count) * self.sampling_interval.astype(np.uint64)

    @classmethod
    def empty(cls) -> Self:
        """A table without a row."""
        return cls.from_columns({"flow_start_ns": np.empty(0, np.int64)})

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[np.generic]], label_names: tuple[str, ...] = ()) -> Self:
        """Make a table of these columns, which become read-only; one that is not named is as nobody told it.

        ``flow_start_ns`` must be named: it says how many rows there are.
        """
        n = len(columns["flow_start_ns"])
        untold = {
            name: np.full((n, *cell), DEFAULTS.get(name, 0), dtype)
            for name, (dtype, cell, _) in FLOW_FIELDS.items()
            if name not in columns
        }
        return cls(**columns, **untold, label_names=label_names)  # type: ignore[arg-type]  # __post_init__ checks

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """All columns by name, in the order of `FLOW_FIELDS`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in FLOW_FIELDS}

    def take(self, rows: NDArray[np.generic] | slice) -> Self:
        """The rows that an index array, a mask or a slice selects."""
        return type(self).from_columns({k: v[rows] for k, v in self.columns().items()}, self.label_names)

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """One table of all rows in order, their labels joined by name; of no tables, the empty one."""
        if not tables:
            return cls.empty()
        if len(tables) == 1:
            return tables[0]
        names = tuple(dict.fromkeys(name for table in tables for name in table.label_names))
        code_of = {name: code for code, name in enumerate(names, 1)}
        labels = [
            np.array([0, *(code_of[name] for name in table.label_names)], np.uint16)[table.label] for table in tables
        ]
        columns = {k: np.concatenate([getattr(table, k) for table in tables]) for k in FLOW_FIELDS if k != "label"}
        return cls.from_columns(columns | {"label": np.concatenate(labels)}, names)
