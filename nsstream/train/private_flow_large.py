"""Large records of a private flow model: how many of them have how many packets, told by octaves.

Nearly all octets of a table are in some hundred records, of which each cell of `packets` by place has a few, that noise
hides. Counted by octave and layer alone they are seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.train.private_flow_counts import LARGE, LARGE_OCTAVES, LAYERS
from nsstream.train.private_settle import hidden, settle


def with_large(
    wanted: NDArray[np.float64],
    drawn: NDArray[np.float64],
    said: NDArray[np.float64],
    large: NDArray[np.float64],
    std: float,
) -> NDArray[np.float64]:
    """What is wanted of packets by place (p, c), with large records as their octaves are counted.

    Args:
        wanted: as the counts by place have it; sums of places are kept.
        drawn: (p,) records that were drawn at each place.
        said: (p,) noisy counts of them.
        large: (LAYERS, LARGE_OCTAVES) noisy counts.
        std: the noise's deviation in each of `large`.
    """
    out = wanted.copy()
    for layer in range(LAYERS):
        places = np.arange(layer, len(wanted), LAYERS)
        places = places[(wanted[places].sum(axis=1) > 0) & (drawn[places] > 0)]
        total = float(said[layer::LAYERS].sum())
        if not len(places) or total <= hidden(std * np.sqrt(wanted[layer::LAYERS].size), LAYERS):
            continue
        weight = drawn[places] / drawn[places].sum()
        shares = wanted[places] / wanted[places].sum(axis=1, keepdims=True)
        small, octaves = shares[:, :LARGE], shares[:, LARGE:].reshape(len(places), LARGE_OCTAVES, 2)
        expected = np.concatenate([[weight @ small.sum(axis=1)], weight @ octaves.sum(axis=2)])
        counted = np.concatenate([[total - large[layer].sum()], large[layer]])
        told = settle(counted, expected, std, total, large.size) / total
        small *= told[0] / max(expected[0], 1e-9)
        was_said = expected[1:] > 0
        octaves *= np.where(was_said, told[1:] / np.maximum(expected[1:], 1e-9), 0.0)[:, None]
        octaves += np.where(was_said, 0.0, told[1:] / 2)[:, None]
        out[places] = np.concatenate([small, octaves.reshape(len(places), -1)], axis=1)
        out[places] *= wanted[places].sum(axis=1, keepdims=True) / out[places].sum(axis=1, keepdims=True)
    return out
