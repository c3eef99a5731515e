"""Fit: learns, the same every time, in any chunk that is large enough."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.clock import ManualClock
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_attributes, allowed_kinds, encode
from nsstream.errors import TrainError
from nsstream.model.checkpoint import new_networks
from nsstream.model.heads import heads_of
from nsstream.train.config import FitConfig
from nsstream.train.fit import LEAST_CONVERSATIONS, Fit

SMALL = FitConfig(steps=10, windows_per_step=16, groups_per_step=4)


def losses(networks, tokens, codec):
    """Nats a conversation and nats a packet of the whole chunk."""
    networks.eval()
    with torch.no_grad():
        masks = [torch.from_numpy(m) for m in allowed_attributes(codec)]
        said, features = torch.from_numpy(tokens.attributes)[None], torch.from_numpy(tokens.start_features)[None]
        attributes = networks["attributes"].loss(said, features, masks).mean().item()
        batch = heads_of(tokens, np.arange(len(tokens)))
        nll = networks["packets"].loss(batch, torch.from_numpy(allowed_kinds(codec)[tokens.stack]))
        return attributes, (nll.sum() / batch.counts.sum()).item()


def fitted(tokens, codec, config=SMALL, seed=3, clock=None, report=lambda _: None):
    torch.manual_seed(seed)
    networks = new_networks()
    fit = Fit(networks, tokens, codec, config, seed, clock or ManualClock(), report)
    fit.run()
    return networks, fit


def test_a_few_steps_make_the_chunk_likelier(tokens, codec):
    torch.manual_seed(3)
    before = losses(new_networks(), tokens, codec)
    networks, fit = fitted(tokens, codec, dataclasses.replace(SMALL, steps=30))
    after = losses(networks, tokens, codec)
    assert after[0] < before[0]
    assert after[1] < before[1]
    assert not networks.training
    facts = fit.facts()
    assert facts["rounds"] >= 30
    assert all(math.isfinite(nats) for nats in facts["held_out_nats"].values())
    assert facts["steps"]["critic"] > 0


def test_the_same_seed_and_steps_give_the_same_weights_and_another_seed_others(tokens, codec):
    one, again, other = (fitted(tokens, codec, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    for key, weight in one.items():
        torch.testing.assert_close(again[key], weight, rtol=0, atol=0)
    assert any((other[key] != weight).any() for key, weight in one.items())


@pytest.mark.parametrize("count", [LEAST_CONVERSATIONS, 12, 17, 23])
def test_a_small_chunk_is_learned_too(count):
    table = made_table(count=30).take(np.arange(count))
    codec = Codec.fit(table, START_NS, START_NS + MINUTE_NS)
    tokens = encode(table, codec)
    torch.manual_seed(3)
    start = copy.deepcopy(new_networks().state_dict())
    networks, fit = fitted(tokens, codec)
    assert all(math.isfinite(nats) for nats in fit.facts()["held_out_nats"].values())
    for half in ("attributes", "packets", "critic"):  # what was learned is kept
        assert any((networks.state_dict()[k] != w).any() for k, w in start.items() if k.startswith(half))


def test_a_chunk_of_too_few_conversations_is_refused(codec):
    table = made_table(count=30).take(np.arange(LEAST_CONVERSATIONS - 1))
    codec = Codec.fit(table, START_NS, START_NS + MINUTE_NS)
    with pytest.raises(TrainError, match="7 conversations is too small to learn"):
        fitted(encode(table, codec), codec)


class WorkClock(ManualClock):
    """A clock on which every look at it costs time, as work does."""

    def monotonic_ns(self) -> int:
        self.advance(200_000_000)
        return super().monotonic_ns()


def test_a_budget_ends_a_fit_and_progress_is_told_on_the_way(tokens, codec):
    told = []
    config = dataclasses.replace(SMALL, steps=None, budget_s=9.0)
    _, fit = fitted(tokens, codec, config, clock=WorkClock(), report=told.append)
    assert fit.facts()["rounds"] > 3
    assert {p.stage for p in told} >= {"likelihood", "adversary"}
    assert [p.step for p in told] == sorted({p.step for p in told})
    assert [p.elapsed_s for p in told] == sorted(p.elapsed_s for p in told)
    assert all(p.left_s is None or p.left_s >= 0 for p in told)
    assert told[-1].elapsed_s <= 9.0 + 3
    assert all(math.isfinite(p.loss) for p in told)
