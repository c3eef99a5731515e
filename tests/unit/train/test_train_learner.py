"""Learner: keeps the best by held-out loss, knows when to stop, and stops at once when a loss is not finite."""

import pytest
import torch
from torch import nn

from nsstream.errors import TrainError
from nsstream.train.learner import CHECK_EVERY, PATIENCE, Learner


def weight_of(network):
    return float(network.weight.detach())


def learner(held_out, start=0.0, **named):
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, start)
    return Learner(network, 0.05, 0.0, 0.5, held_out, **named)


def distance_to(target):
    return lambda network: abs(weight_of(network) - target)


def test_it_follows_the_loss_downwards():
    made = learner(distance_to(1.0))
    losses = [made.step((made.network.weight - 1).square().sum(), 1.0) for _ in range(3 * CHECK_EVERY)]
    made.back_to_best()
    assert losses[-1] < losses[0]
    assert made.step_count == 3 * CHECK_EVERY
    assert made.best_loss == pytest.approx(abs(weight_of(made.network) - 1))


def test_it_goes_back_to_the_best_and_not_the_last():
    made = learner(distance_to(0.3))  # the loss drives the weight past 0.3 and on to 5
    for _ in range(20 * CHECK_EVERY):
        made.step((made.network.weight - 5).square().sum(), 1.0)
    assert abs(weight_of(made.network) - 0.3) > 1
    best_step = made.best_step
    made.back_to_best()
    assert made.best_step == best_step < made.step_count
    assert weight_of(made.network) == weight_of(made.best) == weight_of(made.average)
    assert abs(weight_of(made.network) - 0.3) == pytest.approx(made.best_loss)
    assert made.best_loss < 1


@pytest.mark.parametrize("every", [CHECK_EVERY, 3, 60])
def test_it_is_done_when_held_out_loss_does_not_improve_for_long(every):
    looks = []
    made = learner(lambda _: looks.append(1) or 1.0, check_every=every)
    steps = 0
    while not made.is_done:
        made.step(made.network.weight.square().sum(), 1.0)
        steps += 1
    assert PATIENCE * every < steps <= (PATIENCE + 2) * every
    assert len(looks) == steps // every >= PATIENCE


def test_without_held_out_data_the_latest_is_the_best_and_it_is_never_done():
    made = learner(None)
    for _ in range(PATIENCE + CHECK_EVERY + 5):
        made.step((made.network.weight - 5).square().sum(), 1.0)
    assert not made.is_done
    made.back_to_best()
    assert made.best_step == made.step_count


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_a_training_error_and_changes_nothing(value):
    made = learner(distance_to(1.0), start=0.5)
    with pytest.raises(TrainError, match="training diverged: the loss is "):
        made.step(made.network.weight.sum() * value, 1.0)
    assert weight_of(made.network) == 0.5
    assert made.step_count == 0


def test_at_no_rate_nothing_moves():
    made = learner(distance_to(1.0), start=0.5)
    made.step(made.network.weight.square().sum(), 0.0)
    assert weight_of(made.network) == 0.5


def test_a_huge_gradient_is_clipped():
    made = learner(distance_to(1.0))
    made.step(1e9 * (made.network.weight - 1).sum(), 1.0)
    assert abs(weight_of(made.network)) <= 0.05 + 1e-6
    assert torch.isfinite(made.network.weight).all()
