"""Timing fingerprints: rhythms of real flows that a twin repeats.

A fingerprint is six gaps between packets of one flow, one after the other, at least half of them longer than a
millisecond; it recurs where each gap is within `TOLERANCE` of another flow's. Sizes, ports and addresses are no part of
it. A beacon's even rhythm recurs in any traffic of its kind, so what counts is the share beside real traffic's own.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.observed import Observed
from nsstream.score.privacy.copies import recurs, sample
from nsstream.score.privacy.intervals import Rate

GAPS: Final = 6
TOLERANCE: Final = 0.02
MOST_RHYTHMS: Final = 20_000  # of either trace; a random sample of more
_RESOLUTION_S: Final = 1e-5  # gaps shorter than that are the capturing machine's
_LONG_S: Final = 1e-3


def rhythms(trace: Observed, rng: np.random.Generator) -> NDArray[np.float64]:
    """Fingerprints of a trace's flows: (n, GAPS) logarithms; one for each six gaps in a row, from a flow's first."""
    gap_s = np.maximum(np.diff(trace.time_s[trace.by_flow]), 0.0)
    if len(gap_s) < GAPS:
        return np.empty((0, GAPS))
    count = trace.flow_packet_count
    place = (np.arange(len(trace.time_s)) - np.repeat(trace.flow_offset[:-1], count))[:-1]
    left = np.repeat(count, count)[:-1] - place - 1  # gaps from here to the flow's end
    begins = np.flatnonzero((place % GAPS == 0) & (left >= GAPS))
    begins = begins[sample(len(begins), 4 * MOST_RHYTHMS, rng)]
    found = gap_s[begins[:, None] + np.arange(GAPS)]
    found = found[(found >= _LONG_S).sum(axis=1) >= GAPS // 2]
    out: NDArray[np.float64] = np.log(found[sample(len(found), MOST_RHYTHMS, rng)] + _RESOLUTION_S)
    return out


def recurring(reference: NDArray[np.float64], probe: NDArray[np.float64]) -> Rate:
    """How many rhythms of the probe stand in the reference."""
    return Rate(int(recurs(reference, probe, float(np.log1p(TOLERANCE))).sum()), len(probe))
