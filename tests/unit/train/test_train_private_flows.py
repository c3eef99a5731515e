"""Private learning of flow records on the actual data path: what one unit can move, and what a model says of itself."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from made_flows import START_NS, made_flows

from nsstream.draw.flow_drawer import FlowDrawer
from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.public_flow_codec import ROLE_SLOTS, encode_flows_privately, public_flow_codec
from nsstream.model.flow_checkpoint import load_flow_checkpoint, new_flow_networks, save_flow_checkpoint, show_chunk
from nsstream.privacy import epsilon, from_dicts
from nsstream.train.config import PrivateConfig
from nsstream.train.private_chance import Chance
from nsstream.train.private_flow_calibrate import NEVER
from nsstream.train.private_flow_counts import BUSY, SIZES, count_flows, sensitivity
from nsstream.train.private_flow_heads import NOT_LEARNED
from nsstream.train.private_flow_job import codec_of, fit_flows_privately, take_tokens
from nsstream.train.private_flow_networks import networks_of
from nsstream.train.private_flow_told import popularity, read_counts
from nsstream.train.private_settle import settle
from nsstream.train.private_units import units_by

INTERVAL = (START_NS, START_NS + 700 * 10**9)
CONFIG = PrivateConfig(epsilon=8.0, steps=2, most_conversations=5, host_sample_rate=1.0, rank=3, host_packets=12)


class Still(Chance):
    """Chance whose lots can be had again, and without noise."""

    def __init__(self):
        super().__init__(b"known to the test")

    def normal(self, count):
        return np.zeros(count)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr("nsstream.train.private_flow_calibrate.DRAWN", 128)


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    """A checkpoint of public flows."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    codec = FlowCodec.fit(group_flows(made_flows(count=300, labelled=False)), *INTERVAL)
    networks = new_flow_networks()
    show_chunk(networks, codec)
    models = tmp_path_factory.mktemp("models")
    return load_flow_checkpoint(save_flow_checkpoint(models, networks.eval(), codec, {"chunk": "public"}))


@pytest.fixture(scope="module")
def flows():
    return group_by_client(made_flows(seed=5, count=120))


def without(flows, unit, key):
    return flows.take(np.flatnonzero((unit_keys(flows, unit) != key).any(axis=1)))


def learned(seed, flows, config):
    """A fit with nothing left to chance before the corrections, given the same noisy counts; and the steps' sums."""
    sums = []
    vectors = []

    def watch(optimiser):
        sums.append(torch.cat([p.summed_grad.flatten() for p in optimiser.params]).double())

    def released(exact, *_):
        vectors.append(exact)
        counts = np.zeros(sum(SIZES.values()), np.int64)
        counts[0] = 200
        return counts

    made = fit_flows_privately(seed, flows, INTERVAL, config, Still(), lambda _: None, released, watch=watch)
    return made, sums, vectors[0]


