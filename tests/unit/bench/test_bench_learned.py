"""What an outsider hears of a private model, whose noise is left out: the attack finds what noise is to hide."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from bars.attacked import Trained, mapped_by, owners, who_has
from bars.learned import listen, untangled

from nsstream.encode.address_map import AddressMap
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import sort_by_start
from nsstream.model.checkpoint import load_checkpoint, new_networks, save_checkpoint
from nsstream.model.trees import Trees
from nsstream.score.privacy.canaries import make_canaries
from nsstream.score.privacy.intervals import auc_of
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations
from nsstream.train.config import PrivateConfig
from nsstream.train.private_chance import Chance
from nsstream.train.private_job import fit_privately

SPAN_NS = (1_700_000_000_000_000_000, 1_700_000_120_000_000_000)
MAP = AddressMap(bytes(range(32)))


class Silent(Chance):
    """Chance without noise."""

    def normal(self, count):
        return np.zeros(count)


def table_of(packets):
    return mapped_by(MAP, sort_by_start(group_conversations(packets)[0]))


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    torch.manual_seed(5)
    public = make_canaries(40, 1, SPAN_NS, np.random.default_rng(9)).all_in(PacketBatch.empty(0))
    codec = Codec.fit(table_of(public), *SPAN_NS)
    return save_checkpoint(
        tmp_path_factory.mktemp("public"), new_networks().eval(), Trees.none(), codec, {"chunk": "public"}
    )


@pytest.mark.parametrize(("unit", "conversations"), [("flow", 1), ("host", 3)])
def test_without_noise_heads_and_counts_tell_who_was_learned(seed, tmp_path, unit, conversations):
    canaries = make_canaries(48, conversations, SPAN_NS, np.random.default_rng(2))
    learned = table_of(canaries.planted_in(PacketBatch.empty(0)))
    config = PrivateConfig(epsilon=50.0, unit=unit, steps=30, flow_sample_rate=0.9, host_sample_rate=0.9)
    made = fit_privately(
        load_checkpoint(seed), learned, SPAN_NS, config, Silent(), lambda _: None, lambda exact, *_: exact
    )
    told = {"chunk": "private", "privacy": made.privacy}
    model = save_checkpoint(tmp_path, made.networks, made.trees, made.codec, told)
    named, of = owners(canaries.packets)
    assert len(named) == 48 * conversations
    everything = canaries.all_in(PacketBatch.empty(0))
    heard = listen(Trained(model, MAP), seed, everything, partial(who_has, named, of))
    included = canaries.included
    for score, least in ((heard.pull, 0.9), (heard.gain, 0.6), (heard.counted, 0.6)):
        assert auc_of(score[included], score[~included]).value > least
    assert np.linalg.norm(heard.gradients, axis=1).max() <= config.clip * (1 + 1e-5)
    assert (heard.gain > 0).mean() > 0.75  # they are alike: what some teach is good for all


def test_a_sum_is_told_apart_into_the_rows_that_are_in_it():
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 1, (60, 400)).astype(np.float32) + 3 * rng.normal(0, 1, 400).astype(np.float32)  # alike
    is_in = rng.random(60) < 0.5
    found = untangled(rows, rows[is_in].sum(axis=0), 0.0)
    assert np.allclose(found, is_in, atol=0.4)
