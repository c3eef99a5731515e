"""The adversary: what the critic prefers becomes likelier."""

import numpy as np
import pytest
import torch

from nsstream.encode.encoding import allowed_kinds
from nsstream.model.critic import READS
from nsstream.model.heads import heads_of
from nsstream.train.adversary import adversary_loss, critic_loss, draw_groups, group_weights

GROUP = 4


@pytest.fixture
def rows(tokens):
    return np.arange(0, len(tokens), 6)


@pytest.fixture
def drawn(networks, tokens, codec, rows):
    return draw_groups(networks["packets"], tokens, codec, rows, GROUP, np.random.default_rng(1))


@pytest.fixture
def allowed(codec, tokens, rows):
    return torch.from_numpy(allowed_kinds(codec)[tokens.stack[np.repeat(rows, GROUP)]])


def test_a_group_is_one_conversation_drawn_again_and_again(drawn, tokens, rows):
    assert len(drawn.kind) == GROUP * len(rows)
    again = np.repeat(rows, GROUP)
    assert drawn.attributes.tolist() == tokens.attributes[again].tolist()
    lengths = np.minimum(np.diff(tokens.packet_offset)[again], READS)
    assert drawn.counts.sum(1).tolist() == lengths.tolist()
    assert (drawn.kind[::GROUP] != drawn.kind[1::GROUP]).any()


def test_drawing_leaves_the_network_in_its_mode(networks, tokens, codec, rows):
    network = networks["packets"].train()
    draw_groups(network, tokens, codec, rows, 1, np.random.default_rng(1))
    assert network.training


def test_weights_of_a_group_add_up_to_nothing_and_favour_what_the_critic_prefers(networks, drawn):
    critic = networks["critic"]
    weights = group_weights(critic, drawn, GROUP).view(-1, GROUP)
    torch.testing.assert_close(weights.sum(1), torch.zeros(len(weights)), rtol=0, atol=1e-6)
    logits = critic(drawn).view(-1, GROUP)
    assert (weights.argmax(1) == logits.argmax(1)).all()
    assert not weights.requires_grad


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_step_along_the_loss_makes_a_favoured_drawing_likelier_and_another_less(networks, drawn, allowed, sign):
    network = networks["packets"]
    weights = torch.zeros(len(drawn.kind))
    favoured = int(drawn.counts.sum(1).argmax())
    weights[favoured] = sign
    before = network.loss(drawn, allowed).sum(-1)[favoured].item()
    adversary_loss(network, drawn, weights, allowed).backward()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad
    after = network.loss(drawn, allowed).sum(-1)[favoured].item()
    assert (before - after) * sign > 0


def test_where_the_critic_prefers_nothing_the_loss_is_nothing(networks, drawn, allowed):
    assert adversary_loss(networks["packets"], drawn, torch.zeros(len(drawn.kind)), allowed).item() == 0


def test_a_critic_learns_to_tell_measured_from_drawn(networks, tokens, drawn):
    critic = networks["critic"]
    measured = heads_of(tokens, np.arange(len(tokens)))
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = critic_loss(critic, measured, drawn)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert critic(measured).mean() > critic(drawn).mean()
