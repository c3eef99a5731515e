"""Parallel: one model learned on several chunks at once, each chunk by a worker of its own, anywhere.

Theory: federated averaging (McMahan et al. 2017, algorithm 1). In each turn every worker takes the average of what all
made in the turn before, and learns its own chunk for some steps; weights alone travel. Workers are weighted by what
they have: the attribute network by conversations, the packet network by packets, and the rows of a vocabulary's slot by
how often each chunk shows the slot's value, since a chunk without it taught its rows nothing.

Weights can be averaged where they mean the same: so a codec is fitted to all chunks together first, and each chunk's
own is closed: of that codec's slots, with the chunk's counts. The same conversations of a chunk are held out in every
turn, those that a judge of the same seed asks for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.clock import SystemClock
from nsstream.encode.codec import VOCABULARIES, Codec
from nsstream.encode.encoding import encode
from nsstream.errors import TrainError
from nsstream.model.checkpoint import Model, load_checkpoint, new_networks, save_checkpoint
from nsstream.model.portrait import portrait_of_measured
from nsstream.model.trees import Trees
from nsstream.trace import ConversationTable
from nsstream.train.config import FitConfig, Progress
from nsstream.train.device import CPU
from nsstream.train.fit import Fit
from nsstream.train.inherit import rows_of
from nsstream.train.job import TrainJob

LEARNING_RATE = 3e-3  # of the first turn; it falls to nothing over all


def learn_in_parallel(
    job: TrainJob,
    table: ConversationTable,
    interval_ns: tuple[int, int],
    facts: dict[str, Any],
    report: Callable[[Progress], None],
    device: torch.device = CPU,
) -> Path:
    """Do one part of a learning in parallel, and give its checkpoint.

    ``begin``, of all chunks together: networks that know nothing, and the codec. ``learn``, of one chunk: a turn, from
    the average of ``models``. ``finish``, of all chunks together: their average, with corrections and trees. Raises
    TrainError and StateError as `worker.run`.
    """
    torch.set_num_threads(1)
    assert job.part is not None
    networks, part = new_networks(), job.part
    if part.does == "begin":
        codec = Codec.fit(table, *interval_ns)
        return save_checkpoint(job.out, networks, Trees.none(), codec, {**facts, "parent": None})
    models = [load_checkpoint(path) for path in job.models]
    if not models:
        raise TrainError("there is nothing to go on from")
    networks.load_state_dict(average(models))
    codec = Codec.fit(table, *interval_ns, models[0].codec, is_closed=True)
    tokens = encode(table, codec)
    rate = LEARNING_RATE * (1 - part.turn / part.turns)
    config = FitConfig(steps=job.steps, learning_rate=max(rate, 1e-6))
    fit = Fit(
        networks, tokens, portrait_of_measured(table, tokens, codec), codec, config, job.seed, SystemClock(), report,
        threads=job.threads, turn=part.turn, device=device,
    )  # fmt: skip
    if part.does == "learn":
        fit.learn()
    else:
        fit.finish()
        facts = {**facts, "chunks": [model.manifest["chunk"] for model in models]}
    facts = {
        **facts,
        "parent": None,
        "part": part.model_dump(),
        "fit": {k: v for k, v in dataclasses.asdict(config).items() if k != "budget_s"},
        "torch": torch.__version__.split("+")[0],
        **fit.facts(),
    }
    return save_checkpoint(job.out, networks, fit.trees, codec, facts)


@torch.no_grad()
def average(models: Sequence[Model]) -> dict[str, Tensor]:
    """The weights of several models of one vocabulary as one; raises TrainError where their slots differ."""
    codecs = [model.codec for model in models]
    states = [
        nn.ModuleDict({"attributes": m.attributes, "packets": m.packets, "critic": m.critic}).state_dict()
        for m in models
    ]
    conversations = _shares(np.array([float(codec.profile.sum()) for codec in codecs]))
    packets = _shares(np.array([float(codec.packet_count) for codec in codecs]))
    merged = {}
    for key, first in states[0].items():
        share = conversations if key.startswith("attributes.") else packets
        merged[key] = _mean(share, [state[key] for state in states]) if first.is_floating_point() else first.clone()
    for name in VOCABULARIES:
        vocabularies = [getattr(codec, name) for codec in codecs]
        if any(each.slots != vocabularies[0].slots for each in vocabularies):
            raise TrainError(f"models of different vocabularies ({name}) have no average")
        counts = np.array([each.counts for each in vocabularies], np.float64)  # (models, slots)
        is_shown = torch.from_numpy(counts.sum(axis=0) > 0)
        share = _shares(counts)
        for rows, *each_rows in zip(rows_of(name, merged), *(rows_of(name, state) for state in states), strict=True):
            mean = _mean(share, [theirs[: len(is_shown)] for theirs in each_rows])
            rows[: len(is_shown)][is_shown] = mean[is_shown]
    return merged


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each model's share (models, ...) of what all have."""
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=0), 1.0)
    return shares


def _mean(share: NDArray[np.float64], tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors by share: one number each (models,), or one a row each (models, rows)."""
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for part, tensor in zip(torch.from_numpy(share), tensors, strict=True):
        total += part.reshape(part.shape + (1,) * (tensor.dim() - part.dim() if part.dim() else 0)) * tensor
    return total.to(tensors[0].dtype)
