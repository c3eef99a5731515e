"""A private job: a public seed's checkpoint and a private chunk in, a checkpoint that keeps to (epsilon, delta) out.

    grouping -> units; address map -> counts, noised once -> codec -> frozen bodies -> DP-SGD on the heads -> checkpoint

Everything in the checkpoint that the chunk has a say in comes from one of two mechanisms: the noisy counts
(`private_counts`) and the noisy gradients (`private_fit`). The rest is the seed's, or public: the chunk's interval and
id, which are the grid's. Critic and trees are not trained here: the seed's critic stays, and its trees do where the
noise is loud.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nsstream.encode.codec import Codec
from nsstream.encode.made_up_hosts import made_up_hosts
from nsstream.encode.public_codec import encode_privately, public_codec
from nsstream.encode.schema import ATTRIBUTE_INDEX, ATTRIBUTES
from nsstream.errors import TrainError
from nsstream.model.checkpoint import Model, load_checkpoint, new_networks, save_checkpoint
from nsstream.model.trees import Trees
from nsstream.privacy import Mechanism, as_dicts, epsilon, noisy_counts
from nsstream.privacy.promise import ADJACENCY, before_of
from nsstream.trace import ConversationTable
from nsstream.train.calibrate import reset_corrections
from nsstream.train.chunk_table import with_mapped_addresses
from nsstream.train.config import PrivateConfig, Progress
from nsstream.train.inherit import inherit, rows_of
from nsstream.train.job import TrainJob
from nsstream.train.private_chance import Chance
from nsstream.train.private_counts import Noisy, count_units, sensitivity, tell
from nsstream.train.private_fit import learn_privately
from nsstream.train.private_heads import lessons_of, private_heads
from nsstream.train.private_hosts import only_these
from nsstream.train.private_plan import mechanisms_of
from nsstream.train.private_units import units_of
from nsstream.train.private_urns import counts_of


def train_privately(
    job: TrainJob,
    table: ConversationTable,
    interval_ns: tuple[int, int],
    facts: dict[str, Any],
    report: Callable[[Progress], None],
) -> Path:
    """Do a job whose `private` is set, on conversations sorted by start, addresses as they were; gives its checkpoint.

    Raises TrainError where the budget is too small for any noise, and as loading and saving checkpoints do.
    """
    assert job.private is not None
    assert job.parent is not None
    torch.set_num_threads(1)
    config = PrivateConfig(**job.private.model_dump())
    parent = load_checkpoint(job.parent)
    mapped = with_mapped_addresses(table, job.address_map)
    made = fit_privately(parent, mapped, interval_ns, config, Chance(), report, real=table)
    told = {**facts, "seed": None, "parent": parent.manifest["id"], "torch": _version()}
    privacy = made.privacy | {"before": as_dicts(before_of(parent.manifest))}  # none: the parent is public
    return save_checkpoint(job.out, made.networks, made.trees, made.codec, told | {"privacy": privacy})


@dataclasses.dataclass(frozen=True)
class PrivateModel:
    """What a private fit gives; `privacy` is for the manifest."""

    networks: nn.ModuleDict
    trees: Trees
    codec: Codec
    privacy: dict[str, Any]


def fit_privately(
    parent: Model,
    table: ConversationTable,
    interval_ns: tuple[int, int],
    config: PrivateConfig,
    chance: Chance,
    report: Callable[[Progress], None],
    noisy: Noisy = noisy_counts,
    *,
    real: ConversationTable | None = None,
    **of_learning: Any,
) -> PrivateModel:
    """Learn a chunk's conversations (sorted by start, addresses mapped) privately, from a public model.

    `real` are the same with the addresses that they had, which say whose they are: the map may give two hosts one
    address. None: they are not mapped. `noisy` and what else is handed to `learn_privately` are for tests.
    """
    counting, learning = mechanisms_of(config)
    privacy = promise_by(config, (counting, learning))
    codec = public_codec(parent.codec, *interval_ns)
    networks = networks_from(parent, codec)
    seen = table if real is None else real
    units = units_of(seen, config.unit, config.most, chance)
    kept = table.take(units.rows)
    vector = count_units(seen.take(units.rows), encode_privately(kept, codec, parent.codec), codec, config.most)
    noisy_vector = noisy(vector, counting.noise_multiplier, math.ceil(sensitivity(config.unit, config.most)))
    told = tell(noisy_vector, counting.noise_multiplier, config.unit, config.most, codec, parent.codec)
    _expect(networks, parent.codec, told.codec)
    heads = private_heads(networks, told.codec, config.rank)
    tokens = encode_privately(kept, told.codec, parent.codec)
    lessons = lessons_of(networks, heads, tokens, units, told.codec, config.most_packets, chance)
    coins = np.zeros((config.steps, len(units)), bool)
    for u, key in enumerate(units.keys):
        coins[:, u] = chance.coins(key, config.sample_rate, config.steps)
    learn_privately(
        heads, lessons, coins, learning.noise_multiplier, config.clip, config.drift, config.sample_rate * told.units,
        chance, lambda step: report(Progress("private", step, config.steps, None, 0.0, None)), **of_learning,
    )  # fmt: skip
    trees = parent.trees if told.is_loud else Trees.none()
    return PrivateModel(networks.eval(), trees, told.codec, privacy)


def promise_by(config: PrivateConfig, mechanisms: Sequence[Mechanism]) -> dict[str, Any]:
    """What a manifest says of a private fit; raises TrainError where it would break its promise."""
    spent = epsilon(mechanisms, config.delta)
    if not spent <= config.epsilon:
        raise TrainError(f"the mechanisms would spend epsilon {spent:g} of {config.epsilon:g}")
    return {
        "epsilon": config.epsilon,
        "delta": config.delta,
        "unit": config.unit,
        "mechanisms": as_dicts(mechanisms),
        "adjacency": ADJACENCY,
        "sample_rate": config.sample_rate,
        "steps": config.steps,
        "clip": config.clip,
        "most_conversations": config.most,
        "most_packets": config.most_packets,
        "rank": config.rank,
    }


def networks_from(parent: Model, codec: Codec) -> nn.ModuleDict:
    """The parent's networks, ready for a private chunk's codec: services that it did not have start from the mean.

    Made-up hosts start as those that they are like.
    """
    networks = new_networks()
    halves = {"attributes": parent.attributes, "packets": parent.packets, "critic": parent.critic}
    networks.load_state_dict(nn.ModuleDict(halves).state_dict())
    inherit(networks, parent.codec, codec)
    _like_the_seeds(networks, parent.codec)
    reset_corrections(nn.ModuleDict({"attributes": networks["attributes"]}))
    return networks.eval()


@torch.no_grad()
def _like_the_seeds(networks: nn.ModuleDict, seed: Codec) -> None:
    """Made-up hosts start as the seed's hosts that they are like."""
    like = made_up_hosts(seed).like
    fresh = np.flatnonzero((like >= 0) & (like != np.arange(len(like))))
    for rows in rows_of("host", networks.state_dict()):
        rows[fresh] = rows[like[fresh]]


@torch.no_grad()
def _expect(networks: nn.ModuleDict, seed: Codec, codec: Codec) -> None:
    """Correct what the seed says to what follows from noisy counts: how far starts are apart, and which hosts speak."""
    corrections: Any = networks["attributes"].correction
    had, has = seed.start_gap.counts + 1.0, codec.start_gap.counts + 1.0
    ratio = np.log(has / has.sum()) - np.log(had / had.sum())
    corrections[ATTRIBUTE_INDEX["start_gap"]] += torch.from_numpy(ratio.astype(np.float32)).clamp(-3.0, 3.0)
    asked = np.concatenate([codec.urns.servers, codec.urns.peers])
    for name, pairs in (("initiator_host", codec.urns.hosts), ("responder_host", asked)):
        corrections[ATTRIBUTE_INDEX[name]] += torch.from_numpy(only_these(counts_of(pairs, ATTRIBUTES[name])))


def _version() -> str:
    return torch.__version__.split("+")[0]
