"""What bounding alone leaves of a trace: at most so many conversations of each host, chosen as a private fit does.

No noise is added. How far this is from the whole trace is what a promise to hosts costs before it has begun: a host
that starts half of all conversations cannot be in a private twin as it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.trace import ConversationTable, FlowTable, PacketBatch
from nsstream.train.private_chance import Chance
from nsstream.train.private_units import units_by, units_of


def bounded_packets(packets: PacketBatch, table: ConversationTable, most: int) -> PacketBatch:
    """The packets of at most so many conversations of each host; `table` are all conversations of these packets."""
    kept = table.take(units_of(table, "host", most, Chance()).rows)
    ends = (kept.initiator_address, kept.initiator_port), (kept.responder_address, kept.responder_port)
    rest = kept.protocol_identifier, kept.is_fragment
    ways = [_keys(*one, *other, *rest) for one, other in (ends, ends[::-1])]
    seen = _keys(
        packets.source_address, packets.source_transport_port, packets.destination_address,
        packets.destination_transport_port, packets.protocol_identifier, packets.fragment_offset > 0,
    )  # fmt: skip
    return packets.take(np.flatnonzero(np.isin(seen, np.concatenate(ways))))


def bounded_flows(table: FlowTable, most: int) -> FlowTable:
    """The records of at most so many conversations of each client."""
    flows = group_by_client(table)
    kept = np.zeros(len(flows), bool)
    kept[units_by(unit_keys(flows, "host"), most, Chance()).rows] = True
    return flows.records.take(np.flatnonzero(np.repeat(kept, np.diff(flows.offset))))


def _keys(*columns: NDArray[np.generic]) -> NDArray[np.void]:
    """Rows of columns (n,) or (n, octets) as one item each: (n,)."""
    told = [c if c.ndim == 2 else c.astype(np.int64)[:, None].view(np.uint8) for c in columns]
    rows = np.ascontiguousarray(np.concatenate(told, axis=1))
    return rows.view(f"V{rows.shape[1]}").ravel()
