"""The Wasserstein loss: its penalty against derivatives by hand, and a toy generator that it moves."""

import pytest
import torch
from torch import nn

from nsstream.train.wasserstein import critic_distance, gradient_penalty


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rows():
    generator = chance(1)
    return torch.randn(32, 3, generator=generator), torch.randn(32, 3, generator=generator) + 2


def test_the_penalty_of_a_linear_critic_is_that_of_its_weight_alone(rows):
    weight = torch.tensor([2.0, -1.0, 2.0], requires_grad=True)  # of norm 3 everywhere
    penalty = gradient_penalty(lambda x: x @ weight, *rows, chance())
    assert penalty.item() == pytest.approx((3 - 1) ** 2, rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * (3 - 1) * weight.detach() / 3)  # d/dw (|w| - 1)^2


def test_the_penalty_is_taken_on_the_line_between_real_and_fake(rows):
    real, fake = rows
    at = torch.rand(len(real), 1, generator=chance(5))
    assert at.min() >= 0 < at.std()  # a constant would look at one end only
    between = at * real + (1 - at) * fake
    scale = torch.tensor(0.7, requires_grad=True)
    penalty = gradient_penalty(lambda x: 0.5 * scale * x.square().sum(1), real, fake, chance(5))
    norm = 0.7 * between.norm(dim=1)  # the critic's gradient is scale * x
    torch.testing.assert_close(penalty.detach(), (norm - 1).square().mean())
    penalty.backward()
    torch.testing.assert_close(scale.grad, (2 * (norm - 1) * between.norm(dim=1)).mean())


def test_the_penalty_of_a_network_is_that_of_finite_differences(rows):
    torch.manual_seed(2)
    critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    real, fake = (x.double() for x in rows)
    at = torch.rand(len(real), 1, generator=chance(3))
    between, step = at * real + (1 - at) * fake, 1e-5
    with torch.no_grad():
        slopes = [
            (critic(between + step * unit) - critic(between - step * unit))[:, 0] / (2 * step)
            for unit in torch.eye(3).double()
        ]
    norm = torch.stack(slopes, dim=1).norm(dim=1)
    penalty = gradient_penalty(lambda x: critic(x)[:, 0], real, fake, chance(3))
    assert penalty.item() == pytest.approx((norm - 1).square().mean().item(), rel=1e-6)


def test_a_flat_critic_is_penalised_and_gives_no_gradient_that_is_not_finite(rows):
    weight = torch.zeros(3, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ weight, *rows, chance())
    assert penalty.item() == pytest.approx(1, abs=1e-4)
    penalty.backward()
    assert weight.grad.isfinite().all()


def test_a_toy_generator_comes_near_and_the_critics_distance_falls():
    generator = chance(4)
    torch.manual_seed(4)
    critic = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    shift = torch.zeros(4, requires_grad=True)  # one number a dimension: in one alone, a critic cannot turn round
    critic_optimiser = torch.optim.Adam(critic.parameters(), lr=5e-3, betas=(0.5, 0.9))
    shift_optimiser = torch.optim.SGD([shift], lr=0.1)
    judge, distances = (lambda x: critic(x)[:, 0]), []
    for _ in range(120):
        for _ in range(5):
            real = 3 + torch.randn(64, 4, generator=generator)
            fake = (torch.randn(64, 4, generator=generator) + shift).detach()
            distance = critic_distance(judge, real, fake)
            loss = 10 * gradient_penalty(judge, real, fake, generator) - distance
            critic_optimiser.zero_grad()
            loss.backward()
            critic_optimiser.step()
        distances.append(distance.item())
        assert shift.grad is None or not shift.grad.any()  # a critic's step leaves nothing in the generator
        shift_optimiser.zero_grad()
        (-judge(torch.randn(64, 4, generator=generator) + shift).mean()).backward()
        shift_optimiser.step()
        shift_optimiser.zero_grad()
    assert max(distances) > 3  # the critic saw that 0 and 3 are far apart: 6 in four dimensions
    assert abs(distances[-1]) < 0.3 * max(distances)
    assert (shift - 3).abs().max() < 0.8
