"""What tokens of quantities have in common: near values have near features, and a network learns them together.

A token of a count, a length of time or a port stands for a value; its features are bumps along the value's logarithm.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.bins import Bins
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_hosts import LAG_EDGES, REACHES
from nsstream.encode.flow_schema import LAG, LAGS, PEERS
from nsstream.encode.flow_values import Counts

BUMPS: Final = 12
FEATURES: Final = 2 * BUMPS + 2  # bumps of the value itself, bumps of the value by packet, whether it is 0, one of each

Features = dict[str, NDArray[np.float32]]


def attribute_features(codec: FlowCodec) -> Features:
    """Features (size, FEATURES) of the tokens of each attribute that is a quantity."""
    lags = np.zeros((LAG + LAGS, FEATURES), np.float32)
    kind, reach = np.divmod(np.arange(LAGS), REACHES)
    lags[LAG:] = _bumps(LAG_EDGES[reach], 0.0, 4.6)
    lags[LAG + np.arange(LAGS), BUMPS + 1 + kind] = 1
    return {
        "start_gap": _of_bins(codec.start_gap, 3.0, 14.0),
        "record_count": _of_bins(codec.records, 0.0, 2.2),
        "client": lags,
        "server": np.concatenate([np.zeros((PEERS, FEATURES), np.float32), lags]),
    }


def field_features(codec: FlowCodec) -> Features:
    """The same of the fields of a record."""
    made = {"gap": _of_bins(codec.gap, 3.0, 15.0)}
    for name in ("packets", "reverse_packets"):
        made[name] = _of_counts(getattr(codec, name), 0.0, 7.0)
    for name in ("octets", "reverse_octets"):
        made[name] = _of_counts(getattr(codec, name), 1.0, 9.0)
    made["duration"] = _of_counts(codec.duration, 5.0, 15.0)
    return made


def _of_bins(bins: Bins, low: float, high: float) -> NDArray[np.float32]:
    return _bumps(bins.quantiles.mean(axis=1), low, high)


def _of_counts(counts: Counts, low: float, high: float) -> NDArray[np.float32]:
    atoms = _bumps(np.maximum(counts.atoms.table()[:, 0], 0) * counts.quantum, low, high)
    if not len(counts.rates):
        return np.concatenate([atoms, _bumps(counts.bins.quantiles.mean(axis=1) * counts.quantum, low, high)])
    by_packet = [np.maximum(counts.rates.table()[:, 0], 0), counts.bins.quantiles.mean(axis=1) / 1000]
    rates, rest = (np.roll(_bumps(values, 0.8, 3.4), BUMPS + 1, axis=1) for values in by_packet)
    return np.concatenate([rates, atoms, rest])


def _bumps(values: NDArray[np.floating] | NDArray[np.integer], low: float, high: float) -> NDArray[np.float32]:
    """Features of values (k,): bumps at even places of the logarithm from `low` to `high`, and whether it is 0."""
    at = (np.log10(np.maximum(values, 1e-3)) - low) / (high - low) * (BUMPS - 1)
    out = np.zeros((len(values), FEATURES), np.float32)
    out[:, :BUMPS] = np.exp(-0.5 * (np.clip(at, -2, BUMPS + 1)[:, None] - np.arange(BUMPS)) ** 2)
    out[values == 0, :BUMPS] = 0
    out[:, BUMPS] = values == 0
    return out
