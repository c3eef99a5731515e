"""The critic that draws are chosen by: boosted trees that tell measured conversations from drawn ones.

Trained to the logarithmic loss with both sides weighing the same, its sum is an estimate of the log density ratio
measured / drawn (Goodfellow et al. 2014, proposition 1). Trees see what a recurrent critic of the same few seconds does
not: a narrow band of one gap given one size.

One critic's ratio is not the whole of it, and candidates are few: what it chose can be told from measured traffic
again. So the critic learns in rounds, each against what those before it would choose, and the logits add up (the
density ratio as a product of ratios, Rhodes, Xu and Gutmann 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from nsstream.errors import TrainError
from nsstream.model.trees import FIRMEST, Trees, choose_by_lot

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

STAGES: Final = 120  # trees of a round
LEAVES: Final = 24
FEWEST_IN_LEAF: Final = 20
_PROVED_ROWS: Final = 256  # of each side, on which the arrays must say what scikit-learn says
_MOST_APART: Final = 1e-6


def fit_trees(measured: NDArray[np.float32], drawn: NDArray[np.float32], seed: int, threads: int) -> Trees:
    """Tell the portraits of measured conversations (n, f) from those of drawn ones (m, f).

    Raises:
        TrainError: one of both is empty, or this scikit-learn keeps its trees in a way that is not known here.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # a third of a worker's start, which not all jobs need

    if not len(measured) or not len(drawn):
        raise TrainError(f"no critic can tell {len(measured)} measured conversations from {len(drawn)} drawn ones")
    rows = np.concatenate([measured, drawn])
    is_measured = np.repeat([1, 0], [len(measured), len(drawn)])
    weight = np.where(is_measured, len(drawn) / len(measured), 1.0)
    model = HistGradientBoostingClassifier(
        max_iter=STAGES,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=FEWEST_IN_LEAF,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    some = np.concatenate([measured[:_PROVED_ROWS], drawn[:_PROVED_ROWS]])
    with threadpool_limits(threads):
        model.fit(rows, is_measured, sample_weight=weight)
        said = model.decision_function(some)
    trees = as_trees(model)
    if not np.allclose(trees(some), said, rtol=0, atol=_MOST_APART):
        raise TrainError(f"scikit-learn {version('scikit-learn')} walks its trees otherwise than nsstream")
    return trees


def fit_in_rounds(
    measured: NDArray[np.float32],
    candidates: NDArray[np.float32],
    rounds: int,
    rng: np.random.Generator,
    threads: int,
    is_over: Callable[[], bool],
) -> Trees:
    """Tell measured conversations (n, f) from what choosing by those before would leave of candidates (m, k, f).

    Args:
        measured: portraits.
        candidates: portraits of k drawings each.
        rounds: how many, at least one.
        rng: of all chance.
        threads: of scikit-learn.
        is_over: asked before each round but the first, whether to leave it at that.

    Raises TrainError as `fit_trees` does.
    """
    m, k, features = candidates.shape
    logits, total = np.zeros((m, k)), Trees.none()
    for at in range(rounds):
        if at and is_over():
            break
        chosen = choose_by_lot(logits.clip(-FIRMEST, FIRMEST), rng)
        trees = fit_trees(measured, candidates[np.arange(m), chosen], int(rng.integers(1 << 31)), threads)
        logits += trees(candidates.reshape(-1, features)).reshape(m, k)
        total = total.plus(trees)
    return total


def as_trees(model: HistGradientBoostingClassifier) -> Trees:
    """The trees of a fitted classifier of two classes, whose sum is its `decision_function`.

    Scikit-learn has no public way to them: the histograms' speed comes with private nodes. So a release that changes
    those is refused by name, here and by comparing sums in `fit_trees`.

    Raises:
        TrainError: the nodes are not as they were in scikit-learn 1.5 to 1.9, or stand for categories.
    """
    try:
        nodes = [stage[0].nodes for stage in model._predictors]
        start = float(np.ravel(model._baseline_prediction)[0])
        every = np.concatenate(nodes)
        columns = ("is_leaf", "is_categorical", "feature_idx", "num_threshold", "left", "right", "value")
        is_leaf, is_categorical, feature, threshold, left, right, value = (every[name] for name in columns)
    except (AttributeError, LookupError, TypeError, ValueError) as err:
        raise TrainError(
            f"scikit-learn {version('scikit-learn')} keeps its trees otherwise than nsstream knows: {err}"
        ) from err
    if is_categorical.any():
        raise TrainError("the critic's trees stand for categories, which nsstream does not walk")
    is_leaf = is_leaf.astype(bool)
    roots = np.cumsum([0, *(len(n) for n in nodes)])[:-1]
    base = np.repeat(roots, [len(n) for n in nodes])
    return Trees(
        start=np.array([start]),
        roots=roots.astype(np.int64),
        feature=np.where(is_leaf, -1, feature).astype(np.int64),
        threshold=np.where(is_leaf, 0, threshold).astype(np.float64),
        left=np.where(is_leaf, 0, left + base).astype(np.int64),
        right=np.where(is_leaf, 0, right + base).astype(np.int64),
        value=value.astype(np.float64),
    )
