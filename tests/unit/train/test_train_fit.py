"""Fit: learns, the same every time, in any chunk that is large enough."""

import copy
import dataclasses
import json
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
from nsstream.model.conversations import draw_conversations
from nsstream.model.heads import heads_of
from nsstream.model.portrait import FEATURES, portrait_of_drawn, portrait_of_measured
from nsstream.model.sample_packets import draw_packets
from nsstream.train.config import FitConfig
from nsstream.train.fit import LEAST_CONVERSATIONS, Fit
from nsstream.train.tree_critic import STAGES

SMALL = FitConfig(steps=10, windows_per_step=16, groups_per_step=4, has_adversary=True, critic_rounds=2)


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


def unfitted(table, codec, config=SMALL, seed=3, clock=None, report=lambda _: None, threads=1):
    torch.manual_seed(seed)
    networks, tokens = new_networks(), encode(table, codec)
    portraits = portrait_of_measured(table, tokens, codec)
    clock = clock or ManualClock()
    return networks, Fit(networks, tokens, portraits, codec, config, seed, clock, report, threads)


def fitted(*given, **named):
    networks, fit = unfitted(*given, **named)
    fit.run()
    return networks, fit


def test_a_few_steps_make_the_chunk_likelier(table, tokens, codec):
    torch.manual_seed(3)
    before = losses(new_networks(), tokens, codec)
    networks, fit = fitted(table, codec, dataclasses.replace(SMALL, steps=30))
    after = losses(networks, tokens, codec)
    assert after[0] < before[0]
    assert after[1] < before[1]
    assert not networks.training
    facts = fit.facts()
    assert facts["rounds"] >= 30
    assert all(math.isfinite(nats) for nats in facts["held_out_nats"].values())
    assert facts["steps"]["critic"] > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_and_steps_give_the_same_weights_and_trees_and_another_seed_others(table, codec, threads):
    made = [fitted(table, codec, seed=seed, threads=threads) for seed in (3, 3, 4)]
    one, again, other = ((networks.state_dict(), fit.trees.as_arrays()) for networks, fit in made)
    for key, weight in one[0].items():
        torch.testing.assert_close(again[0][key], weight, rtol=0, atol=0)
    assert any((other[0][key] != weight).any() for key, weight in one[0].items())
    for key, array in one[1].items():
        np.testing.assert_array_equal(again[1][key], array)
    assert any(not np.array_equal(other[1][key], array) for key, array in one[1].items())


def test_trees_are_fitted_to_what_is_drawn(table, codec):
    _, fit = unfitted(table, codec)
    assert len(fit.trees.roots) == 0
    networks, fit = fitted(table, codec)
    fit.trees.check(FEATURES)
    assert len(fit.trees.roots) == 2 * STAGES
    rng = np.random.default_rng(9)
    drawn = draw_conversations(networks["attributes"], codec, rng)
    given = drawn.attributes, drawn.ends.stack, drawn.start_ns, drawn.counts
    packets = draw_packets(networks["packets"], codec, *given, rng, events=np.array(codec.endings.events))
    of_drawn = fit.trees(portrait_of_drawn(packets, drawn.attributes, codec))
    of_measured = fit.trees(portrait_of_measured(table, encode(table, codec), codec))
    assert np.median(of_drawn) < 0 < np.median(of_measured)


def rates_of(fit):
    """The rates of all steps of the packet network; the fit runs."""
    step, rates = fit._packets.step, []

    def told(loss, rate):
        rates.append(rate)
        return step(loss, rate)

    fit._packets.step = told
    fit.run()
    return rates


def test_the_rate_falls_over_so_many_passes_and_then_the_likelihood_stage_ends(table, codec):
    without_adversary = dataclasses.replace(SMALL, steps=4000, has_adversary=False)
    counts = []
    for epochs in (4.0, 8.0):
        networks, fit = unfitted(table, codec, dataclasses.replace(without_adversary, epochs=epochs))
        before = copy.deepcopy(networks.state_dict())
        rates = rates_of(fit)
        assert rates[0] == 1
        assert (np.diff(rates) < 0).all()
        assert 0.02 <= rates[-1] < 0.2
        assert fit.facts()["steps"]["critic"] == 0
        assert fit.facts()["steps"]["packets"] == len(rates) < 0.05 * 4000
        assert any((networks.state_dict()[k] != w).any() for k, w in before.items() if k.startswith("packets"))
        counts.append(len(rates))
    assert counts[1] == pytest.approx(2 * counts[0], abs=4)


