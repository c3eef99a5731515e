"""Shadow models whose likelihoods are made up: members are told by as much as they were remembered."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from membership import areas, chance_of, halves_of

MODELS, COUNT = 6, 2000


def made(remembered: float) -> tuple[np.ndarray, np.ndarray]:
    """Likelihoods that differ much from one conversation to the next, and by `remembered` where one was learned."""
    rng = np.random.default_rng(1)
    is_in = halves_of(COUNT, MODELS, rng)
    return rng.normal(50, 20, COUNT) + rng.normal(0, 1, (MODELS, COUNT)) - remembered * is_in, is_in


def test_each_conversation_is_in_half_of_the_models() -> None:
    is_in = halves_of(COUNT, MODELS, np.random.default_rng(0))
    assert (is_in.sum(axis=0) == MODELS // 2).all()
    assert (is_in.sum(axis=1) == COUNT // 2).all()
    assert not (is_in[0] & is_in[1]).any()


def test_who_remembers_nothing_tells_nothing() -> None:
    for found in areas(*made(0.0)):
        assert len(found) == MODELS
        assert sum(area.low <= 0.5 <= area.high for area in found) >= MODELS - 1


def test_shadows_find_what_the_loss_alone_does_not() -> None:
    loss, ratio = areas(*made(2.0))
    assert np.mean([area.value for area in loss]) < 0.56
    assert min(area.value for area in ratio) > 0.85


def test_chance_moves_the_mean_of_areas_as_far_as_is_said() -> None:
    rng = np.random.default_rng(4)
    means = [np.mean([area.value for area in areas(*random_scores(rng, 100))[0]]) for _ in range(400)]
    assert 0.85 < np.std(means) / chance_of(100, MODELS) < 1.15


def test_models_that_are_worse_all_over_do_not_look_like_memory() -> None:
    nats, is_in = made(0.0)
    nats += np.array([0, 9, -9, 3, 6, -6])[:, None]
    ratio = areas(nats, is_in)[1]
    assert all(abs(area.value - 0.5) < 0.05 for area in ratio)


def random_scores(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(0, 1, (MODELS, count)), halves_of(count, MODELS, rng)
