"""Checkpoints of flow models: written and read as those of packets are, told apart by their schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import allowed_attributes, allowed_fields
from nsstream.encode.flow_features import attribute_features, field_features
from nsstream.encode.flow_schema import ATTRIBUTES, FIELDS, FLOW_SCHEMA_ID
from nsstream.model.checkpoint import read_checkpoint, reading_checkpoint, write_checkpoint
from nsstream.model.flow_networks import ConversationNetwork, RecordNetwork


@dataclass(frozen=True)
class FlowModel:
    """What a checkpoint of flows holds."""

    conversations: ConversationNetwork
    records: RecordNetwork
    codec: FlowCodec
    manifest: dict[str, Any]


def new_flow_networks() -> nn.ModuleDict:
    """Fresh networks, initialised from torch's global generator (seed it first)."""
    return nn.ModuleDict({"conversations": ConversationNetwork(), "records": RecordNetwork()})


def show_chunk(networks: nn.ModuleDict, codec: FlowCodec) -> None:
    """Let the networks say what the codec's chunk shows, and nothing else."""
    conversations, records = networks["conversations"], networks["records"]
    for network, sizes, masks, features in (
        (cast(ConversationNetwork, conversations), ATTRIBUTES, allowed_attributes(codec), attribute_features(codec)),
        (cast(RecordNetwork, records), FIELDS, allowed_fields(codec), field_features(codec)),
    ):
        network.heads.show(
            [torch.from_numpy(masks[name]) for name in sizes],
            [torch.from_numpy(features[name]) if name in features else None for name in sizes],
        )


def save_flow_checkpoint(models: Path, networks: nn.ModuleDict, codec: FlowCodec, facts: dict[str, Any]) -> Path:
    """Write a checkpoint under `models` and give its directory; raises OutputError."""
    told = {
        "schema": FLOW_SCHEMA_ID,
        "start_ns": codec.start_ns,
        "end_ns": codec.end_ns,
        "conversations": codec.conversation_count,
        "records": codec.record_count,
    }
    return write_checkpoint(models, networks.state_dict(), codec.as_json(), told, facts)


def load_flow_checkpoint(directory: Path) -> FlowModel:
    """Read a checkpoint; raises StateError if it is not one, or of another format or schema."""
    with reading_checkpoint(directory):
        manifest, meaning, weights = read_checkpoint(directory, FLOW_SCHEMA_ID)
        codec = FlowCodec.from_json(meaning)
        networks = new_flow_networks()
        networks.load_state_dict(weights)
        networks.eval()
        show_chunk(networks, codec)
    return FlowModel(
        cast(ConversationNetwork, networks["conversations"]), cast(RecordNetwork, networks["records"]), codec, manifest
    )
