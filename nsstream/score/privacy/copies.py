"""Copies of flows: those of one trace that stand in another, packet by packet or nearly so.

An exact copy has the protocol, the service's port and all sizes of a real flow, in order; a near copy as many packets,
each within `NEAR` of the real one's size. Addresses, times and ephemeral ports are no part of either, so no address map
or shift of time hides a copy. A flow of one packet says nothing: any two lookups of one name are the same. One of six
or more that stands only once in the real capture is a *one-off*: nobody sends it by habit, and a twin that has it has
it from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.copying import EPHEMERAL_PORT, FINGERPRINT_PACKETS
from nsstream.score.observed import Observed, mix
from nsstream.score.privacy.intervals import Rate

LEAST_PACKETS: Final = 2
COMPARED_PACKETS: Final = 32  # of a near copy; the rest must only be as many
NEAR: Final = 0.05
MOST_FLOWS: Final = 20_000  # of either trace, compared for near copies; a random sample of more


@dataclass(frozen=True, slots=True)
class Copies:
    """How many flows of a trace stand in a reference."""

    exact: Rate
    near: Rate  # exact ones among them
    one_off: Rate  # of six packets or more: exact copies of what the reference has once


@dataclass(frozen=True, slots=True)
class Shapes:
    """Flows of two packets or more as their sizes: what copies are looked for with."""

    identity: NDArray[np.uint64]  # (k,) protocol, service port and all sizes in order
    packet_count: NDArray[np.int64]  # (k,)
    outline: NDArray[np.uint64]  # (k,) protocol, service port and number of packets
    log_size: NDArray[np.float64]  # (k, COMPARED_PACKETS) natural logarithm, 0 behind the last


def shapes(trace: Observed) -> Shapes:
    """The shapes of a trace's flows of `LEAST_PACKETS` or more."""
    start, count, first = trace.flow_offset[:-1], trace.flow_packet_count, trace.flow_first
    size = trace.packets.ip_total_length[trace.by_flow]
    place = np.arange(len(size)) - np.repeat(start, count)
    sizes = np.add.reduceat(mix(size, place), start)  # wraps around, as a hash may
    outline = mix(trace.packets.protocol_identifier[first], service_port(trace), count)
    is_long = count >= LEAST_PACKETS
    at = start[is_long, None] + np.arange(COMPARED_PACKETS)
    inside = np.arange(COMPARED_PACKETS) < count[is_long, None]
    logs = np.where(inside, np.log(np.maximum(size[np.minimum(at, len(size) - 1)], 1).astype(np.float64)), 0.0)
    return Shapes(mix(outline, sizes)[is_long], count[is_long], outline[is_long], logs)


def service_port(trace: Observed) -> NDArray[np.uint16]:
    """The port of each flow that names its service, the lower one; 0 where both are ephemeral: (k,)."""
    packets, first = trace.packets, trace.flow_first
    lower = np.minimum(packets.source_transport_port[first], packets.destination_transport_port[first])
    return np.where(lower < EPHEMERAL_PORT, lower, 0).astype(np.uint16)


def copies(reference: Shapes, probe: Shapes, rng: np.random.Generator) -> Copies:
    """How many of the probe's flows are in the reference; near ones of at most `MOST_FLOWS` on either side."""
    known, times = np.unique(reference.identity, return_counts=True)
    is_exact = np.isin(probe.identity, known)
    is_long = probe.packet_count >= FINGERPRINT_PACKETS
    is_one_off = is_long & np.isin(probe.identity, known[times == 1])
    looked_at = sample(len(probe.identity), MOST_FLOWS, rng)
    among = sample(len(reference.identity), MOST_FLOWS, rng)
    is_near = is_exact[looked_at] | _has_near(reference, among, probe, looked_at)
    return Copies(
        exact=Rate(int(is_exact.sum()), len(is_exact)),
        near=Rate(int(is_near.sum()), len(is_near)),
        one_off=Rate(int(is_one_off.sum()), int(is_long.sum())),
    )


def sample(count: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """All rows of so many, or a random sample of `most`, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def recurs(known: NDArray[np.float64], looked_for: NDArray[np.float64], tolerance: float) -> NDArray[np.bool_]:
    """Whether each row (n, d) has a known row (k, d) within the tolerance in every column: (n,)."""
    from scipy.spatial import cKDTree

    if not len(known) or not len(looked_for):
        return np.zeros(len(looked_for), bool)
    tree: Any = cKDTree(np.unique(known, axis=0), balanced_tree=False, compact_nodes=False)  # equal rows are slow in it
    distance, _ = tree.query(looked_for, p=np.inf, distance_upper_bound=tolerance * (1 + 1e-9))
    found: NDArray[np.bool_] = np.isfinite(distance)
    return found


def _has_near(
    reference: Shapes, among: NDArray[np.int64], probe: Shapes, looked_at: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each of the flows has a near one: in the tree, an outline is a column that must be the same."""
    outlines = np.concatenate([reference.outline[among], probe.outline[looked_at]])
    code = np.unique(outlines, return_inverse=True)[1].astype(np.float64)
    known = np.column_stack([code[: len(among)], reference.log_size[among]])
    looked_for = np.column_stack([code[len(among) :], probe.log_size[looked_at]])
    return recurs(known, looked_for, float(np.log1p(NEAR)))
