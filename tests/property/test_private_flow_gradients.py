"""Of flow records too, a unit's gradient of every layer that is learned privately is autograd's of that unit alone."""

from functools import cache

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_flows import START_NS, made_flows
from opacus.grad_sample import GradSampleModule
from torch import nn

from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import encode_flows
from nsstream.encode.public_flow_codec import encode_flows_privately, public_flow_codec
from nsstream.model.flow_checkpoint import FlowModel, new_flow_networks, show_chunk
from nsstream.train.private_chance import Chance
from nsstream.train.private_fit import Learned
from nsstream.train.private_flow_heads import flow_lessons_of, private_flow_heads
from nsstream.train.private_flow_job import take_tokens
from nsstream.train.private_flow_networks import networks_of
from nsstream.train.private_units import units_by

INTERVAL = (START_NS, START_NS + 700 * 10**9)


@cache
def public():
    """A public seed that has learned nothing, ready for a private chunk, and the chunk's conversations."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    flows = group_flows(made_flows(count=300, labelled=False))
    seed = FlowCodec.fit(flows, *INTERVAL)
    networks = new_flow_networks()
    show_chunk(networks, seed)
    assert len(encode_flows(flows, seed))
    codec = public_flow_codec(seed, *INTERVAL, lambda addresses: addresses)
    model = FlowModel(networks["conversations"], networks["records"], seed, {})
    return codec, networks_of(model, codec), group_by_client(made_flows(seed=5, count=150))


@settings(max_examples=8, deadline=None)
@given(
    rank=st.integers(1, 6),
    unit=st.sampled_from(["host", "flow"]),
    most=st.integers(1, 8),
    records=st.integers(1, 30),
    chance=st.integers(0, 1 << 30),
)
def test_per_unit_gradients_are_those_of_units_alone(rank, unit, most, records, chance):
    codec, networks, flows = public()
    lots = Chance(chance.to_bytes(4, "big"))
    units = units_by(unit_keys(flows, unit), most, lots)
    heads = private_flow_heads(networks, rank)
    assert {"service", "server", "client_port", "record_count", "octets", "duration", "flags"} <= set(heads)
    assert not {"label", "start_gap", "client"} & set(heads)
    tokens = take_tokens(encode_flows_privately(flows, codec, unit), units.rows)
    lessons = flow_lessons_of(networks, heads, tokens, units, codec, records, lots)
    torch.manual_seed(chance)
    for head in heads.values():
        nn.init.normal_(head.change.weight, std=0.1)
        nn.init.normal_(head.change.bias, std=0.1)
    asked = np.random.default_rng(chance).permutation(len(units))[:7]
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
