"""Batches of records: windows of conversations as padded tensors, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsstream.encode.flow_encoding import FlowTokens
from nsstream.train.device import CPU, tensor_of

WINDOW: Final = 24  # records learned at a time
PADDED: Final = 6  # times the records of a batch that it may have when padded


def cut_record_windows(tokens: FlowTokens, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The windows of these conversations: rows of conversation, first record, record after the last."""
    begin, stop = tokens.offset[rows], tokens.offset[rows + 1]
    pieces = (stop - begin + WINDOW - 1) // WINDOW
    owner = np.repeat(rows, pieces)
    first = np.repeat(begin, pieces) + WINDOW * (np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    return np.stack([owner, first, np.minimum(first + WINDOW, np.repeat(stop, pieces))], axis=1)


@dataclass(frozen=True)
class TensorFlows:
    """A chunk's tokens as tensors of one device, brought there once; shapes and names as of `FlowTokens`."""

    attributes: Tensor
    start_features: Tensor
    offset: Tensor
    fields: Tensor
    running: Tensor

    @classmethod
    def of(cls, tokens: FlowTokens, device: torch.device = CPU) -> Self:
        """The tokens there."""
        return cls(**{f.name: tensor_of(getattr(tokens, f.name), device) for f in fields(cls)})

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.fields.device


def record_batch(tokens: FlowTokens, windows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of `RecordNetwork.loss` for some windows, on the processor."""
    return record_windows(TensorFlows.of(tokens), windows)


def record_windows(tokens: TensorFlows, windows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `record_batch`, where the tokens are: the windows alone travel."""
    length = int((windows[:, 2] - windows[:, 1]).max())
    owner, first, stop = torch.from_numpy(np.ascontiguousarray(windows.T)).to(tokens.device).unbind()
    at = first[:, None] + torch.arange(length, device=tokens.device)
    inside = at < stop[:, None]
    at = torch.where(inside, at, first[:, None])
    is_later = (first > tokens.offset[owner])[:, None]
    before = tokens.fields[(first - 1).clamp(min=0)].masked_fill(~is_later, -1)
    return tokens.attributes[owner], before, tokens.fields[at], tokens.running[at], inside


def choose_record_windows(windows: NDArray[np.int64], records: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Windows at random with about so many records, every other time of similar lengths; few enough when padded."""
    length = windows[:, 2] - windows[:, 1]
    count = max(1, min(len(windows), round(records / float(length.mean()))))
    if rng.random() < 0.5:
        order = np.argsort(length + rng.random(len(windows)), kind="stable")
        low = max(0, min(int(rng.integers(len(windows))) - count // 2, len(windows) - count))
        chosen = order[low : low + count]
    else:
        chosen = rng.choice(len(windows), size=count, replace=False)
    fits = max(1, PADDED * records // int(length[chosen].max()))
    if len(chosen) > fits:
        chosen = rng.choice(chosen, size=fits, replace=False)
    out: NDArray[np.int64] = windows[chosen]
    return out
