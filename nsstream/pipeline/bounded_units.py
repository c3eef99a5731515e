"""What of a chunk may be learned where a unit is let into so many jobs: a chunk of the units alone that are let in.

Whose a packet is, is settled within the chunk, and by its own conversation alone (`trace.grouping`): for flows, whose
five-tuple it has (later fragments, which have no ports, are a flow of their own), for hosts, who began that there. A
flow record goes with its conversation's client (`encode.flow_clients`), which is told alike.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk import Chunk, Kind
from nsstream.counters import Tally
from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.encode.flow_conversations import FlowConversations
from nsstream.pipeline.privacy_budget import Unit
from nsstream.pipeline.training_queue import Job
from nsstream.pipeline.unit_uses import UnitUses
from nsstream.trace import FlowTable, PacketBatch
from nsstream.trace.grouping import group_conversations
from nsstream.trace.identify import hashes_of, identify
from nsstream.trace.keyed_hash import KEY_WORDS

_HOST: Final = 1 << 62  # in a word of a host's key, where no five-tuple's has a bit


def let_in(chunk: Chunk, job: Job, unit: Unit, uses: UnitUses) -> Chunk | None:
    """The rows of a job's chunk that may be learned, as a chunk of the same interval; None where none may.

    Raises OutputError where the ledger refuses.
    """
    kept = (
        _flows_let_in(chunk, job, unit, uses) if chunk.kind is Kind.FLOWS else _packets_let_in(chunk, job, unit, uses)
    )
    if not len(kept):
        return None
    tally = Tally(offered=len(kept), kept=len(kept))
    return Chunk.of(
        chunk.start_ns,
        chunk.end_ns,
        kept,
        tally,
        is_partial=chunk.is_partial,
        sampling_interval=chunk.sampling_interval,
    )


def _packets_let_in(chunk: Chunk, job: Job, unit: Unit, uses: UnitUses) -> PacketBatch:
    conversation, units = units_of(chunk.packets, unit, uses.key())
    return chunk.packets.take(uses.admit(job, units)[conversation])


def _flows_let_in(chunk: Chunk, job: Job, unit: Unit, uses: UnitUses) -> FlowTable:
    flows = group_by_client(chunk.flows)
    is_in = uses.admit(job, flow_units_of(flows, unit, uses.key()))
    records = flows.take(np.flatnonzero(is_in)).records
    return records.take(np.argsort(records.flow_end_ns, kind="stable"))


def flow_units_of(flows: FlowConversations, unit: Unit, key: tuple[np.uint64, np.uint64]) -> NDArray[np.uint64]:
    """The hash of each conversation's unit (n,)."""
    told = unit_keys(flows, unit)
    octets = np.zeros((len(flows), 8 * KEY_WORDS), np.uint8)
    octets[:, : told.shape[1]] = told
    keys = octets.view(np.int64)
    if unit == "host":
        keys[:, 4] = _HOST
    return hashes_of(keys, *key)


def units_of(
    packets: PacketBatch, unit: Unit, key: tuple[np.uint64, np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """For each packet (n,), in time order, the number of its conversation; and of each conversation its unit's hash."""
    conversation, _, _, keys = identify(
        np.arange(len(packets)),
        np.ascontiguousarray(packets.source_address).view(np.int64),
        np.ascontiguousarray(packets.destination_address).view(np.int64),
        packets.source_transport_port, packets.destination_transport_port,
        packets.protocol_identifier, packets.fragment_offset, *key,
    )  # fmt: skip
    if unit == "host":
        table, _ = group_conversations(packets)  # numbered alike, by their first packets
        keys = np.zeros((len(table), KEY_WORDS), np.int64)
        keys[:, :2] = np.ascontiguousarray(table.initiator_address).view(np.int64)
        keys[:, 2], keys[:, 4] = table.ip_version, _HOST
    return conversation, hashes_of(keys, *key)
