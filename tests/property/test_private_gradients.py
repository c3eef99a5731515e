"""A unit's gradient of every layer that is learned privately, by opacus at once, is autograd's of that unit alone."""

from functools import cache

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traffic import MINUTE_NS, START_NS, made_table
from opacus.grad_sample import GradSampleModule
from torch import nn

from nsstream.encode.codec import Codec
from nsstream.encode.public_codec import encode_privately, public_codec
from nsstream.model.checkpoint import new_networks
from nsstream.train.private_chance import Chance
from nsstream.train.private_fit import Learned
from nsstream.train.private_heads import lessons_of, private_heads
from nsstream.train.private_units import units_of

ALL_HEADS = {
    "continues_from_before", "service", "responder_port_high", "responder_port_low", "initiator_port", "ttl",
    "packet_count", "kind", "size", "gap",
}  # fmt: skip


@cache
def public():
    """A public minute's codec, networks, and the private minute after it."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    codec = Codec.fit(made_table(count=72), START_NS, START_NS + MINUTE_NS)
    return codec, new_networks().eval(), made_table(seed=5, count=60, minute=1)


@settings(max_examples=12, deadline=None)
@given(
    rank=st.integers(1, 6),
    unit=st.sampled_from(["host", "flow"]),
    most=st.integers(1, 8),
    packets=st.integers(1, 60),
    chance=st.integers(0, 1 << 30),
)
def test_per_unit_gradients_are_those_of_units_alone(rank, unit, most, packets, chance):
    seed, networks, table = public()
    lots = Chance(chance.to_bytes(4, "big"))
    units = units_of(table, unit, most, lots)
    codec = public_codec(seed, START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS)
    heads = private_heads(networks, codec, rank)
    assert set(heads) == ALL_HEADS
    tokens = encode_privately(table.take(units.rows), codec, seed)
    lessons = lessons_of(networks, heads, tokens, units, codec, packets, lots)
    torch.manual_seed(chance)
    for head in heads.values():
        nn.init.normal_(head.change.weight, std=0.1)
        nn.init.normal_(head.change.bias, std=0.1)
    asked = np.random.default_rng(chance).permutation(len(units))[:9]
    module = GradSampleModule(Learned(heads), loss_reduction="sum")
    module(lessons, asked).sum().backward()
    at_once = {name: p.grad_sample for name, p in module.named_parameters() if p.requires_grad}
    module.remove_hooks()
    assert len(at_once) == 2 * len(heads)
    alone = Learned(heads)
    for i, u in enumerate(asked):
        alone.zero_grad()
        alone(lessons, np.array([u])).sum().backward()
        for name, p in alone.named_parameters():
            assert torch.allclose(at_once[f"_module.{name}"][i], p.grad, rtol=1e-4, atol=1e-5), (name, u)
