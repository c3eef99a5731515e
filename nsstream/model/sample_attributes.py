"""Attributes of new conversations, and when they start; the work is `attribute_loop`'s.

The volume of the chunk is given: the codec's profile says how many conversations start in each slice. Runs of slices
are drawn side by side; within a run, conversation follows conversation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec, slice_starts
from nsstream.encode.schema import ATTRIBUTES
from nsstream.model.attribute_loop import begin_runs, run
from nsstream.model.attribute_rules import attribute_rules
from nsstream.model.attribute_urns import attribute_urns
from nsstream.model.frozen_attributes import freeze_attributes
from nsstream.model.networks import AttributeNetwork
from nsstream.model.one_thread import one_blas_thread

RUN_CONVERSATIONS: Final = 256  # a run takes slices until it has as many


def draw_attributes(
    network: AttributeNetwork, codec: Codec, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw one chunk's conversations: attributes (n, a) and start times (n,) in nanoseconds, in order of start."""
    pieces = _pieces(codec)  # times since the chunk's first packet, which a float holds to the nanosecond
    parts = _runs(pieces[:, 2])
    frozen = freeze_attributes(network, codec)
    generators = rng.integers(0, 1 << 64, len(parts), dtype=np.uint64)
    runs = begin_runs(frozen, pieces, parts, generators, attribute_urns(codec, frozen))
    n = int(pieces[:, 2].sum())
    attributes, starts = np.zeros((n, len(ATTRIBUTES)), np.int64), np.zeros(n, np.float64)
    with one_blas_thread():
        run(frozen, attribute_rules(codec, frozen), runs, attributes, starts)
    start_ns = codec.first_ns + starts.astype(np.int64)
    start_ns[0] = codec.first_ns  # the chunk's first packet is somebody's first
    return attributes, start_ns


def _pieces(codec: Codec) -> NDArray[np.int64]:
    """Slices that hold something, the full ones cut evenly: rows of begin, end, conversations, slice."""
    edges = slice_starts(codec.first_ns, codec.last_ns) - codec.first_ns
    out = []
    for where, (begin, end, count) in enumerate(zip(edges[:-1], edges[1:], codec.profile, strict=True)):
        parts = min(-(-int(count) // (2 * RUN_CONVERSATIONS)), max(1, int(end - begin)))
        for i in range(parts):
            share = int(count) * (i + 1) // parts - int(count) * i // parts
            if share:
                out.append((begin + (end - begin) * i // parts, begin + (end - begin) * (i + 1) // parts, share, where))
    return np.array(out, np.int64).reshape(-1, 4)


def _runs(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of pieces with at least `RUN_CONVERSATIONS` each: first, last + 1, conversations in those before."""
    rows, begin, total, before = [], 0, 0, 0
    for i, count in enumerate(counts):
        total += int(count)
        if total >= RUN_CONVERSATIONS or i == len(counts) - 1:
            rows.append((begin, i + 1, before))
            begin, total, before = i + 1, 0, before + total
    return np.array(rows, np.int64).reshape(-1, 3)
