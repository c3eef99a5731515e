"""Corrections to the logits of a flow model, so that what is drawn has the chunk's own frequencies; see `calibrate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import FlowTokens, moment_of, place_by_size, place_of
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, BY_SIZE, FIELD_INDEX
from nsstream.model.flow_networks import ConversationNetwork, RecordNetwork
from nsstream.model.flow_sample import Wanted, draw_conversations, draw_records
from nsstream.train.calibrate import correct, count_tokens

ROUNDS: Final = 3
MOST: Final = 16_384  # conversations drawn a round


@torch.no_grad()
def calibrate_conversations(
    network: ConversationNetwork,
    tokens: FlowTokens,
    codec: FlowCodec,
    generator: torch.Generator,
    has_time: Callable[[], bool],
) -> None:
    """Correct the conversations' attributes, by moment of the chunk; once at least, and on while there is time."""
    n = len(tokens)
    rows = np.arange(n) if n <= MOST else np.linspace(0, n - 1, MOST).astype(np.int64)
    measured, drawn_at = moment_of(np.arange(n), n), moment_of(rows, n)
    for number in range(ROUNDS):
        if number and not has_time():
            break
        drawn = draw_conversations(network, codec, Wanted(rows), generator)
        for i, table in enumerate(network.heads.correction):
            wanted = count_tokens(measured, tokens.attributes[:, i], table)
            correct(table, wanted, count_tokens(drawn_at, drawn[:, i], table))


@torch.no_grad()
def calibrate_records(
    network: RecordNetwork,
    tokens: FlowTokens,
    codec: FlowCodec,
    start_ns: NDArray[np.int64],
    rng: np.random.Generator,
    generator: torch.Generator,
    has_time: Callable[[], bool],
) -> None:
    """Correct the records' fields, by place; once at least, and on while there is time."""
    count = np.diff(tokens.offset)
    rows = np.sort(rng.permutation(len(tokens))[:MOST])
    first = np.repeat(tokens.offset[rows], count[rows])
    index = np.arange(len(first)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
    measured = first + index
    protocol = codec.service.table()[tokens.attributes[rows, ATTRIBUTE_INDEX["service"]], 0]
    protocol = np.repeat(protocol, count[rows])
    place, by_size = place_of(index, protocol), place_by_size(tokens.fields[measured], protocol, codec)
    told = {"is_reverse": index > 0, "gap": index > 0}
    everything = np.ones(len(index), bool)
    for number in range(ROUNDS):
        if number and not has_time():
            break
        drawn = draw_records(
            network, codec, tokens.attributes[rows], start_ns[tokens.offset[rows]], count[rows], rng, generator
        )
        drawn_by_size = place_by_size(drawn.fields, protocol, codec)
        for name, i in FIELD_INDEX.items():
            table, which = network.heads.correction[i], told.get(name, everything)
            at = (by_size, drawn_by_size) if name in BY_SIZE else (place, place)
            wanted = count_tokens(at[0][which], tokens.fields[measured[which], i], table)
            correct(table, wanted, count_tokens(at[1][which], drawn.fields[which, i], table))
