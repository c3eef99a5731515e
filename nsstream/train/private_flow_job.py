"""A private job on flow records: a public seed's checkpoint and a private chunk in, one that keeps a promise out.

    grouping -> units; address map -> counts, noised once -> DP-SGD on the heads -> corrections by counts -> checkpoint

As `private_job` does with packets, and with the same two mechanisms: noisy counts and noisy gradients. What is drawn of
the checkpoint follows from the seed, the interval and these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsstream.chunk import ChunkStore
from nsstream.encode.address_map import AddressMap
from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import FlowConversations, with_addresses
from nsstream.encode.flow_encoding import FlowTokens
from nsstream.encode.flow_schema import MOMENTS
from nsstream.encode.public_flow_codec import SERVERS, encode_flows_privately, public_flow_codec
from nsstream.errors import TrainError
from nsstream.model.flow_checkpoint import FlowModel, load_flow_checkpoint, save_flow_checkpoint
from nsstream.privacy import as_dicts, noisy_counts
from nsstream.privacy.promise import before_of
from nsstream.train.config import PrivateConfig, Progress
from nsstream.train.device import Seat
from nsstream.train.job import TrainJob
from nsstream.train.private_chance import Chance
from nsstream.train.private_fit import learn_privately
from nsstream.train.private_flow_calibrate import calibrate_privately
from nsstream.train.private_flow_counts import Noisy, count_flows, sensitivity
from nsstream.train.private_flow_heads import flow_lessons_of, private_flow_heads
from nsstream.train.private_flow_networks import networks_of
from nsstream.train.private_flow_ports import find_ports
from nsstream.train.private_flow_told import FlowCounts, read_counts
from nsstream.train.private_job import promise_by
from nsstream.train.private_plan import mechanisms_of
from nsstream.train.private_settle import settle
from nsstream.train.private_units import units_by

AT_ONCE: Final = 256  # conversations whose units' gradients are held at a time,
FEWEST_AT_ONCE: Final = 32  # of so many units at least
FASTEST: Final = 4.0  # clips that a step moves at most; noise bounds it too


def train_flows_privately(job: TrainJob, report: Callable[[Progress], None], seat: Seat) -> dict[str, object]:
    """Train the job's checkpoint; raises as `worker.run` does. What is said of the chunk is noisy."""
    assert job.private is not None
    assert job.parent is not None
    chunk = ChunkStore(job.chunk.parent).read(job.chunk)
    if not len(chunk.flows):
        raise TrainError(f"chunk {chunk.id} holds no flows")
    torch.set_num_threads(1)
    settings = job.address_map
    addresses = AddressMap(bytes.fromhex(settings.key_hex), settings.ipv4_range, settings.ipv6_range)
    parent = load_flow_checkpoint(job.parent)
    flows = group_by_client(chunk.flows)
    config = PrivateConfig(**job.private.model_dump())
    made = fit_flows_privately(
        parent, flows, (chunk.start_ns, chunk.end_ns), config, Chance(), report, mapped=addresses.map
    )
    facts = {
        "chunk": chunk.id,
        "seed": None,
        "parent": parent.manifest["id"],
        "torch": torch.__version__.split("+")[0],
        **seat.facts(),
        "privacy": made.privacy | {"before": as_dicts(before_of(parent.manifest))},
    }
    saved = save_flow_checkpoint(job.out, made.networks, made.codec, facts)
    counts = {"conversations": made.codec.conversation_count, "records": made.codec.record_count}
    return {"checkpoint": str(saved), **counts}


@dataclasses.dataclass(frozen=True)
class PrivateFlowModel:
    """What a private fit gives; `privacy` is for the manifest."""

    networks: nn.ModuleDict
    codec: FlowCodec
    privacy: dict[str, Any]


