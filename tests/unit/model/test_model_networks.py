"""The generator's networks: proper distributions, that look only back, over what is allowed."""

import dataclasses
import itertools

import pytest
import torch

from nsstream.model import layout
from nsstream.model.networks import AttributeNetwork, PacketNetwork, PacketTokens, no_packet

LAYOUT = dataclasses.replace(  # the real one made small, so that all that can be said can be counted up
    layout.LAYOUT,
    attributes=(2, 3, 2, 4),
    narrow=2,
    narrow_knows=(0, 1),
    start_features=5,
    kinds=4,
    sizes=3,
    gaps=3,
    countdowns=6,
    positions=6,
    times_left=6,
)
ALL = [torch.ones(size, dtype=torch.bool) for size in LAYOUT.attributes]
EVERY_CONVERSATION = torch.tensor(list(itertools.product(*(range(size) for size in LAYOUT.attributes))))


@pytest.fixture
def attribute_network():
    torch.manual_seed(1)
    return AttributeNetwork(LAYOUT, width=8).eval()


@pytest.fixture
def packet_network():
    torch.manual_seed(1)
    return PacketNetwork(LAYOUT, width=8).eval()


def conversations(n, w, seed=2):
    generator = torch.Generator().manual_seed(seed)
    said = torch.stack([torch.randint(size, (n, w), generator=generator) for size in LAYOUT.attributes], dim=-1)
    return said, torch.randn(n, w, LAYOUT.start_features, generator=generator)


def packets(n, t, seed=2):
    generator = torch.Generator().manual_seed(seed)

    def of(size, *shape):
        return torch.randint(size, shape, generator=generator)

    return PacketTokens(
        attributes=torch.stack([of(size, n) for size in LAYOUT.attributes], dim=-1),
        kind=of(LAYOUT.kinds, n, t),
        size=of(LAYOUT.sizes, n, t),
        gap=of(LAYOUT.gaps, n, t),
        before=torch.tensor(no_packet(LAYOUT)).expand(n, 3),
        running=of(6, n, t, 3),
        counts=torch.ones(n, t, dtype=torch.bool),
        needs_size=torch.ones(n, t, dtype=torch.bool),
        needs_gap=torch.ones(n, t, dtype=torch.bool),
    )


def test_the_chances_of_all_conversations_add_up_to_one(attribute_network):
    said = EVERY_CONVERSATION[:, None]  # (n, 1, a)
    nll = attribute_network.loss(said, torch.ones(len(said), 1, LAYOUT.start_features), ALL)
    assert torch.exp(-nll).sum().item() == pytest.approx(1, abs=1e-4)


def test_the_chances_of_the_next_conversation_add_up_to_one_whatever_came_before(attribute_network):
    before, _ = conversations(1, 3)
    n = len(EVERY_CONVERSATION)
    said = torch.cat([before.expand(n, -1, -1), EVERY_CONVERSATION[:, None]], dim=1)
    nll = attribute_network.loss(said, torch.ones(n, 4, LAYOUT.start_features), ALL)
    assert torch.exp(-nll[:, 3]).sum().item() == pytest.approx(1, abs=1e-4)


def test_all_the_chance_is_with_allowed_attributes(attribute_network):
    allowed = [mask.clone() for mask in ALL]
    allowed[1][0] = allowed[3][2] = False
    nll = attribute_network.loss(EVERY_CONVERSATION[:, None], torch.ones(48, 1, LAYOUT.start_features), allowed)
    is_lawful = (EVERY_CONVERSATION[:, 1] != 0) & (EVERY_CONVERSATION[:, 3] != 2)
    assert torch.exp(-nll[is_lawful]).sum().item() == pytest.approx(1, abs=1e-4)
    assert torch.exp(-nll[~is_lawful]).sum().item() == 0
    assert torch.isfinite(nll).all()


def test_losses_of_attributes_add_up_and_each_depends_on_none_behind_it(attribute_network):
    said, features = conversations(3, 5)
    losses = list(attribute_network.losses(said, features, ALL))
    torch.testing.assert_close(torch.stack(losses).sum(dim=0), attribute_network.loss(said, features, ALL))
    for i in range(said.shape[-1] - 1):
        chances = []
        for token in range(LAYOUT.attributes[i]):
            other = said[:, :1].clone()
            other[..., i] = token
            chances.append(torch.exp(-list(attribute_network.losses(other, features[:, :1], ALL))[i]))
        torch.testing.assert_close(torch.stack(chances).sum(dim=0), torch.ones(len(said), 1))


@pytest.mark.parametrize("at", range(5))
def test_a_conversation_changes_no_loss_before_it(attribute_network, at):
    said, features = conversations(3, 5)
    other, _ = conversations(3, 5, seed=3)
    changed = torch.cat([said[:, :at], other[:, at:]], dim=1)
    a, b = (attribute_network.loss(x, features, ALL) for x in (said, changed))
    torch.testing.assert_close(a[:, :at], b[:, :at])
    assert (a[:, at:] != b[:, at:]).any()


