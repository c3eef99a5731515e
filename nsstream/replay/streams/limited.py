"""LimitedStream: a stream that ends where its scenario says, whatever the stream would do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nsstream.replay.flow_rows import FlowBlock
from nsstream.replay.scenario import Limits
from nsstream.replay.stream import Block, OpenedStream
from nsstream.replay.streams.wrapped import WrappedStream


class LimitedStream(WrappedStream):
    """Gives the frames of a stream, or its flow records, up to limits.

    Packets (of flows, records) and octets are counted over the whole stream, `twin_s` from the first, or from the first
    after a seek.
    """

    def __init__(self, stream: OpenedStream, limits: Limits) -> None:
        super().__init__(stream)
        self._packets_left = limits.packets
        self._octets_left = limits.octets
        self._twin_ns = None if limits.twin_s is None else int(limits.twin_s * 1e9)
        self._first_ns: int | None = None
        self._seek_count = 0
        self._has_ended = False

    def read(self) -> Block | None:
        """The next block, cut where a limit is reached."""
        if self._has_ended:
            return None
        block = self._stream.read()
        if block is None:
            return None
        count = self._within(block)
        if count < len(block.rows):
            self._has_ended = True
            if count == 0:
                return None
            if isinstance(block, FlowBlock):
                block = replace(block, rows=block.rows.slice(0, count))
            else:
                is_attack = None if block.is_attack is None else block.is_attack[:count]
                block = replace(block, frames=block.frames.slice(0, count), is_attack=is_attack)
        if self._packets_left is not None:
            self._packets_left -= count
        if self._octets_left is not None:
            self._octets_left -= int(block.rows.offset[-1])
        return block

    def seek(self, twin_time_ns: int) -> None:
        """As the stream does; one that has ended goes on, as far as packets and octets are left."""
        self._stream.seek(twin_time_ns)
        self._has_ended = False

    def _within(self, block: Block) -> int:
        """How many of the frames are within the limits."""
        times, offset = block.rows.observation_time_ns, block.rows.offset
        if self._first_ns is None or block.seek_count != self._seek_count:
            self._first_ns, self._seek_count = int(times[0]), block.seek_count
        count = len(times)
        if self._packets_left is not None:
            count = min(count, self._packets_left)
        if self._octets_left is not None:
            count = min(count, int(np.searchsorted(offset, self._octets_left, side="right")) - 1)
        if self._twin_ns is not None:
            count = min(count, int(np.searchsorted(times, self._first_ns + self._twin_ns, side="right")))
        return count
