"""Records of both directions as two of one direction each, for formats that have no other."""

from __future__ import annotations

from typing import Final

import numpy as np

from nsstream.trace.flows import FlowTable

_SWAPPED: Final = (
    ("source_address", "destination_address"),
    ("source_transport_port", "destination_transport_port"),
    ("ingress_interface", "egress_interface"),
    ("bgp_source_as_number", "bgp_destination_as_number"),
    ("source_prefix_length", "destination_prefix_length"),
    ("packet_delta_count", "reverse_packet_delta_count"),
    ("octet_delta_count", "reverse_octet_delta_count"),
    ("tcp_control_bits", "reverse_tcp_control_bits"),
)


def split_directions(table: FlowTable) -> FlowTable:
    """Each record that counts packets of both directions as two, the reverse one behind the forward one.

    One that counts the reverse direction alone becomes that. Both keep the times of the record, which does not tell
    them apart (RFC 5103 section 3), and its next hop, which is right for the forward one, is left out of the reverse.
    """
    is_reverse = table.reverse_packet_delta_count != 0
    if not is_reverse.any():
        return table
    forward = np.flatnonzero(table.packet_delta_count != 0)
    reverse = np.flatnonzero(is_reverse)
    order = np.argsort(np.concatenate([2 * forward, 2 * reverse + 1]), kind="stable")
    rows = np.concatenate([forward, reverse])[order]
    is_swapped = (np.arange(len(rows)) >= len(forward))[order]
    columns = {name: column[rows] for name, column in table.columns().items()}
    for one, other in _SWAPPED:
        a, b = columns[one], columns[other]
        choose = is_swapped[:, None] if a.ndim == 2 else is_swapped
        columns[one], columns[other] = np.where(choose, b, a), np.where(choose, a, b)
    for name in ("reverse_packet_delta_count", "reverse_octet_delta_count", "reverse_tcp_control_bits"):
        columns[name] = np.zeros_like(columns[name])
    columns["ip_next_hop_address"] = np.where(is_swapped[:, None], np.uint8(0), columns["ip_next_hop_address"])
    told = columns["flow_direction"]
    columns["flow_direction"] = np.where(is_swapped & (told < 2), np.uint8(1) - told % 2, told)
    return type(table).from_columns(columns, table.label_names)
