"""Copying: how much of a trace stands in another one. Lower is better, down to what two real samples share anyway.

Five-tuples count only with an ephemeral port (TCP and UDP, 32768 up): those that recur by nature (ICMP, mDNS, NTP) are
nobody's secret. A fingerprint is a flow's ports, protocol and the exact sequence of its sizes, in flows of six packets
or more; addresses are no part of it, so that an address map cannot hide a copy.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.observed import Observed, mix
from nsstream.trace.fields import TCP, UDP

EPHEMERAL_PORT: Final = 32768  # Linux's ip_local_port_range starts here
FINGERPRINT_PACKETS: Final = 6


def copying(real: Observed, other: Observed) -> dict[str, float]:
    """The shares of `other`'s five-tuples, addresses and flow fingerprints that stand in `real`, in [0, 1].

    Shares are 0 where `other` has none to compare.
    """
    return {
        "five_tuples": _share(np.unique(_one_off(other)), _one_off(real)),
        "addresses": _share(_addresses(other), _addresses(real)),
        "flow_fingerprints": _share(_fingerprints(other), _fingerprints(real)),
    }


def _share(looked_for: NDArray[np.uint64], among: NDArray[np.uint64]) -> float:
    return float(np.isin(looked_for, among).mean()) if len(looked_for) else 0.0


def _one_off(trace: Observed) -> NDArray[np.uint64]:
    """Identities of the flows that have an ephemeral port."""
    packets, first = trace.packets, trace.flow_first
    port = np.maximum(packets.source_transport_port[first], packets.destination_transport_port[first])
    return trace.flow_identity[(port >= EPHEMERAL_PORT) & np.isin(packets.protocol_identifier[first], (TCP, UDP))]


def _addresses(trace: Observed) -> NDArray[np.uint64]:
    return np.unique(np.concatenate([trace.source, trace.destination]))


def _fingerprints(trace: Observed) -> NDArray[np.uint64]:
    """One identity a flow of six packets or more: ports, protocol and all sizes in order."""
    packets, start, count = trace.packets, trace.flow_offset[:-1], trace.flow_packet_count
    place = np.arange(len(packets)) - np.repeat(start, count)
    sizes = np.add.reduceat(mix(packets.ip_total_length[trace.by_flow], place), start)  # wraps around, as a hash may
    first = trace.flow_first
    ports = packets.source_transport_port[first], packets.destination_transport_port[first]
    return mix(*ports, packets.protocol_identifier[first], count, sizes)[count >= FINGERPRINT_PACKETS]
