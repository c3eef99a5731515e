"""The critic of trees: tells two sets apart where they differ, and says what scikit-learn says."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from nsstream.errors import TrainError
from nsstream.model.trees import Trees, choose_by_lot
from nsstream.train import tree_critic
from nsstream.train.tree_critic import STAGES, as_trees, fit_in_rounds, fit_trees

THREADS = """
import os
import numpy as np
import sklearn.ensemble  # scipy's OpenBLAS has a thread for each core from the start
from nsstream.train.tree_critic import fit_trees
rows = np.random.default_rng(1).normal(size=(3000, 5)).astype(np.float32)
before = len(os.listdir("/proc/self/task"))
fit_trees(rows, rows + 1, 1, {threads})
print(len(os.listdir("/proc/self/task")) - before)
"""


def normal(count, seed, shift=0.0):
    """Rows of four features, of which the second may be moved."""
    rows = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    rows[:, 1] += shift
    return rows


def test_two_sets_are_told_apart():
    trees = fit_trees(normal(2000, 1, shift=1.5), normal(2000, 2), 1, 1)
    trees.check(4)
    assert len(trees.roots) == STAGES
    measured, drawn = trees(normal(500, 3, shift=1.5)), trees(normal(500, 4))
    assert (measured > 0).mean() > 0.7
    assert (drawn < 0).mean() > 0.7


def test_the_sum_is_the_logarithm_of_the_ratio_of_densities():
    """Normal of mean 1 by normal of mean 0: x - 1/2."""
    measured, drawn = (
        np.random.default_rng(s).normal(m, 1, (20_000, 1)).astype(np.float32) for s, m in ((1, 1), (2, 0))
    )
    at = np.linspace(-1, 2, 31, dtype=np.float32)[:, None]
    found = fit_trees(measured, drawn, 1, 1)(at)
    assert abs(found - (at[:, 0] - 0.5)).mean() < 0.2


def autoregressive(count, width, share, rng):
    """Rows whose columns each follow the one before."""
    rows = rng.normal(size=(count, width))
    for column in range(1, width):
        rows[:, column] = share * rows[:, column - 1] + np.sqrt(1 - share**2) * rows[:, column]
    return rows.astype(np.float32)


def test_rounds_bring_what_is_chosen_closer_than_one_does():
    rng = np.random.default_rng(5)
    measured = autoregressive(2500, 12, 0.5, rng)
    candidates, fresh = (rng.normal(size=(2500, k, 12)).astype(np.float32) for k in (8, 16))
    product = []
    for rounds in (1, 4):
        trees = fit_in_rounds(measured, candidates, rounds, np.random.default_rng(1), 1, lambda: False)
        trees.check(12)
        assert len(trees.roots) == rounds * STAGES
        logits = trees(fresh.reshape(-1, 12)).reshape(2500, 16)
        chosen = fresh[np.arange(2500), choose_by_lot(logits, np.random.default_rng(2))]
        product.append((chosen[:, 1:] * chosen[:, :-1]).mean())
    assert 0.1 < product[0] < product[1] - 0.05
    assert product[1] < 0.5  # as of measured ones


def test_the_first_round_is_learned_though_time_is_over():
    trees = fit_in_rounds(
        normal(300, 1), normal(900, 2).reshape(300, 3, 4), 5, np.random.default_rng(1), 1, lambda: True
    )
    assert len(trees.roots) == STAGES


@pytest.mark.parametrize(("measured", "drawn"), [(2000, 2000), (400, 8000), (8000, 400)])
def test_sets_that_are_alike_are_near_0_however_large_each_is(measured, drawn):
    coins = [(normal(count, seed) > 0)[:, :2].astype(np.float32) for count, seed in ((measured, 1), (drawn, 2))]
    trees = fit_trees(*coins, 1, 1)
    assert abs(trees.start[0]) < 1e-6
    cells = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    assert (abs(trees(cells)) < 0.5).all()  # the logarithm of 20 is 3.0


def test_sets_that_are_alike_are_near_0_where_there_is_much_to_learn_by_heart():
    found = fit_trees(normal(4000, 1), normal(4000, 2), 1, 1)(normal(2000, 3))
    assert abs(found.mean()) < 0.2
    assert found.std() < 1.5


def test_the_same_seed_gives_the_same_trees():
    one, again = (fit_trees(normal(500, 1, 1), normal(500, 2), 3, 1).as_arrays() for _ in range(2))
    for name, array in one.items():
        np.testing.assert_array_equal(again[name], array)


def test_the_arrays_say_what_the_public_decision_function_says_and_so_on_thresholds():
    rng = np.random.default_rng(1)
    rows = 2 * rng.integers(0, 20, (3000, 6)).astype(np.float32)  # even, so that thresholds are odd
    rows[:, 5] = rng.lognormal(0, 4, 3000)  # more values than there are bins
    is_measured = (rows[:, 0] + rows[:, 1] * rng.random(3000) > 25).astype(int)
    model = HistGradientBoostingClassifier(max_iter=60, random_state=1).fit(rows, is_measured)
    trees = as_trees(model)
    trees.check(6)
    asked = [rows, rows + np.float32(1), rows - np.float32(1), rng.normal(0, 1e6, (500, 6)).astype(np.float32)]
    thresholds = trees.threshold[trees.feature == 0].astype(np.float32)
    assert set(thresholds) & set((rows[:, 0] + 1).tolist())
    for some in asked:
        np.testing.assert_allclose(trees(some), model.decision_function(some), rtol=0, atol=1e-6)


def test_too_few_rows_for_a_leaf_are_told_by_nothing():
    trees = fit_trees(normal(3, 1), normal(4, 2), 1, 1)
    trees.check(4)
    np.testing.assert_allclose(trees(normal(10, 3)), 0, atol=1e-6)


@pytest.mark.parametrize(("measured", "drawn"), [(0, 5), (5, 0)])
def test_nothing_cannot_be_told_from_something(measured, drawn):
    with pytest.raises(TrainError, match=f"no critic can tell {measured} measured conversations from {drawn} drawn"):
        fit_trees(normal(measured, 1), normal(drawn, 2), 1, 1)


def test_trees_that_are_kept_otherwise_are_refused_by_scikit_learns_version():
    with pytest.raises(TrainError, match=r"scikit-learn \d+\.\d+.* keeps its trees otherwise than nsstream knows"):
        as_trees(HistGradientBoostingClassifier())  # not fitted: no trees


def test_trees_of_categories_are_refused():
    rows = np.random.default_rng(1).integers(0, 6, (400, 2)).astype(np.float32)
    model = HistGradientBoostingClassifier(max_iter=3, categorical_features=[0]).fit(rows, rows[:, 0] % 2 == 0)
    with pytest.raises(TrainError, match="stand for categories"):
        as_trees(model)


def test_trees_that_say_something_else_than_scikit_learn_are_refused(monkeypatch):
    monkeypatch.setattr(tree_critic, "as_trees", lambda _: Trees.none())
    with pytest.raises(TrainError, match="walks its trees otherwise"):
        fit_trees(normal(200, 1, shift=1), normal(200, 2), 1, 1)


def test_a_worker_of_one_thread_stays_one():
    done = subprocess.run(
        [sys.executable, "-c", THREADS.format(threads=1)], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "0"