@pytest.mark.parametrize("i", range(len(LAYOUT.attributes)))
def test_an_attribute_is_told_only_those_before_it(attribute_network, i):
    said, features = conversations(3, 2)
    changed = said.clone()
    changed[:, 1, i:] = (changed[:, 1, i:] + 1) % torch.tensor(LAYOUT.attributes[i:])
    heads = []
    hook = attribute_network.hidden[i].register_forward_hook(lambda *told: heads.append(told[2]))
    for x in (said, changed):
        attribute_network.loss(x, features, ALL)
    hook.remove()
    torch.testing.assert_close(heads[0], heads[1])


def test_the_narrow_attribute_hears_nothing_but_what_it_knows(attribute_network):
    said, features = conversations(3, 4)
    other, others_features = conversations(3, 4, seed=9)
    other[..., list(LAYOUT.narrow_knows)] = said[..., list(LAYOUT.narrow_knows)]
    heads = []
    hook = attribute_network.hidden[LAYOUT.narrow].register_forward_hook(lambda *told: heads.append(told[2]))
    for x, f in ((said, features), (other, others_features)):
        attribute_network.loss(x, f, ALL)
    hook.remove()
    torch.testing.assert_close(heads[0], heads[1])


def test_the_chances_of_all_packets_add_up_to_one(packet_network):
    every = torch.tensor(list(itertools.product(range(LAYOUT.kinds), range(LAYOUT.sizes), range(LAYOUT.gaps))))
    batch = packets(1, 3)
    n = len(every)
    batch = PacketTokens(
        **{f.name: getattr(batch, f.name).repeat_interleave(n, 0) for f in dataclasses.fields(PacketTokens)}
    )
    batch.kind[:, 2], batch.size[:, 2], batch.gap[:, 2] = every.T
    nll = packet_network.loss(batch, torch.ones(n, LAYOUT.kinds, dtype=torch.bool))
    assert torch.exp(-nll[:, 2]).sum().item() == pytest.approx(1, abs=1e-4)
    allowed = torch.ones(n, LAYOUT.kinds, dtype=torch.bool)
    allowed[:, 1] = False
    nll = packet_network.loss(batch, allowed)[:, 2]
    assert torch.exp(-nll[every[:, 0] != 1]).sum().item() == pytest.approx(1, abs=1e-4)
    assert torch.exp(-nll[every[:, 0] == 1]).sum().item() == 0
    assert torch.isfinite(nll).all()


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("column", ["kind", "size", "gap"])
def test_a_packet_changes_no_loss_before_it(packet_network, at, column):
    batch = packets(3, 4)
    changed = getattr(batch, column).clone()
    changed[:, at:] = (changed[:, at:] + 1) % 3
    allowed = torch.ones(3, LAYOUT.kinds, dtype=torch.bool)
    a = packet_network.loss(batch, allowed)
    b = packet_network.loss(dataclasses.replace(batch, **{column: changed}), allowed)
    torch.testing.assert_close(a[:, :at], b[:, :at])
    assert (a[:, at:] != b[:, at:]).any()


def test_a_gap_is_told_kind_and_size_of_its_packet_and_a_size_its_kind_alone(packet_network):
    batch = packets(2, 3)
    allowed = torch.ones(2, LAYOUT.kinds, dtype=torch.bool)
    plain = dataclasses.replace(batch, needs_size=batch.needs_size & False, needs_gap=batch.needs_gap & False)
    sized, timed = (dataclasses.replace(plain, **{name: batch.counts}) for name in ("needs_size", "needs_gap"))

    def size_nll(b):
        return packet_network.loss(dataclasses.replace(sized, gap=b.gap), allowed)[:, 0]

    torch.testing.assert_close(size_nll(batch), size_nll(dataclasses.replace(batch, gap=(batch.gap + 1) % 3)))
    gap_nll = packet_network.loss(timed, allowed) - packet_network.loss(plain, allowed)
    other = dataclasses.replace(timed, size=(batch.size + 1) % 3)
    told = packet_network.loss(other, allowed) - packet_network.loss(
        dataclasses.replace(plain, size=other.size), allowed
    )
    assert (gap_nll[:, 0] != told[:, 0]).all()


def test_what_does_not_count_costs_nothing_and_says_nothing(packet_network):
    batch = packets(2, 6)
    counts = torch.tensor([[True] * 3 + [False] * 3, [False] * 2 + [True] * 2 + [False] * 2])
    batch = dataclasses.replace(batch, counts=counts, needs_size=counts, needs_gap=counts)
    allowed = torch.ones(2, LAYOUT.kinds, dtype=torch.bool)
    nll = packet_network.loss(batch, allowed)
    assert (nll[~counts] == 0).all()
    assert (nll[counts] > 0).all()
    padded = packets(2, 6, seed=5)
    last = torch.tensor([3, 4])[:, None] <= torch.arange(6)
    other = {name: torch.where(last, getattr(padded, name), getattr(batch, name)) for name in ("kind", "size", "gap")}
    torch.testing.assert_close(packet_network.loss(dataclasses.replace(batch, **other), allowed), nll)


def test_loss_runs_backwards_through_every_weight(attribute_network, packet_network):
    attribute_network.train(), packet_network.train()
    said, features = conversations(3, 4)
    attribute_network.loss(said, features, ALL).sum().backward()
    packet_network.loss(packets(8, 6), torch.ones(8, LAYOUT.kinds, dtype=torch.bool)).sum().backward()
    for network in (attribute_network, packet_network):
        learned = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        assert learned
        for name, weight in learned.items():
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name
