"""The detector: gradient-boosted trees that try to tell real flows from synthetic ones.

The area under its ROC curve, cross-validated, is 0.5 where the two cannot be told apart and 1.0 where they can at a
glance; well below 0.5 it has met the same flows on both sides: copies. It is the one measure that sees all joint
structure of a flow at once; the features that it leans on most name what to mend next. Deterministic for a given
generator; one thread, because trees on spinning threads crawl when cores are shared. scikit-learn is imported on use:
it takes a second, and most commands never detect anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.score.features import FEATURE_NAMES, flow_features
from nsstream.score.observed import Observed

FOLDS: Final = 5
MOST_FLOWS: Final = 20_000  # of each side; a random sample of more
FEWEST_FLOWS: Final = 50  # of each side; fewer say nothing
NAMED_FEATURES: Final = 3


@dataclass(frozen=True, slots=True)
class Detection:
    """How well flows are told apart, and by what."""

    auc: float
    told_by: tuple[str, ...]  # at most three feature names, the most telling first


def detect(real: Observed, synthetic: Observed, rng: np.random.Generator) -> Detection | None:
    """Train and cross-validate a detector on balanced samples of both traces' flows; None if either has too few."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    n = min(len(real.flow_identity), len(synthetic.flow_identity), MOST_FLOWS)
    if n < FEWEST_FLOWS:
        return None
    span_s = max(float(real.time_s.max()), float(synthetic.time_s.max()))
    x = np.vstack([rng.permutation(flow_features(side, span_s))[:n] for side in (real, synthetic)])
    y = np.repeat([0, 1], n)
    split_seed, model_seed = (int(s) for s in rng.integers(0, 2**31, 2))
    probability, lost = np.zeros(2 * n), np.zeros(len(FEATURE_NAMES))
    with threadpool_limits(1):
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=split_seed).split(x, y):
            # Early stopping would pick the number of trees by chance of the sample's size.
            model = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=model_seed)
            model.fit(x[train], y[train])
            probability[test] = model.predict_proba(x[test])[:, 1]
            if not lost.any():  # importance of one fold: the others would name the same features
                lost = _auc_lost(model, x[test], y[test], rng)
        auc = float(roc_auc_score(y, probability))
    order = np.argsort(-lost, kind="stable")[:NAMED_FEATURES]
    return Detection(auc, tuple(FEATURE_NAMES[i] for i in order if lost[i] > 0))


def _auc_lost(
    model: Any, x: NDArray[np.float64], y: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Permutation importance: what the area loses when one feature is shuffled; (features,)."""
    from sklearn.metrics import roc_auc_score

    whole = roc_auc_score(y, model.predict_proba(x)[:, 1])
    lost = np.zeros(x.shape[1])
    for i in range(x.shape[1]):
        shuffled = x.copy()
        shuffled[:, i] = rng.permutation(x[:, i])
        lost[i] = whole - roc_auc_score(y, model.predict_proba(shuffled)[:, 1])
    return lost
