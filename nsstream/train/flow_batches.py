"""Batches of records: windows of conversations as padded tensors, drawn at random."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsstream.encode.flow_encoding import FlowTokens

WINDOW: Final = 24  # records learned at a time
PADDED: Final = 6  # times the records of a batch that it may have when padded


def cut_record_windows(tokens: FlowTokens, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The windows of these conversations: rows of conversation, first record, record after the last."""
    begin, stop = tokens.offset[rows], tokens.offset[rows + 1]
    pieces = (stop - begin + WINDOW - 1) // WINDOW
    owner = np.repeat(rows, pieces)
    first = np.repeat(begin, pieces) + WINDOW * (np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    return np.stack([owner, first, np.minimum(first + WINDOW, np.repeat(stop, pieces))], axis=1)


def record_batch(tokens: FlowTokens, windows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of `RecordNetwork.loss` for some windows."""
    owner, first, stop = windows.T
    at = first[:, None] + np.arange(int((stop - first).max()))
    inside = at < stop[:, None]
    at = np.where(inside, at, first[:, None])
    before = np.where((first > tokens.offset[owner])[:, None], tokens.fields[np.maximum(first - 1, 0)], -1)
    return (
        torch.from_numpy(tokens.attributes[owner]),
        torch.from_numpy(before),
        torch.from_numpy(tokens.fields[at]),
        torch.from_numpy(tokens.running[at]),
        torch.from_numpy(inside),
    )


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
