"""Frames back to packet columns, by the same dissector that reads captures."""

from __future__ import annotations

import numpy as np

from nsstream.assemble import Frames
from nsstream.trace import PacketBatch
from nsstream.wire.dissect import dissect
from nsstream.wire.link import ETHERNET
from nsstream.wire.records import RecordIndex


def packets_of(frames: Frames) -> PacketBatch:
    """The packets in these frames, in their order; frames that hold no IP packet give none."""
    lengths = np.diff(frames.offset)
    link_type = np.full(len(frames), ETHERNET, np.int64)
    index = RecordIndex(frames.observation_time_ns, frames.offset[:-1], lengths, lengths, link_type)
    return PacketBatch.from_columns(dissect(frames.octets, index, len(frames))[0])
