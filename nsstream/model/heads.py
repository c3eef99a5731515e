"""Heads: the first packets of conversations, measured or drawn, as the one kind of batch that the critic reads."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.tokens import ChunkTokens, countdown_token, position_token, time_left_token
from nsstream.model.critic import READS
from nsstream.model.layout import LAYOUT
from nsstream.model.networks import PacketTokens, no_packet
from nsstream.model.sample_packets import DrawnPackets


def heads_of(tokens: ChunkTokens, rows: NDArray[np.int64]) -> PacketTokens:
    """The first `READS` packets of measured conversations, as the critic reads them."""
    begin = tokens.packet_offset[rows]
    length = np.minimum(tokens.packet_offset[rows + 1] - begin, READS)
    at = begin[:, None] + np.arange(int(length.max()))
    inside = np.arange(at.shape[1]) < length[:, None]
    at = np.where(inside, at, 0)
    running = np.stack([tokens.countdown[at], tokens.position[at], tokens.time_left[at]], axis=-1)
    said = np.where(inside[..., None], np.stack([tokens.kind[at], tokens.size[at], tokens.gap[at]], axis=-1), 0)
    return _batch(tokens.attributes[rows], said, running, inside, tokens.needs_size[at] & inside)


def heads_drawn(
    drawn: DrawnPackets, attributes: NDArray[np.int64], counts: NDArray[np.int64], codec: Codec
) -> PacketTokens:
    """The first `READS` packets of drawn conversations of `counts` (n,) packets, as the critic reads them."""
    begin = drawn.packet_offset[:-1]
    length = np.minimum(np.diff(drawn.packet_offset), READS)
    index = np.arange(int(length.max()))
    inside = index < length[:, None]
    at = np.where(inside, begin[:, None] + index, 0)
    previous = np.where(inside, np.maximum(begin[:, None] + index - 1, begin[:, None]), 0)
    left = np.maximum(counts[:, None] - index, 1)
    running = np.stack(
        [
            countdown_token(left),
            np.broadcast_to(position_token(index), left.shape),
            time_left_token(codec.last_ns + 1 - drawn.time_ns[previous]),
        ],
        axis=-1,
    )
    needs_size = (codec.kind.table()[:, 5] > 0)[drawn.kind[at]] & inside
    said = np.where(inside[..., None], np.stack([drawn.kind[at], drawn.size[at], drawn.gap[at]], axis=-1), 0)
    return _batch(attributes, said, running, inside, needs_size)


def _batch(
    attributes: NDArray[np.int64],
    said: NDArray[np.int64],
    running: NDArray[np.int64],
    inside: NDArray[np.bool_],
    needs_size: NDArray[np.bool_],
) -> PacketTokens:
    return PacketTokens(
        attributes=torch.from_numpy(attributes),
        kind=torch.from_numpy(said[..., 0]),
        size=torch.from_numpy(said[..., 1]),
        gap=torch.from_numpy(said[..., 2]),
        before=torch.tensor(no_packet(LAYOUT)).expand(len(said), 3),
        running=torch.from_numpy(running),
        counts=torch.from_numpy(inside),
        needs_size=torch.from_numpy(needs_size),
        needs_gap=torch.from_numpy(inside & (np.arange(inside.shape[1]) > 0)),
    )