def fit_flows_privately(
    parent: FlowModel,
    flows: FlowConversations,
    interval_ns: tuple[int, int],
    config: PrivateConfig,
    chance: Chance,
    report: Callable[[Progress], None],
    noisy: Noisy = noisy_counts,
    *,
    mapped: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda addresses: addresses,
    **of_learning: Any,
) -> PrivateFlowModel:
    """Learn a chunk's conversations (as of `group_by_client`, addresses as they were) privately, from a public model.

    `mapped` is the map of addresses. `noisy` and what else is handed to `learn_privately` are for tests.
    """
    counting, learning = mechanisms_of(config)
    privacy = promise_by(config, (counting, learning))
    public = public_flow_codec(parent.codec, *interval_ns, mapped)
    keys = unit_keys(flows, config.unit)
    units = units_by(keys, config.most, chance)
    everything = with_addresses(flows, mapped(flows.client_address), mapped(flows.server_address))
    tokens = take_tokens(encode_flows_privately(everything, public, config.unit, flows), units.rows)
    of_each = np.unique(keys, axis=0, return_counts=True)[1]
    kept = everything.take(units.rows)
    vector = count_flows(kept, tokens, units, of_each, public, config.unit, config.most)
    noisy_vector = noisy(vector, counting.noise_multiplier, sensitivity(config.unit, config.most))
    counts = read_counts(noisy_vector, counting.noise_multiplier, config.unit, config.most)
    codec, counts = find_ports(public, counts)
    tokens = take_tokens(encode_flows_privately(everything, codec, config.unit, flows), units.rows)
    networks = networks_of(parent, codec)
    heads = private_flow_heads(networks, config.rank)
    lessons = flow_lessons_of(networks, heads, tokens, units, codec, config.most_packets, chance)
    coins = np.zeros((config.steps, len(units)), bool)
    for u, key in enumerate(units.keys):
        coins[:, u] = chance.coins(key, config.sample_rate, config.steps)
    learn_privately(
        heads, lessons, coins, learning.noise_multiplier, config.clip, config.drift, config.sample_rate * counts.units,
        chance, lambda step: report(Progress("private", step, config.steps, None, 0.0, None)),
        at_once=max(AT_ONCE // config.most, FEWEST_AT_ONCE), fastest=FASTEST, **of_learning,
    )  # fmt: skip
    told = codec_of(codec, parent.codec, counts)
    rng, generator = np.random.default_rng(), torch.Generator()
    generator.seed()
    calibrate_privately(networks, told, parent.codec, counts, rng, generator)
    return PrivateFlowModel(networks.eval(), told, privacy)


def codec_of(codec: FlowCodec, seed: FlowCodec, counts: FlowCounts) -> FlowCodec:
    """The public codec with how many conversations start when, and how long they are, by the noisy counts."""
    kept = max(float(counts.blocks["conversations"][0]), 1.0)
    moments = settle(counts.blocks["moments"], np.ones(MOMENTS), counts.std, kept)
    ends = np.rint(np.cumsum(moments) * (counts.total / moments.sum())).astype(np.int64)
    cells = np.diff(ends, prepend=0)
    had = seed.records.counts.astype(np.float64)
    lengths = settle(counts.blocks["record_count"], had, counts.std, kept)
    lengths = np.rint(lengths * (counts.total / lengths.sum()))
    lengths[0 if not lengths.any() else int(lengths.argmax())] += counts.total - lengths.sum()
    hosts, again = list(codec.host.slots), np.array([1 - seed.share_again, seed.share_again])
    seconds = settle(counts.blocks["second"], again, counts.std, max(float(counts.blocks["second"].sum()), 1.0))
    for bucket in np.flatnonzero((counts.clients > 0) & (counts.servers > 0)):  # one host in both roles, most likely
        hosts[SERVERS + bucket] = hosts[bucket]
    records = dataclasses.replace(codec.records, counts=np.maximum(lengths, 0).astype(np.int64))
    return dataclasses.replace(
        codec,
        cells=cells,
        conversation_count=int(cells.sum()),
        record_count=max(int(records.sample(int(cells.sum())).sum()), int(cells.sum())),
        records=records,
        host=dataclasses.replace(codec.host, slots=tuple(hosts)),
        share_again=float(seconds[1] / seconds.sum()),
        labels=codec.labels // MOMENTS * int(cells.sum()),
    )


def take_tokens(tokens: FlowTokens, rows: NDArray[np.int64]) -> FlowTokens:
    """The tokens of some conversations (k,), in that order."""
    count = np.diff(tokens.offset)[rows]
    offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    at = np.repeat(tokens.offset[rows] - offset[:-1], count) + np.arange(int(offset[-1]))
    return FlowTokens(
        tokens.attributes[rows], tokens.start_features[rows], offset, tokens.fields[at], tokens.running[at]
    )
