"""Batches of records: windows of conversations as padded tensors, drawn at random."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsstream.encode.flow_encoding import FlowTokens

WINDOW: Final = 32  # records learned at a time


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
    """Windows at random with about so many records, which do not take four times as many after padding."""
    chosen = windows[rng.integers(0, len(windows), records)]
    length = chosen[:, 2] - chosen[:, 1]
    chosen = chosen[: max(1, int(np.searchsorted(np.cumsum(length), records)))]
    length = chosen[:, 2] - chosen[:, 1]
    most = np.sort(length)[::-1]
    fits = most * len(most) <= 4 * records
    if fits[0]:
        return chosen
    keep = length <= (most[np.argmax(fits)] if fits.any() else most[-1])
    keep[rng.permutation(np.flatnonzero(~keep))[: max(1, records // (4 * WINDOW))]] = True
    some = chosen[keep]
    wide = int((some[:, 2] - some[:, 1]).max())
    return some[rng.permutation(len(some))[: max(1, 4 * records // wide)]]


