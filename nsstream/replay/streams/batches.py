"""Batches: a chunk's conversations in parts that start one after another, so that few frames are in memory at once."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.replay.streams.line import starts_of
from nsstream.trace import ConversationTable

BATCH_PACKETS: Final = 1 << 17


def split(table: ConversationTable, end_ns: int, most: int = BATCH_PACKETS) -> list[tuple[int, ConversationTable]]:
    """Split a chunk's conversations by start: pairs of a time, and the conversations up to there.

    Promises: no conversation of a later batch starts before the time of an earlier one; a batch has at most `most`
    packets and one conversation, unless more share their five-tuples, which stay together, since the assembler must see
    all that use a stream at once. The last time is `end_ns`.
    """
    if len(table.observation_time_ns) <= most:
        return [(end_ns, table)]
    starts = starts_of(table)
    order = np.argsort(starts, kind="stable")
    counts = table.packet_count[order]
    batch = np.empty(len(table), np.int64)
    batch[order] = (np.cumsum(counts) - counts) // most
    _, batch = np.unique(batch, return_inverse=True)  # without the numbers that an elephant took
    until = [int(starts[batch == k].min()) for k in range(1, int(batch.max()) + 1)] + [end_ns]
    of_stream = _streams(table)
    earliest = np.full(int(of_stream.max()) + 1, batch.max())
    np.minimum.at(earliest, of_stream, batch)
    batch = earliest[of_stream]
    return [(time_ns, table.take(np.flatnonzero(batch == k))) for k, time_ns in enumerate(until)]


def _streams(table: ConversationTable) -> NDArray[np.int64]:
    """A number for each five-tuple, direction folded: (n,)."""
    ends = []
    for address, port in (
        (table.initiator_address, table.initiator_port),
        (table.responder_address, table.responder_port),
    ):
        ends.append(np.concatenate([address, port.astype(">u2")[:, None].view(np.uint8).reshape(-1, 2)], axis=1))
    low, high = ends
    first = (low != high).argmax(axis=1)[:, None]
    swapped = np.take_along_axis(low, first, 1) > np.take_along_axis(high, first, 1)
    low, high = np.where(swapped, high, low), np.where(swapped, low, high)
    key = np.ascontiguousarray(np.concatenate([low, high, table.protocol_identifier[:, None]], axis=1))
    number: NDArray[np.int64] = np.unique(key.view(f"V{key.shape[1]}")[:, 0], return_inverse=True)[1]
    return number.reshape(-1)
