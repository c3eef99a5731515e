"""Evaluate, where the chunk holds flows: as `evaluate` does with packets."""

from __future__ import annotations

from typing import Any, Final, cast

import numpy as np
import torch
from torch import nn

from nsstream.chunk import ChunkStore
from nsstream.encode.address_map import AddressMap
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import FlowTokens, encode_flows
from nsstream.errors import TrainError
from nsstream.model.flow_checkpoint import FlowModel, load_flow_checkpoint, new_flow_networks, show_chunk
from nsstream.model.flow_networks import ConversationNetwork, RecordNetwork
from nsstream.train.calibrate import reset_corrections
from nsstream.train.evaluate import MOST_RUNS, MOST_WINDOWS, EvaluateJob, HeldOut, figures_of
from nsstream.train.flow_batches import cut_record_windows, record_batch
from nsstream.train.flow_fit import HELD_OUT_EVERY, LEAST_CONVERSATIONS, held_out
from nsstream.train.flow_job import map_identities

RUN: Final = 64


def evaluate_flows(job: EvaluateJob) -> dict[str, Any]:
    """The figures of a checkpoint of flows; raises as `evaluate` does."""
    torch.set_num_threads(job.threads)
    chunk = ChunkStore(job.chunk.parent).read(job.chunk)
    settings = job.address_map
    addresses = AddressMap(bytes.fromhex(settings.key_hex), settings.ipv4_range, settings.ipv6_range)
    flows = group_flows(map_identities(chunk.flows, addresses))
    if len(flows) < LEAST_CONVERSATIONS:
        raise TrainError(f"chunk {chunk.id} has {len(flows)} conversations, too few to judge by")
    candidate = load_flow_checkpoint(job.candidate)
    tokens = encode_flows(flows, candidate.codec)
    mine = _held_out(candidate, candidate.codec, tokens, job.seed)
    if job.parent is None:
        return figures_of(mine, None, None, "record")
    parent = load_flow_checkpoint(job.parent)
    return figures_of(mine, _held_out(parent, candidate.codec, tokens, job.seed), parent.manifest, "record")


@torch.no_grad()
def _held_out(model: FlowModel, codec: FlowCodec, tokens: FlowTokens, seed: int) -> HeldOut:
    networks = new_flow_networks()
    networks.load_state_dict(
        nn.ModuleDict({"conversations": model.conversations, "records": model.records}).state_dict()
    )
    show_chunk(networks, codec)
    reset_corrections(networks)
    networks.eval()
    held = held_out(len(tokens), np.random.default_rng(seed))
    is_held = torch.zeros(len(tokens), dtype=torch.bool)
    is_held[torch.from_numpy(held)] = True
    run = min(RUN, len(tokens) // HELD_OUT_EVERY)
    starts = np.linspace(0, len(tokens) - run, min(len(tokens) // run, MOST_RUNS)).astype(np.int64)
    at = torch.from_numpy(starts)[:, None] + torch.arange(run)
    attributes, features = torch.from_numpy(tokens.attributes), torch.from_numpy(tokens.start_features)
    conversations = cast(ConversationNetwork, networks["conversations"])
    nll = conversations.loss(attributes[at], features[at])
    judged = is_held[at]
    windows = cut_record_windows(tokens, held)
    windows = windows[np.linspace(0, len(windows) - 1, min(len(windows), MOST_WINDOWS)).astype(np.int64)]
    total, count = 0.0, 0
    for some in np.array_split(windows, max(1, len(windows) // 256)):
        losses = cast(RecordNetwork, networks["records"]).loss(*record_batch(tokens, some))
        total, count = total + float(losses.sum()), count + len(losses)
    pieces = float(np.diff(tokens.offset)[held].mean())
    return HeldOut(float(nll[judged].sum()) / max(int(judged.sum()), 1), total / max(count, 1), pieces)
