"""The distances that make up a score, by group: marginal, structure, volume. Lower is better, 0 is the same.

Promises: every function takes (real, synthetic), returns the same names for every pair of traces, and a trace measured
against itself is 0 throughout. None stands where a trace has nothing to measure (no TCP, a single packet).
Times are in seconds from each trace's own start; sizes are octets of the IP datagram.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.distances import correlation, jensen_shannon, rank_jensen_shannon, standard_earth_mover
from nsstream.score.observed import Observed, mix
from nsstream.trace.fields import TCP

# Bounds of size classes in octets: bare TCP segments, small requests, queries, part-filled and nearly full packets.
SIZE_BOUNDS: Final = np.array([53, 80, 200, 600, 1300])
RATE_BINS: Final = 60  # rates are taken over sixtieths of a trace
CATEGORY_MARGINALS: Final = ("source_address", "destination_address", "source_port", "destination_port", "protocol")
NUMBER_MARGINALS: Final = ("packet_size", "arrival_time", "flow_size")

Measures = dict[str, float | None]


def marginal(real: Observed, synthetic: Observed) -> Measures:
    """Each field by itself: NetShare's eight."""
    a, b = real.packets, synthetic.packets
    return {
        "source_address": rank_jensen_shannon(real.source, synthetic.source),
        "destination_address": rank_jensen_shannon(real.destination, synthetic.destination),
        "source_port": jensen_shannon(a.source_transport_port, b.source_transport_port),
        "destination_port": jensen_shannon(a.destination_transport_port, b.destination_transport_port),
        "protocol": jensen_shannon(a.protocol_identifier, b.protocol_identifier),
        "packet_size": standard_earth_mover(a.ip_total_length, b.ip_total_length),
        "arrival_time": standard_earth_mover(real.time_s, synthetic.time_s),
        "flow_size": standard_earth_mover(np.log1p(real.flow_packet_count), np.log1p(synthetic.flow_packet_count)),
    }


def structure(real: Observed, synthetic: Observed) -> Measures:
    """What single fields cannot show: order within flows, and fields that go together."""
    (gap_a, bigram_a, acf_a), (gap_b, bigram_b, acf_b) = _within_flows(real), _within_flows(synthetic)
    a, b = real.packets, synthetic.packets
    service_a, service_b = _service(real), _service(synthetic)
    return {
        "gap_in_flow": standard_earth_mover(gap_a, gap_b),
        "arrival_gap": standard_earth_mover(_arrival_gap(real), _arrival_gap(synthetic)),
        "duration": standard_earth_mover(_duration(real), _duration(synthetic)),
        "size_bigram": jensen_shannon(bigram_a, bigram_b),
        "size_correlation": abs(acf_a - acf_b),
        "size_value": jensen_shannon(a.ip_total_length, b.ip_total_length),
        "first_size": jensen_shannon(a.ip_total_length[real.flow_first], b.ip_total_length[synthetic.flow_first]),
        "ttl": jensen_shannon(a.ip_ttl, b.ip_ttl),
        "tcp_flags": jensen_shannon(_flags(real), _flags(synthetic)),
        "reply_share": abs(_reply_share(real) - _reply_share(synthetic)),
        "service": jensen_shannon(service_a, service_b),
        "service_by_size": jensen_shannon(mix(service_a, _size_class(real)), mix(service_b, _size_class(synthetic))),
        "fan_out": standard_earth_mover(_fan_out(real), _fan_out(synthetic)),
    }


def volume(real: Observed, synthetic: Observed) -> Measures:
    """How much, and how it swings: rates over sixtieths of the trace; ratios as |ln(synthetic / real)|."""
    rate_a, rate_b = _rate(real.time_s), _rate(synthetic.time_s)
    size_a, size_b = (x.packets.ip_total_length.astype(np.float64) for x in (real, synthetic))
    octet_a, octet_b = _rate(real.time_s, size_a), _rate(synthetic.time_s, size_b)
    start_a, start_b = (_rate(x.time_s[x.flow_first]) for x in (real, synthetic))
    return {
        "packet_rate": standard_earth_mover(rate_a, rate_b),
        "packet_rate_swing": abs(_lag_one(rate_a) - _lag_one(rate_b)),
        "octet_rate": standard_earth_mover(octet_a, octet_b),
        "octet_rate_swing": abs(_lag_one(octet_a) - _lag_one(octet_b)),
        "new_flow_rate": standard_earth_mover(start_a, start_b),
        "packet_total": abs(float(np.log(len(size_b) / len(size_a)))),
        "octet_total": abs(float(np.log(max(size_b.sum(), 1.0) / max(size_a.sum(), 1.0)))),
    }


def _within_flows(trace: Observed) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """Log gaps, size-class bigrams, and the correlation of sizes, of packets that follow each other in a flow."""
    same = trace.is_same_flow
    size = trace.packets.ip_total_length[trace.by_flow]
    size_class = np.digitize(size, SIZE_BOUNDS)
    gap = np.diff(trace.time_s[trace.by_flow])[same]
    bigram = (size_class[:-1] * (len(SIZE_BOUNDS) + 1) + size_class[1:])[same]
    return np.log10(np.maximum(gap, 0) + 1e-6), bigram, correlation(size[:-1][same], size[1:][same])


def _arrival_gap(trace: Observed) -> NDArray[np.float64]:
    return np.log10(np.diff(trace.time_s) + 1e-7)


def _duration(trace: Observed) -> NDArray[np.float64]:
    return np.log1p(trace.time_s[trace.flow_last] - trace.time_s[trace.flow_first])


def _flags(trace: Observed) -> NDArray[np.uint16]:
    is_tcp: NDArray[np.bool_] = trace.packets.protocol_identifier == TCP
    return trace.packets.tcp_control_bits[is_tcp]


def _reply_share(trace: Observed) -> float:
    """Share of flows whose reverse flow is in the trace too."""
    return float(np.isin(trace.reverse_identity, trace.flow_identity).mean())


def _service(trace: Observed) -> NDArray[np.int64]:
    """Protocol and the lower of the ports that are not 0, as one number."""
    ports = np.column_stack([trace.packets.source_transport_port, trace.packets.destination_transport_port])
    lower = np.where(ports > 0, ports, 65536).min(axis=1).astype(np.int64) % 65536
    service: NDArray[np.int64] = trace.packets.protocol_identifier.astype(np.int64) << 16 | lower
    return service


def _size_class(trace: Observed) -> NDArray[np.int64]:
    return np.digitize(trace.packets.ip_total_length, SIZE_BOUNDS)


def _fan_out(trace: Observed) -> NDArray[np.float64]:
    """Log of how many destinations each source speaks to."""
    _, first = np.unique(mix(trace.source, trace.destination), return_index=True)
    return np.log1p(np.unique(trace.source[first], return_counts=True)[1])


def _rate(time_s: NDArray[np.float64], weight: NDArray[np.float64] | None = None) -> NDArray[Any]:
    """Events a second (or their weight) in each of `RATE_BINS` equal parts of the trace."""
    span = float(time_s.max()) or 1.0
    return np.histogram(time_s, bins=RATE_BINS, range=(0, span), weights=weight)[0] / (span / RATE_BINS)


def _lag_one(rate: NDArray[Any]) -> float:
    return correlation(rate[:-1], rate[1:])
