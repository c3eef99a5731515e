"""What the detector may look at: one row a flow, everything but addresses and the numbers of ephemeral ports.

Promises: the columns of `FEATURE_NAMES`, in that order, all finite. Missing packets of short flows read as -1 (sizes,
flags) or -9 (gaps), values that no packet has.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.observed import Observed

FIRST_PACKETS: Final = 6
TIME_SLOTS: Final = 32  # coarse: a detector must not live on the exact instant of one burst
FEATURE_NAMES: Final[tuple[str, ...]] = (
    "protocol",
    "source_port",
    "destination_port",
    "packet_count",
    "octet_count",
    "mean_size",
    "largest_size",
    "smallest_size",
    "ttl",
    "duration",
    "start_slot",
    *(f"size_of_packet_{i + 1}" for i in range(FIRST_PACKETS)),
    *(f"flags_of_packet_{i + 1}" for i in range(FIRST_PACKETS)),
    *(f"gap_before_packet_{i + 1}" for i in range(1, FIRST_PACKETS)),
)


def flow_features(trace: Observed, span_s: float) -> NDArray[np.float64]:
    """Features of every flow: (k, len(FEATURE_NAMES)); `span_s` is the length that start slots divide."""
    packets, first, last = trace.packets, trace.flow_first, trace.flow_last
    start, count = trace.flow_offset[:-1], trace.flow_packet_count
    size = packets.ip_total_length[trace.by_flow].astype(np.float64)
    flags = packets.tcp_control_bits[trace.by_flow].astype(np.float64)
    gap = np.log10(np.maximum(np.diff(trace.time_s[trace.by_flow], prepend=0.0), 0) + 1e-6)
    octets = np.add.reduceat(size, start)
    columns: list[NDArray[Any]] = [
        packets.protocol_identifier[first],
        _port_class(packets.source_transport_port[first]),
        _port_class(packets.destination_transport_port[first]),
        np.log1p(count),
        np.log1p(octets),
        octets / count,
        np.maximum.reduceat(size, start),
        np.minimum.reduceat(size, start),
        packets.ip_ttl[first],
        np.log10(trace.time_s[last] - trace.time_s[first] + 1e-6),
        np.floor(TIME_SLOTS * trace.time_s[first] / (span_s or 1.0)),
    ]
    row = [np.minimum(start + i, len(size) - 1) for i in range(FIRST_PACKETS)]
    columns += [np.where(count > i, size[row[i]], -1) for i in range(FIRST_PACKETS)]
    columns += [np.where(count > i, flags[row[i]], -1) for i in range(FIRST_PACKETS)]
    columns += [np.where(count > i, gap[row[i]], -9) for i in range(1, FIRST_PACKETS)]
    return np.column_stack(columns).astype(np.float64)


def _port_class(port: NDArray[np.uint16]) -> NDArray[np.int64]:
    """System ports by number; registered ones and ephemeral ones as two classes."""
    return np.where(port < 1024, port.astype(np.int64), np.where(port < 32768, 1024, 2048))