def test_where_steps_are_few_the_rate_falls_over_their_share(table, codec):
    config = dataclasses.replace(SMALL, steps=20, epochs=1e9, has_adversary=False)
    rates = rates_of(unfitted(table, codec, config)[1])
    assert len(rates) == 20
    assert (np.diff(rates) < 0).all()
    assert rates[-1] < 0.1


def test_facts_are_json_and_say_what_was_done(table, codec):
    _, fit = fitted(table, codec)
    facts = json.loads(json.dumps(fit.facts()))
    assert set(facts) == {"rounds", "steps", "held_out_nats"}
    assert set(facts["steps"]) == {"attributes", "packets", "critic"}
    assert all(0 < steps <= facts["rounds"] for steps in facts["steps"].values())
    assert set(facts["held_out_nats"]) == {"conversation", "packet"}


@pytest.mark.parametrize("count", [LEAST_CONVERSATIONS, 12, 17, 23])
def test_a_small_chunk_is_learned_too(count):
    table = made_table(count=30).take(np.arange(count))
    codec = Codec.fit(table, START_NS, START_NS + MINUTE_NS)
    torch.manual_seed(3)
    start = copy.deepcopy(new_networks().state_dict())
    networks, fit = fitted(table, codec)
    assert all(math.isfinite(nats) for nats in fit.facts()["held_out_nats"].values())
    for half in ("attributes", "packets", "critic"):  # what was learned is kept
        assert any((networks.state_dict()[k] != w).any() for k, w in start.items() if k.startswith(half))


def test_a_chunk_of_too_few_conversations_is_refused(codec):
    table = made_table(count=30).take(np.arange(LEAST_CONVERSATIONS - 1))
    codec = Codec.fit(table, START_NS, START_NS + MINUTE_NS)
    with pytest.raises(TrainError, match="7 conversations is too small to learn"):
        fitted(table, codec)


def test_both_halves_at_once_learn_what_they_learn_in_turn(table, codec):
    in_turn, at_once = (fitted(table, codec, threads=threads)[0].state_dict() for threads in (1, 2))
    for key, weight in in_turn.items():
        torch.testing.assert_close(at_once[key], weight, rtol=0, atol=0)


def test_what_goes_wrong_in_the_other_thread_ends_the_fit(table, codec):
    _, fit = unfitted(table, codec, threads=2)
    fit._attributes.network.head[0].weight.data[:] = math.nan
    with pytest.raises(TrainError, match="diverged"):
        fit.run()


def test_where_packets_fail_attributes_are_not_learned_to_their_end_first(table, codec):
    _, fit = unfitted(table, codec, dataclasses.replace(SMALL, steps=3_000_000), threads=2)
    fit._packets.network.kind_head.weight.data[:] = math.nan
    fit._attributes.best_step = 1_000_000  # it would go on for a million steps
    with pytest.raises(TrainError, match="diverged"):
        fit.run()
    assert fit._attributes.step_count < 10_000


def test_a_critic_out_of_time_has_learned_one_round(table, codec):
    config = dataclasses.replace(SMALL, steps=None, budget_s=1e-6)
    _, fit = fitted(table, codec, config, clock=WorkClock())
    assert len(fit.trees.roots) == STAGES


class WorkClock(ManualClock):
    """A clock on which every look at it costs time, as work does."""

    def monotonic_ns(self) -> int:
        self.advance(200_000_000)
        return super().monotonic_ns()


def test_a_budget_ends_a_fit_and_progress_is_told_on_the_way(table, codec):
    told = []
    config = dataclasses.replace(SMALL, steps=None, budget_s=9.0)
    _, fit = fitted(table, codec, config, clock=WorkClock(), report=told.append)
    assert fit.facts()["rounds"] > 3
    assert {p.stage for p in told} >= {"likelihood", "adversary"}
    assert [p.step for p in told] == sorted({p.step for p in told})
    assert [p.elapsed_s for p in told] == sorted(p.elapsed_s for p in told)
    assert all(p.left_s is None or p.left_s >= 0 for p in told)
    assert told[-1].elapsed_s <= 9.0 + 3
    assert all(math.isfinite(p.loss) for p in told)
