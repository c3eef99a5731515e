"""FlowColumns: where the loops write flow records to. One matrix a dtype, one row of it a column of `FlowTable`.

Few large arrays cost less to make, and to hand to a loop, than thirty small ones; the columns of a table are views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.trace import FlowTable

INT64: Final = ("flow_start_ns", "flow_end_ns")
UINT64: Final = (
    "packet_delta_count",
    "octet_delta_count",
    "reverse_packet_delta_count",
    "reverse_octet_delta_count",
)
UINT32: Final = (
    "ingress_interface",
    "egress_interface",
    "bgp_source_as_number",
    "bgp_destination_as_number",
    "sampling_interval",
    "observation_domain_id",
)
UINT16: Final = (
    "source_transport_port",
    "destination_transport_port",
    "icmp_type_code",
    "tcp_control_bits",
    "reverse_tcp_control_bits",
    "vlan_id",
    "label",
)
UINT8: Final = (
    "ip_version",
    "protocol_identifier",
    "ip_class_of_service",
    "flow_end_reason",
    "flow_direction",
    "source_prefix_length",
    "destination_prefix_length",
    "time_quality",
)
ADDRESSES: Final = ("source_address", "destination_address", "ip_next_hop_address", "exporter_address")

# Rows of the matrices, for the loops.
PACKETS, OCTETS, REVERSE_PACKETS, REVERSE_OCTETS = range(len(UINT64))
INGRESS, EGRESS, SOURCE_AS, DESTINATION_AS, SAMPLING_INTERVAL, DOMAIN = range(len(UINT32))
SOURCE_PORT, DESTINATION_PORT, ICMP, TCP_BITS, REVERSE_TCP_BITS, VLAN, LABEL = range(len(UINT16))
VERSION, PROTOCOL, CLASS_OF_SERVICE, END_REASON, DIRECTION, SOURCE_PREFIX, DESTINATION_PREFIX, QUALITY = range(
    len(UINT8)
)
SOURCE, DESTINATION, NEXT_HOP, EXPORTER = range(len(ADDRESSES))


@dataclass(frozen=True, slots=True)
class FlowColumns:
    """Room for n flows; contents undefined but for labels, which are 0."""

    int64: NDArray[np.int64]  # (len(INT64), n)
    uint64: NDArray[np.uint64]
    uint32: NDArray[np.uint32]
    uint16: NDArray[np.uint16]
    uint8: NDArray[np.uint8]
    addresses: NDArray[np.uint64]  # (len(ADDRESSES), n, 2): octets in network order

    @classmethod
    def with_room_for(cls, n: int) -> Self:
        """Columns of n rows."""
        columns = cls(
            np.empty((len(INT64), n), np.int64),
            np.empty((len(UINT64), n), np.uint64),
            np.empty((len(UINT32), n), np.uint32),
            np.empty((len(UINT16), n), np.uint16),
            np.empty((len(UINT8), n), np.uint8),
            np.empty((len(ADDRESSES), n, 2), np.uint64),
        )
        columns.uint16[UINT16.index("label")] = 0
        return columns

    def table(self, n: int) -> FlowTable:
        """The first n rows as a table."""
        columns: dict[str, NDArray[np.generic]] = {}
        for names, matrix in (
            (INT64, self.int64),
            (UINT64, self.uint64),
            (UINT32, self.uint32),
            (UINT16, self.uint16),
            (UINT8, self.uint8),
        ):
            columns.update({name: matrix[i, :n] for i, name in enumerate(names)})
        octets = self.addresses.view(np.uint8)
        columns.update({name: octets[i, :n] for i, name in enumerate(ADDRESSES)})
        return FlowTable.from_columns(columns)