@pytest.mark.parametrize("unit", ["host", "flow"])
def test_without_one_unit_counts_and_sums_move_by_what_is_noised_and_nothing_else_but_weights_does(seed, flows, unit):
    config = dataclasses.replace(CONFIG, unit=unit, flow_sample_rate=1.0, flow_packets=6)
    made, sums, vector = learned(seed, flows, config)
    keys = np.unique(unit_keys(flows, unit), axis=0)
    for key in keys[:: max(1, len(keys) // 3)]:
        fewer, fewer_sums, fewer_vector = learned(seed, without(flows, unit, key), config)
        assert json.dumps(fewer.codec.as_json()) == json.dumps(made.codec.as_json())
        assert fewer.privacy == made.privacy
        assert 0 < np.linalg.norm(vector - fewer_vector) <= sensitivity(unit, config.most)
        assert len(sums) == len(fewer_sums) == config.steps
        assert 0 < float((sums[0] - fewer_sums[0]).norm()) <= config.clip * (1 + 1e-4)
        theirs, ours = fewer.networks.state_dict(), made.networks.state_dict()
        differ = {name for name in ours if not torch.equal(ours[name], theirs[name])}
        assert all(name.split(".")[2] in ("head", "correction") for name in differ), differ


def test_the_manifest_says_what_was_spent_and_the_model_draws_lawful_flows(seed, flows, tmp_path):
    config = dataclasses.replace(CONFIG, epsilon=2.0, unit="flow", flow_sample_rate=0.3)
    made = fit_flows_privately(seed, flows, INTERVAL, config, Chance(), lambda _: None)
    mechanisms = from_dicts(made.privacy["mechanisms"])
    assert [m.KIND for m in mechanisms] == ["discrete_gaussian", "sampled_gaussian"]
    assert 1.9 < epsilon(mechanisms, made.privacy["delta"]) <= 2.0
    saved = save_flow_checkpoint(tmp_path, made.networks, made.codec, {"privacy": made.privacy})
    table = FlowDrawer(3).draw(saved)
    assert 16 <= made.codec.conversation_count <= 2 * len(flows) + 200
    assert len(table) == made.codec.record_count
    assert INTERVAL[0] <= table.flow_start_ns.min()
    assert table.flow_end_ns.max() < INTERVAL[1]
    assert (table.packet_delta_count + table.reverse_packet_delta_count > 0).all()
    held = {address.tobytes() for address in made_flows(count=300).source_address}
    assert not held & {address.tobytes() for address in table.source_address}


def test_hosts_are_as_many_and_as_busy_as_noisy_counts_say(seed, flows):
    units = units_by(unit_keys(flows, "host"), 5, Still())
    codec = public_flow_codec(seed.codec, *INTERVAL, lambda addresses: addresses)
    tokens = take_tokens(encode_flows_privately(flows, codec, "host"), units.rows)
    each = np.unique(unit_keys(flows, "host"), axis=0, return_counts=True)[1]
    vector = count_flows(flows.take(units.rows), tokens, units, each, codec, "host", 5)
    told = read_counts(vector, 1e-6, "host", 5)
    assert told.units == pytest.approx(len(units))
    assert len(told.busy) == len(units)
    assert (np.diff(told.busy) <= 0).all()
    assert told.busy.sum() == pytest.approx(len(flows), rel=0.3)
    assert told.total == max(told.busy.sum(), len(units.rows))
    assert np.searchsorted(BUSY, each, side="right").min() >= 1


def test_servers_are_asked_a_second_time_by_whom_it_was_or_by_another(seed, flows):
    units = units_by(unit_keys(flows, "flow"), 1, Still())
    codec = public_flow_codec(seed.codec, *INTERVAL, lambda addresses: addresses)
    tokens = encode_flows_privately(flows, codec, "flow")
    counts = count_flows(flows, tokens, units, np.ones(len(flows), np.int64), codec, "flow", 1)
    told = read_counts(counts, 1e-6, "flow", 1)
    asked: dict[bytes, list[bytes]] = {}
    for client, server in zip(flows.client_address, flows.server_address, strict=True):
        asked.setdefault(server.tobytes(), []).append(client.tobytes())
    seconds = [clients[0] == clients[1] for clients in asked.values() if len(clients) > 1]
    assert told.blocks["second"].tolist() == [len(seconds) - sum(seconds), sum(seconds)]
    assert codec_of(codec, seed.codec, told).share_again == pytest.approx(np.mean(seconds), abs=0.01)


def test_what_noise_hides_stays_as_it_was_expected():
    expected = np.array([50.0, 30.0, 20.0, 0.0])
    assert np.allclose(settle(np.array([90.0, 5.0, 5.0, 0.0]), expected, 1e-6, 100.0), [90, 5, 5, 0], atol=1e-3)
    assert np.allclose(settle(np.array([90.0, 5.0, -50.0, 40.0]), expected, 1e9, 100.0), expected, atol=1e-3)
    assert settle(np.array([0.0, 0.0, 0.0, 500.0]), expected, 10.0, 100.0)[3] > 50
    few = np.append([500.0, 480.0], np.full(300, 2.0))  # what is well known is not scaled down by what noise hides
    told = settle(np.append([500.0, 480.0], np.zeros(300)), few, 4.0, 1000.0)
    assert told.sum() == pytest.approx(1000.0)
    assert told[:2] == pytest.approx([500.0, 480.0], rel=0.03)
    buckets = np.full(ROLE_SLOTS, 20.0)
    buckets[7] = 900.0
    popular, rest, size = popularity(buckets, 5.0)
    assert np.flatnonzero(popular).tolist() == [7]
    assert rest == pytest.approx(20.0 * ROLE_SLOTS)
    assert size == 1.0
    often = np.random.default_rng(2).poisson(2.0, ROLE_SLOTS) * 10.0  # hosts that come ten times each
    assert popularity(often, 1e-3)[2] == pytest.approx(10.0, rel=0.4)


def test_networks_made_ready_say_what_the_seed_does_where_nothing_was_taken_from_them(seed):
    """Folding features into weights changes no logit; and hosts and starts make no difference any more."""
    codec = public_flow_codec(seed.codec, *INTERVAL, lambda addresses: addresses)
    networks = networks_of(seed, codec)
    was, now = seed.records.heads, networks["records"].heads
    known, tokens = torch.randn(5, seed.records.width), torch.zeros(5, 12, dtype=torch.int64)
    for i in (0, 2, 6):
        shown = was.shown(i)
        at = torch.searchsorted(now.shown(i), shown)
        assert torch.allclose(now.logits(i, known, tokens)[:, at], was.logits(i, known, tokens), atol=1e-4)
    conversations = networks["conversations"]
    assert not any(weight.any() for weight in conversations.history.parameters())
    for name, column in (("client", 6), ("server", 7)):
        rows = conversations.heads.said[column].weight[600:1000]
        assert torch.equal(rows, rows[:1].expand_as(rows)), name
    assert not set(NOT_LEARNED) & {"service", "server"}
    assert NEVER < -20
