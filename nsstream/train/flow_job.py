"""A worker's job where the chunk holds flows: `train_flows`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nsstream.chunk import ChunkStore
from nsstream.clock import SystemClock
from nsstream.encode.address_map import AddressMap
from nsstream.encode.as_map import map_systems
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import count_loads, count_urns, encode_flows, share_again
from nsstream.errors import TrainError
from nsstream.model.flow_checkpoint import (
    FlowModel,
    load_flow_checkpoint,
    new_flow_networks,
    save_flow_checkpoint,
)
from nsstream.trace.flows import FlowTable
from nsstream.train.config import FitConfig, Progress
from nsstream.train.device import Seat
from nsstream.train.flow_fit import FlowFit
from nsstream.train.job import TrainJob


def train_flows(job: TrainJob, report: Callable[[Progress], None], seat: Seat) -> dict[str, object]:
    """Train the job's checkpoint on a chunk of flows; raises as `worker.run` does."""
    chunk = ChunkStore(job.chunk.parent).read(job.chunk)
    if not len(chunk.flows):
        raise TrainError(f"chunk {chunk.id} holds no flows")
    settings = job.address_map
    addresses = AddressMap(bytes.fromhex(settings.key_hex), settings.ipv4_range, settings.ipv6_range)
    flows = group_flows(map_identities(chunk.flows, addresses))
    networks = new_flow_networks()
    parent = load_flow_checkpoint(job.parent) if job.parent else None
    codec = FlowCodec.fit(flows, chunk.start_ns, chunk.end_ns, parent.codec if parent else None)
    if parent:
        networks.load_state_dict(_weights(parent))
    tokens = encode_flows(flows, codec)
    codec = dataclasses.replace(
        codec,
        urns=count_urns(tokens, flows, codec),
        share_again=share_again(flows, codec),
        loads=count_loads(tokens, codec),
    )
    config = FitConfig(steps=job.steps, budget_s=job.budget_s, learning_rate=1e-3 if parent else 3e-3)
    fit = FlowFit(
        networks, tokens, flows.records.flow_start_ns, codec, config, job.seed, SystemClock(), report, seat.device
    )
    fit.run()
    facts = {
        "chunk": chunk.id,
        "parent": parent.manifest["id"] if parent else None,
        "seed": job.seed,
        "fit": {k: v for k, v in dataclasses.asdict(config).items() if k != "budget_s"},
        "torch": torch.__version__.split("+")[0],
        **seat.facts(),
        **fit.facts(),
    }
    saved = save_flow_checkpoint(job.out, networks, codec, facts)
    return {"checkpoint": str(saved), "conversations": len(flows), "records": codec.record_count}


def map_identities(table: FlowTable, addresses: AddressMap) -> FlowTable:
    """The same flows between other hosts of other autonomous systems, told by another exporter."""
    names = ("source_address", "destination_address", "ip_next_hop_address", "exporter_address")
    mapped: dict[str, Any] = {name: addresses.map(getattr(table, name)) for name in names}
    for name in ("bgp_source_as_number", "bgp_destination_as_number"):
        mapped[name] = map_systems(getattr(table, name), addresses.key)
    return dataclasses.replace(table, **mapped)


def _weights(parent: FlowModel) -> dict[str, Any]:
    modules = nn.ModuleDict({"conversations": parent.conversations, "records": parent.records})
    return modules.state_dict()
