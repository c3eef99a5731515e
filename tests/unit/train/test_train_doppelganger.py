"""DoppelGANger's fit: comes nearer to a small chunk, the same every time, and ends when it should."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.clock import ManualClock
from nsstream.encode.address_map import AddressMap
from nsstream.encode.series import FEATURE_WIDTH, encode_series
from nsstream.encode.series_codec import KIND_RANKS, SeriesCodec
from nsstream.errors import TrainError
from nsstream.model.doppelganger import SeriesLayout, new_series_networks
from nsstream.train.doppelganger_fit import LEAST_CONVERSATIONS, DoppelgangerConfig, DoppelgangerFit, layout_for

SMALL = DoppelgangerConfig(rounds=3, batch=12, critic_steps=2, learning_rate=5e-4)
LAYOUT = SeriesLayout(20, 10)


def series_of(table):
    networks = AddressMap(b"sixteen octets..").networks
    return encode_series(table, SeriesCodec.fit(table, START_NS, START_NS + MINUTE_NS, networks))


@pytest.fixture(scope="module")
def series(table):
    return series_of(table)


def fitted(series, config=SMALL, seed=3, clock=None, report=lambda _: None):
    torch.manual_seed(seed)
    networks = new_series_networks(LAYOUT)
    fit = DoppelgangerFit(networks, series, config, seed, clock or ManualClock(), report)
    fit.run()
    return networks, fit


def distance_of_means(networks, series):
    """How far the mean attributes and features of what is generated lie from the measured ones."""
    with torch.no_grad():
        attributes, features = networks["generator"](256, torch.Generator().manual_seed(9))
    real = torch.from_numpy(series.features(np.arange(len(series)), LAYOUT.length)).mean((0, 1))
    apart = (attributes.mean(0) - torch.from_numpy(series.attributes).mean(0)).abs().mean()
    return (apart + (features.mean((0, 1)) - real).abs().mean()).item()


def test_a_short_training_brings_what_is_generated_nearer(series):
    torch.manual_seed(3)
    before = distance_of_means(new_series_networks(LAYOUT).eval(), series)
    networks, fit = fitted(series, dataclasses.replace(SMALL, rounds=40))
    assert distance_of_means(networks, series) < 0.75 * before
    assert not networks.training
    assert math.isfinite(fit.facts()["distance"])


def test_the_critics_steps_leave_no_gradient_in_the_generator_and_use_fresh_batches(series):
    torch.manual_seed(1)
    networks = new_series_networks(LAYOUT).train()
    fit = DoppelgangerFit(networks, series, SMALL, 1, ManualClock(), lambda _: None)
    before = copy.deepcopy(networks["generator"].state_dict())
    distances = {fit._critic_step() for _ in range(3)}
    assert all(p.grad is None for p in networks["generator"].parameters())
    for name, weight in networks["generator"].named_parameters():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    assert len(distances) == 3
    assert all(p.grad is not None for half in ("critic", "attribute_critic") for p in networks[half].parameters())


def test_the_same_seed_and_rounds_give_the_same_weights_and_another_seed_others(series):
    one, again, other = (fitted(series, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    for key, weight in one.items():
        torch.testing.assert_close(again[key], weight, rtol=0, atol=0)
    assert any((other[key] != weight).any() for key, weight in one.items())


def test_what_is_generated_has_the_ranges_of_what_is_measured(series):
    generator = new_series_networks(LAYOUT)["generator"].eval()
    with torch.no_grad():
        attributes, features = generator(64, torch.Generator().manual_seed(2))
    assert attributes.shape[1] == series.attributes.shape[1]
    assert features.shape == (64, LAYOUT.length, FEATURE_WIDTH)
    assert attributes.abs().max() <= 1
    there = features.abs().sum(-1) > 0
    assert there[:, 0].all()
    assert (there[:, 1:] <= there[:, :-1]).all()  # zeros from the end on, as measured series have them
    torch.testing.assert_close(features[..., :KIND_RANKS].sum(-1)[there], torch.ones(int(there.sum())))


def test_a_series_is_as_long_as_the_longest_conversation_up_to_a_bound_and_the_cut_is_counted(series, table):
    layout = layout_for(series)
    assert layout.length >= table.packet_count.max() > layout.length - layout.pack
    _, fit = fitted(series)
    cut = np.maximum(table.packet_count - LAYOUT.length, 0)
    assert cut.sum() > 0
    assert fit.facts()["packets_cut"] == cut.sum()
    assert fit.facts()["conversations_cut"] == (cut > 0).sum()


@pytest.mark.parametrize(("length", "pack"), [(15, 10), (0, 10), (10, 0), (5, 10), (8192, 16)])
def test_a_layout_that_does_not_fit_is_refused(length, pack):
    with pytest.raises(ValueError, match="multiple of pack"):
        SeriesLayout(length, pack)


def test_a_chunk_of_too_few_conversations_is_refused():
    few = series_of(made_table(count=30).take(np.arange(LEAST_CONVERSATIONS - 1)))
    with pytest.raises(TrainError, match="7 conversations is too small to learn"):
        fitted(few)


class WorkClock(ManualClock):
    """A clock on which every look at it costs time, as work does."""

    def monotonic_ns(self) -> int:
        self.advance(400_000_000)
        return super().monotonic_ns()


def test_a_budget_ends_a_fit_and_progress_is_told_on_the_way(series):
    told = []
    config = dataclasses.replace(SMALL, rounds=None, budget_s=4.0)
    _, fit = fitted(series, config, clock=WorkClock(), report=told.append)
    assert 1 < fit.facts()["rounds"] < 10
    assert [p.step for p in told] == sorted({p.step for p in told})
    assert {p.stage for p in told} == {"adversary"}
    assert all(math.isfinite(p.loss) and p.left_s >= 0 for p in told)
