"""FlowDrawer: checkpoint after checkpoint to flow tables, all records of a chunk or those of some kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_decoding import decode_records, decode_starts
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, LABELS
from nsstream.errors import InputError
from nsstream.model.flow_checkpoint import load_flow_checkpoint
from nsstream.model.flow_sample import Wanted, draw_conversations, draw_records, full_urns
from nsstream.trace.flows import FlowTable


@dataclass(frozen=True, slots=True)
class Condition:
    """Which flows to draw; None: any.

    Attributes:
        label: of this label alone; the empty text is none.
        protocol: of this protocol.
        port: of the service at this port.
        scale: how many times the conversations that the chunk had of that kind.
    """

    label: str | None = None
    protocol: int | None = None
    port: int | None = None
    scale: float = 1.0


class FlowDrawer:
    """Draws chunks in order.

    Args:
        seed: of all chance in the drawing.
        threads: CPU threads of torch.
    """

    def __init__(self, seed: int, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, checkpoint: Path, condition: Condition | None = None) -> FlowTable:
        """Draw the flows of the chunk that a checkpoint was trained on, in order of start.

        Raises StateError if it cannot be loaded, InputError if the chunk had nothing of the kind that is asked for.
        """
        model = load_flow_checkpoint(checkpoint)
        codec, rng = model.codec, self._rng
        wanted = wanted_rows(codec, condition or Condition())
        urns = full_urns(model.conversations, model.records, codec) if condition is None else None
        attributes = draw_conversations(model.conversations, codec, wanted, self._generator, urns=urns)
        start_ns = decode_starts(attributes, wanted.rows, codec, rng)
        counts = np.maximum(codec.records.draw(attributes[:, ATTRIBUTE_INDEX["record_count"]], rng), 1)
        if condition is None:
            counts = fit_lengths(counts, codec, rng)
        drawn = draw_records(model.records, codec, attributes, start_ns, counts, rng, self._generator, urns=urns)
        table = decode_records(attributes, drawn.offset, drawn.fields, drawn.start_ns, codec, rng)
        return table.take(np.argsort(table.flow_start_ns, kind="stable"))


def wanted_rows(codec: FlowCodec, condition: Condition) -> Wanted:
    """Which conversations of a chunk a condition asks for, evenly spread; raises InputError if there is none."""
    n = codec.conversation_count
    labels: NDArray[np.bool_] | None = None
    services: NDArray[np.bool_] | None = None
    share = 1.0
    if condition.label is not None:
        labels = np.zeros(LABELS, bool)
        names = ("", *codec.label_names)
        if condition.label not in names or not codec.labels[names.index(condition.label)]:
            known = ", ".join(repr(name) for name, count in zip(names, codec.labels, strict=False) if count)
            raise InputError(f"the model has no flows of the label {condition.label!r}; it has {known}")
        labels[names.index(condition.label)] = True
        share *= codec.labels[labels].sum() / max(codec.labels.sum(), 1)
    if condition.protocol is not None or condition.port is not None:
        table, counts = codec.service.table(), np.array(codec.service.counts)
        services = counts > 0
        if condition.protocol is not None:
            services &= table[:, 0] == condition.protocol
        if condition.port is not None:
            services &= table[:, 2] == condition.port
        if not services.any():
            raise InputError("the model has no flows of that protocol and port")
        share *= counts[services].sum() / counts.sum()
    count = max(1, round(n * share * condition.scale))
    return Wanted(((np.arange(count) + 0.5) * n / count).astype(np.int64), labels, services)


def fit_lengths(counts: NDArray[np.int64], codec: FlowCodec, rng: np.random.Generator) -> NDArray[np.int64]:
    """Records (n,) of conversations with the chunk's own distribution, ranks kept, equal ones ranked by lot."""
    out = np.empty_like(counts)
    out[np.lexsort((rng.random(len(counts)), counts))] = np.maximum(codec.records.sample(len(counts)), 1)
    return out
