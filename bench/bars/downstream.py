"""Downstream use of a labelled table: classifiers that learned from its twin, tried on real flows.

The real table is cut in halves at random: classifiers learn from one half, or from as many flows of the twin, and both
are tried on the other half. Features are what a flow says of itself; addresses and AS numbers are no part of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bars.verdict import Bar, at_least
from nsstream.trace import FlowTable

MOST_ROWS = 30_000
LEAST_SHARE = 0.95
LEAST_OF_LABEL = 100  # flows, for a label to be one that can be learned


@dataclass(frozen=True, slots=True)
class Classified:
    """Accuracy on real flows of one kind of classifier."""

    name: str
    real: float  # that learned from real flows
    twin: float  # that learned from the twin


def features(table: FlowTable) -> NDArray[np.float64]:
    """Rows (n, 8): protocol, ports, packets and octets of both directions, duration."""
    columns = (
        table.protocol_identifier, table.source_transport_port, table.destination_transport_port,
        table.packet_delta_count, table.octet_delta_count, table.reverse_packet_delta_count,
        table.reverse_octet_delta_count, (table.flow_end_ns - table.flow_start_ns) / 1e9,
    )  # fmt: skip
    return np.column_stack([np.asarray(column, np.float64) for column in columns])


def classify(real: FlowTable, twin: FlowTable, seed: int = 0) -> list[Classified]:
    """Train and try five kinds of classifiers; none where fewer than two labels have `LEAST_OF_LABEL` flows."""
    if (np.bincount(real.label) >= LEAST_OF_LABEL).sum() < 2:
        return []
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    def scaled(model: Any) -> Any:
        return make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), model)

    models = {
        "decision tree": DecisionTreeClassifier(max_depth=16, random_state=seed),
        "logistic regression": scaled(LogisticRegression(max_iter=500)),
        "random forest": RandomForestClassifier(60, random_state=seed),
        "gradient boosting": HistGradientBoostingClassifier(random_state=seed),
        "MLP": scaled(MLPClassifier((64, 32), max_iter=40, early_stopping=True, random_state=seed)),
    }
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(real))
    half = min(len(real) // 2, MOST_ROWS)
    learned, tried = order[:half], order[half : 2 * half]
    drawn = rng.permutation(len(twin))[:half]
    names_real, names_twin = np.array(("", *real.label_names)), np.array(("", *twin.label_names))
    x, y = features(real), names_real[real.label]
    x_twin, y_twin = features(twin)[drawn], names_twin[twin.label][drawn]
    found = []
    for name, model in models.items():
        with np.errstate(all="ignore"):
            from_real = float(model.fit(x[learned], y[learned]).score(x[tried], y[tried]))
            if len(set(y_twin.tolist())) > 1:
                from_twin = float(model.fit(x_twin, y_twin).score(x[tried], y[tried]))
            else:  # nothing to tell apart: what learns from it says one thing always
                from_twin = float((y[tried] == y_twin[0]).mean())
        found.append(Classified(name, from_real, from_twin))
    return found


def downstream_bars(found: Sequence[Classified]) -> list[Bar]:
    """A bar for each, and one for their order."""
    if not found:
        return []
    bars = [
        at_least(f"{one.name}, of real-trained accuracy", round(one.twin / one.real, 4), LEAST_SHARE) for one in found
    ]
    ranks = [np.argsort(np.argsort([getattr(one, name) for one in found])) for name in ("real", "twin")]
    bars.append(Bar("rank order of the classifiers, Spearman", f"{np.corrcoef(*ranks)[0, 1]:.2f}"))
    return bars
