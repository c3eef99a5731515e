"""What of a chunk may be learned where a unit is let into so many jobs: a chunk of the units alone that are let in.

Whose a packet is, is settled within the chunk, and by its own conversation alone (`trace.grouping`): for flows, whose
five-tuple it has (later fragments, which have no ports, are a flow of their own), for hosts, who began that there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.chunk import Chunk
from nsstream.counters import Tally
from nsstream.pipeline.privacy_budget import Unit
from nsstream.pipeline.training_queue import Job
from nsstream.pipeline.unit_uses import UnitUses
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations
from nsstream.trace.identify import hashes_of, identify
from nsstream.trace.keyed_hash import KEY_WORDS

_HOST: Final = 1 << 62  # in a word of a host's key, where no five-tuple's has a bit


def let_in(chunk: Chunk, job: Job, unit: Unit, uses: UnitUses) -> Chunk | None:
    """The packets of a job's chunk that may be learned, as a chunk of the same interval; None where none may.

    Raises StateError where it holds no packets, OutputError where the ledger refuses.
    """
    packets = chunk.packets
    conversation, units = units_of(packets, unit, uses.key())
    is_in = uses.admit(job, units)[conversation]
    if not is_in.any():
        return None
    kept = packets.take(is_in)
    tally = Tally(offered=len(kept), kept=len(kept))
    return Chunk.of(
        chunk.start_ns,
        chunk.end_ns,
        kept,
        tally,
        is_partial=chunk.is_partial,
        sampling_interval=chunk.sampling_interval,
    )


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
