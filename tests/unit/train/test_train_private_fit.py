"""Private learning on the actual data path: what one unit can move, and that opacus is really what bounds it."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_table
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy.stats import kstest
from torch import nn

from nsstream.encode.public_codec import encode_privately, public_codec
from nsstream.model.checkpoint import load_checkpoint, new_networks, save_checkpoint
from nsstream.model.conversations import draw_conversations
from nsstream.model.sample_packets import draw_packets
from nsstream.model.trees import Trees
from nsstream.privacy import epsilon, from_dicts
from nsstream.privacy.promise import promise_of
from nsstream.train.config import PrivateConfig
from nsstream.train.job import AddressMapConfig, Privacy, TrainJob
from nsstream.train.private_chance import Chance
from nsstream.train.private_counts import SIZES, count_units, sensitivity
from nsstream.train.private_fit import SecureOptimizer
from nsstream.train.private_heads import PrivateHead
from nsstream.train.private_job import fit_privately, train_privately
from nsstream.train.private_units import units_of

MINUTE = (START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS)
CONFIG = PrivateConfig(epsilon=8.0, steps=4, most_conversations=5, host_sample_rate=0.9, rank=4)


class Still(Chance):
    """Chance whose lots can be had again, and without noise."""

    def __init__(self):
        super().__init__(b"known to the test")

    def normal(self, count):
        return np.zeros(count)


@pytest.fixture(scope="module")
def seed(tmp_path_factory, codec):
    """A checkpoint of a public minute."""
    torch.manual_seed(3)
    models = tmp_path_factory.mktemp("models")
    return load_checkpoint(save_checkpoint(models, new_networks().eval(), Trees.none(), codec, {"chunk": "public"}))


@pytest.fixture(scope="module")
def private_table():
    """The minute after, whose hosts, and some of whose services, the seed does not know."""
    return made_table(seed=5, count=90, minute=1)


def without(table, address):
    return table.take(np.flatnonzero((table.initiator_address != address).any(axis=1)))


def hosts_of(table):
    return np.unique(table.initiator_address, axis=0)


def learned(seed, table, config, **of_learning):
    """A fit with nothing left to chance, given the same noisy counts; and the clipped sums of its steps."""
    sums = []

    def watch(optimiser):
        sums.append(torch.cat([p.summed_grad.flatten() for p in optimiser.params]).double())

    counts = np.zeros(sum(SIZES), np.int64)

    def released(exact, *_):
        assert len(exact) == len(counts)
        counts[0], counts[np.cumsum(SIZES)[3]] = 90, 5 * 8  # what was told of conversations, and of IPv4's hosts
        return counts

    of_learning = {"noisy": released, "watch": watch} | of_learning
    made = fit_privately(seed, table, MINUTE, config, Still(), lambda _: None, **of_learning)
    return made, sums


def test_without_one_host_only_weights_differ_and_a_sum_of_gradients_by_the_clip_at_most(seed, private_table):
    config = dataclasses.replace(CONFIG, host_sample_rate=1.0)
    made, sums = learned(seed, private_table, config)
    assert len(hosts_of(private_table)) >= 6
    for host in hosts_of(private_table):
        fewer, fewer_sums = learned(seed, without(private_table, host), config)
        assert json.dumps(fewer.codec.as_json()) == json.dumps(made.codec.as_json())
        assert fewer.privacy == made.privacy
        assert len(fewer_sums) == len(sums) == config.steps
        moved = float((sums[0] - fewer_sums[0]).norm())
        assert 0 < moved <= config.clip * (1 + 1e-5)
        theirs, ours = fewer.networks.state_dict(), made.networks.state_dict()
        differ = {name for name in ours if not torch.equal(ours[name], theirs[name])}
        assert differ
        assert all(name.split(".")[1].removesuffix("_head") in ("head", "kind", "size", "gap") for name in differ)
        assert not any(name.startswith("critic.") for name in differ)


def test_the_other_hosts_lots_do_not_change_without_one(private_table):
    host = hosts_of(private_table)[0]
    fewer = without(private_table, host)
    all_units, most_units = (units_of(table, "host", 5, Still()) for table in (private_table, fewer))
    assert set(most_units.keys) == set(all_units.keys) - {b"\x04" + host.tobytes(), b"\x06" + host.tobytes()}
    for u, key in enumerate(most_units.keys):
        kept = private_table.take(all_units.rows[all_units.owner == all_units.keys.index(key)])
        again = fewer.take(most_units.rows[most_units.owner == u])
        assert np.array_equal(kept.observation_time_ns, again.observation_time_ns)
        assert 1 <= len(kept) <= 5
        assert np.array_equal(Still().coins(key, 0.5, 20), Still().coins(key, 0.5, 20))


@pytest.mark.parametrize("unit", ["host", "flow"])
def test_one_unit_moves_the_counts_by_their_sensitivity_at_most(seed, private_table, unit):
    codec, most = public_codec(seed.codec, *MINUTE), 5 if unit == "host" else 1

    def counted(table):
        kept = table.take(units_of(table, unit, most, Still()).rows)
        return count_units(kept, encode_privately(kept, codec, seed.codec), codec, most)

    whole = counted(private_table)
    fewer = [without(private_table, h) for h in hosts_of(private_table)]
    if unit == "flow":
        fewer = [private_table.take(np.delete(np.arange(len(private_table)), i)) for i in range(0, 90, 9)]
    moved = [float(np.linalg.norm(whole - counted(table))) for table in fewer]
    assert min(moved) > 0
    assert max(moved) <= sensitivity(unit, most)


def test_a_conversation_is_encoded_the_same_whoever_else_is_there(seed, private_table):
    codec = public_codec(seed.codec, *MINUTE)
    together = encode_privately(private_table, codec, seed.codec)
    for row in range(0, len(private_table), 7):
        alone = encode_privately(private_table.take(np.array([row])), codec, seed.codec)
        begin, end = private_table.packet_offset[row : row + 2]
        for field in dataclasses.fields(together):
            whole, own = getattr(together, field.name), getattr(alone, field.name)
            if field.name != "packet_offset":
                part = whole[begin:end] if len(whole) == len(together.kind) else whole[row : row + 1]
                assert np.array_equal(part, own), field.name


def test_no_vocabulary_learns_a_private_value(seed, private_table):
    made, _ = learned(seed, private_table, CONFIG)
    public = public_codec(seed.codec, *MINUTE)
    for name in ("host", "port", "ttl", "marking", "kind", "size", "service"):
        assert getattr(made.codec, name).slots == getattr(public, name).slots
    assert np.array_equal(made.codec.taken_ports, seed.codec.taken_ports)
    assert np.array_equal(made.codec.rare_prefix, seed.codec.rare_prefix)


def test_the_manifest_says_what_was_spent_and_it_is_within_the_promise(seed, private_table):
    made, _ = learned(seed, private_table, dataclasses.replace(CONFIG, epsilon=2.0))
    mechanisms = from_dicts(made.privacy["mechanisms"])
    assert [m.KIND for m in mechanisms] == ["discrete_gaussian", "sampled_gaussian"]
    assert 1.9 < epsilon(mechanisms, made.privacy["delta"]) <= 2.0
    assert (made.privacy["epsilon"], made.privacy["unit"], made.privacy["most_conversations"]) == (2.0, "host", 5)


def test_hosts_that_the_map_gives_one_address_are_units_of_their_own(seed, private_table):
    """Else one of them could not be taken away without changing which conversations of the other are learned."""
    hosts = hosts_of(private_table)[:2]
    is_second = (private_table.initiator_address == hosts[1]).all(axis=1)
    mapped = dataclasses.replace(
        private_table, initiator_address=np.where(is_second[:, None], hosts[0], private_table.initiator_address)
    )
    most = []

    def released(exact, *_):
        most.append(exact)
        return exact

    for real in (None, private_table):
        learned(seed, mapped, CONFIG, noisy=released, real=real)
    units = [len(set(map(bytes, hosts_of(table)))) for table in (mapped, private_table)]
    told = [vector[np.cumsum(SIZES)[3] :][:2].sum() // CONFIG.most_conversations for vector in most]
    assert told == units
    assert units[1] == units[0] + 1


def test_flows_are_units_by_their_five_tuple_and_fragments_by_themselves(private_table):
    units = units_of(private_table, "flow", 1, Still())
    assert len(units) == len(private_table)
    fragments = dataclasses.replace(private_table, is_fragment=1 - private_table.is_fragment)
    assert not set(units.keys) & set(units_of(fragments, "flow", 1, Still()).keys)
    later = dataclasses.replace(private_table, observation_time_ns=private_table.observation_time_ns + 1)
    assert units_of(later, "flow", 1, Still()).keys == units.keys


def test_a_model_that_goes_on_from_a_private_one_knows_what_that_one_cost(seed, private_table, tmp_path):
    networks = nn.ModuleDict({"attributes": seed.attributes, "packets": seed.packets, "critic": seed.critic})
    parent = save_checkpoint(tmp_path, networks, seed.trees, seed.codec, {"chunk": "public"})
    manifests = []
    for spent in (3.0, 2.0):
        job = TrainJob(
            chunk=tmp_path / "none.arrow", parent=parent, out=tmp_path, steps=1,
            address_map=AddressMapConfig(key_hex="00" * 16), private=Privacy(epsilon=spent, steps=2),
        )  # fmt: skip
        parent = train_privately(job, private_table, MINUTE, {"chunk": "private"}, lambda _: None)
        manifests.append(load_checkpoint(parent).manifest)
    first, second = (manifest["privacy"] for manifest in manifests)
    assert first["before"] == []
    assert set(from_dicts(second["before"])) == set(from_dicts(first["mechanisms"]))
    both = from_dicts(first["mechanisms"]) + from_dicts(second["mechanisms"])
    assert promise_of(manifests)["epsilon"] == pytest.approx(epsilon(both, 1e-5))
    assert promise_of(manifests[1:])["epsilon"] > 3.0


def test_counts_that_are_noised_draw_a_chunk_of_about_as_many(seed, private_table, tmp_path):
    made = fit_privately(
        seed, private_table, MINUTE, dataclasses.replace(CONFIG, unit="flow"), Chance(), lambda _: None
    )
    assert 8 <= made.codec.profile.sum() < 1000
    assert made.codec.length.counts.sum() == made.codec.profile.sum()
    facts = {"privacy": made.privacy}
    saved = load_checkpoint(save_checkpoint(tmp_path, made.networks, Trees.none(), made.codec, facts))
    rng = np.random.default_rng(1)
    drawn = draw_conversations(saved.attributes, saved.codec, rng)
    given = drawn.attributes, drawn.ends.stack, drawn.start_ns, drawn.counts
    packets = draw_packets(saved.packets, saved.codec, *given, rng)
    assert len(drawn) == made.codec.profile.sum()
    assert len(packets.kind) == drawn.counts.sum()


def test_without_noise_our_optimiser_steps_as_opacus_own():
    torch.manual_seed(2)
    inputs, wanted = torch.randn(6, 5, 4), torch.randint(0, 3, (6, 5))
    weights = []
    for kind in (DPOptimizer, SecureOptimizer):
        torch.manual_seed(4)
        module = GradSampleModule(nn.Linear(4, 3), loss_reduction="sum")
        plain = torch.optim.SGD(module.parameters(), lr=0.1)
        if kind is DPOptimizer:
            given = {"noise_multiplier": 0.0, "expected_batch_size": None, "loss_reduction": "sum"}
            optimiser = DPOptimizer(plain, max_grad_norm=0.7, **given)
        else:
            optimiser = SecureOptimizer(plain, 1.0, 0.7, Still())
        for _ in range(3):
            optimiser.zero_grad()
            logits = module(inputs.clone().requires_grad_())
            nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum").backward()
            optimiser.step()
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.allclose(*weights, atol=1e-6)


def test_the_noise_is_normal_and_as_large_as_was_asked():
    numbers = Chance().normal(100_000)
    assert kstest(numbers, "norm").pvalue > 1e-6
    head = nn.Linear(3, 4)
    module = GradSampleModule(head, loss_reduction="sum")
    optimiser = SecureOptimizer(torch.optim.SGD(module.parameters(), lr=1.0), 3.0, 0.5, Chance())
    gave = []
    for _ in range(400):
        optimiser.zero_grad()
        (module(torch.zeros(1, 2, 3, requires_grad=True)) * 0).sum().backward()
        optimiser.step()
        gave.append(head.weight.grad.clone())
    assert torch.stack(gave).std() == pytest.approx(1.5, rel=0.1)


def test_the_change_of_a_head_is_added_to_its_layer_and_nothing_else():
    torch.manual_seed(1)
    layer = nn.Linear(6, 5)
    before = layer.weight.detach().clone()
    head = PrivateHead(layer, np.array([0, 2, 3]), 2)
    reads = torch.randn(7, 6)
    assert torch.allclose(head(reads, torch.zeros(1, 3)), layer(reads)[:, [0, 2, 3]], atol=1e-6)
    nn.init.normal_(head.change.weight)
    told = head(reads, torch.zeros(1, 3)).detach()
    head.keep()
    assert torch.allclose(layer(reads)[:, [0, 2, 3]], told, atol=1e-5)
    assert torch.equal(layer.weight[[1, 4]], before[[1, 4]])
