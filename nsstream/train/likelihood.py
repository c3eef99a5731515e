"""How likely a model finds each conversation of a table, one figure each: what attacks on a model are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.encode.codec import slice_of
from nsstream.encode.encoding import allowed_attributes, allowed_kinds, encode
from nsstream.encode.schema import SLICES
from nsstream.encode.tokens import ChunkTokens
from nsstream.model.checkpoint import Model
from nsstream.model.layout import LAYOUT
from nsstream.model.networks import FORBIDDEN
from nsstream.trace import ConversationTable
from nsstream.train.batches import cut_windows, packet_batch
from nsstream.train.evaluate import RUN, WINDOWS_AT_ONCE

IMPOSSIBLE: Final = -FORBIDDEN / 2  # nats; a conversation of more says what the vocabulary has no word for


@dataclass(frozen=True, slots=True)
class Nats:
    """Negative log-likelihoods of n conversations."""

    attributes: NDArray[np.float64]  # (n,)
    packets: NDArray[np.float64]  # (n,) of all packets of each, given its attributes

    @property
    def total(self) -> NDArray[np.float64]:
        """Of whole conversations: (n,)."""
        return self.attributes + self.packets


@torch.no_grad()
def conversation_nats(model: Model, table: ConversationTable) -> Nats:
    """How likely a model finds each conversation of a table, and its packets.

    The table is sorted by start, its addresses mapped; it may hold conversations that the model did not learn, within
    the chunk's time. Each is told given those before it, in runs. What the model's vocabulary has no word for counts as
    the nearest that it has, or, where it has none, as impossible (`IMPOSSIBLE`).
    """
    codec = model.codec
    where = slice_of(table.observation_time_ns[table.packet_offset[:-1]], codec.first_ns, codec.last_ns)
    told = replace(codec, profile=np.bincount(where, minlength=SLICES))  # as many as there are, learned or not
    tokens = encode(table, told)
    model.attributes.eval()
    model.packets.eval()
    return Nats(_attribute_nats(model, tokens), _packet_nats(model, tokens))


def _attribute_nats(model: Model, tokens: ChunkTokens) -> NDArray[np.float64]:
    masks = [torch.from_numpy(mask) for mask in allowed_attributes(model.codec)]
    n, run = len(tokens), min(RUN, len(tokens))
    out = np.zeros(n)
    starts = np.minimum(np.arange(0, n, run), n - run)  # the last run overlaps the one before
    for some in np.array_split(starts, max(1, len(starts) // 8)):
        rows = some[:, None] + np.arange(run)
        nll = model.attributes.loss(
            torch.from_numpy(tokens.attributes[rows]), torch.from_numpy(tokens.start_features[rows]), masks
        )
        out[rows] = nll.double().numpy()
    return out


def _packet_nats(model: Model, tokens: ChunkTokens) -> NDArray[np.float64]:
    kinds = torch.from_numpy(allowed_kinds(model.codec))[torch.from_numpy(tokens.stack)]
    windows = cut_windows(tokens, np.arange(len(tokens)))
    out = np.zeros(len(tokens))
    by_length = np.argsort(windows.end - windows.read_from, kind="stable")  # so that little is padded
    for some in np.array_split(by_length, max(1, len(by_length) // WINDOWS_AT_ONCE)):
        batch = packet_batch(tokens, windows, some, LAYOUT)
        nll = model.packets.loss(batch, kinds[torch.from_numpy(windows.owner[some])]).double().sum(dim=1)
        np.add.at(out, windows.owner[some], nll.numpy())
    return out
