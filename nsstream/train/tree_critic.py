"""The critic that draws are chosen by: boosted trees that tell measured conversations from drawn ones.

Trained to the logarithmic loss with both sides weighing the same, its sum is an estimate of the log density ratio
measured / drawn (Goodfellow et al. 2014, proposition 1). Trees see what a recurrent critic of the same few seconds does
not: a narrow band of one gap given one size.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from nsstream.model.trees import Trees

ROUNDS: Final = 120
LEAVES: Final = 24
FEWEST_IN_LEAF: Final = 20


def fit_trees(measured: NDArray[np.float32], drawn: NDArray[np.float32], seed: int) -> Trees:
    """Tell the portraits of measured conversations (n, f) from those of drawn ones (m, f)."""
    rows = np.concatenate([measured, drawn])
    is_measured = np.repeat([1, 0], [len(measured), len(drawn)])
    weight = np.where(is_measured, len(drawn) / max(len(measured), 1), 1.0)
    model = HistGradientBoostingClassifier(
        max_iter=ROUNDS,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=FEWEST_IN_LEAF,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(rows, is_measured, sample_weight=weight)
    nodes = [stage[0].nodes for stage in model._predictors]
    roots = np.cumsum([0, *(len(n) for n in nodes)])[:-1]
    base = np.repeat(roots, [len(n) for n in nodes])
    every = np.concatenate(nodes)
    is_leaf = every["is_leaf"].astype(bool)
    return Trees(
        start=np.array([float(np.ravel(model._baseline_prediction)[0])]),
        roots=roots.astype(np.int64),
        feature=np.where(is_leaf, -1, every["feature_idx"]).astype(np.int64),
        threshold=every["num_threshold"].astype(np.float64),
        left=np.where(is_leaf, 0, every["left"] + base).astype(np.int64),
        right=np.where(is_leaf, 0, every["right"] + base).astype(np.int64),
        value=every["value"].astype(np.float64),
    )
