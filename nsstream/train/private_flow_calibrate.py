"""Corrections to the logits of a private flow model, so that what is drawn has the noisy counts; as `flow_calibrate`.

What the networks draw by themselves is what is expected, and the noisy counts say more the less noise there is beside
them (`private_flow_counts.settle`). Nothing but the noisy vector and the model is read here.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import place_by_size, place_of
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, FIELD_INDEX, FRESH, LAG, LAGS, PEERS
from nsstream.encode.public_flow_codec import ROLE_SLOTS, SERVERS, V4_SLOTS
from nsstream.model.flow_networks import ConversationNetwork, RecordNetwork
from nsstream.model.flow_sample import Wanted, draw_conversations, draw_records
from nsstream.train.private_flow_counts import (
    OCTET_CELLS,
    PACKET_CELLS,
    RECORD_PLACES,
    TIME_CELLS,
    WAYS,
    FlowCounts,
    attribute_cells,
    field_cells,
    hidden,
    settle,
)

ROUNDS: Final = 4
DRAWN: Final = 8192  # conversations a round
NEVER: Final = -60.0  # added to a logit
_PRIOR: Final = 0.5  # added to counts that were drawn
_NEWCOMERS: Final = 0.5  # of conversations of clients without a slot, those that are their first; where nothing says


@torch.no_grad()
def calibrate_privately(
    networks: nn.ModuleDict, codec: FlowCodec, counts: FlowCounts, rng: np.random.Generator, generator: torch.Generator
) -> None:
    """Correct both networks, in evaluation mode."""
    conversations = cast(ConversationNetwork, networks["conversations"])
    is_v6 = codec.service.table()[:, 1] == 6
    share_v6 = float(np.clip(np.maximum(counts.blocks["service"], 0)[is_v6].sum() / counts.total, 0.0, 1.0))
    say_clients(conversations, counts, share_v6)
    attributes = _attributes(conversations, codec, counts, generator)
    _fields(cast(RecordNetwork, networks["records"]), codec, attributes, counts, rng, generator)


def say_clients(network: ConversationNetwork, counts: FlowCounts, share_v6: float) -> None:
    """Let clients be as popular as the counts say, whatever else a conversation is."""
    i = ATTRIBUTE_INDEX["client"]
    shares = np.zeros(LAG + LAGS)
    for begin, room, share in ((0, V4_SLOTS, 1 - share_v6), (V4_SLOTS, ROLE_SLOTS - V4_SLOTS, share_v6)):
        if len(counts.busy):
            mine = counts.busy[:: max(1, round(1 / share))] if 0 < share < 0.5 else counts.busy
            popular = mine[:room].astype(np.float64)
            popular *= share / max(int(mine.sum()), 1)
        else:
            popular, _ = popularity(counts.blocks["clients"][begin : begin + room], counts.std)
            popular /= max(counts.total, 1)
        shares[begin : begin + len(popular)] = popular
    rest = max(1.0 - float(shares.sum()), 1e-6)
    others = len(counts.busy) - ROLE_SLOTS
    fresh = np.clip(others / max(counts.total, 1), 1e-6, rest) if len(counts.busy) else rest * _NEWCOMERS
    shares[FRESH] = fresh
    lags = np.arange(LAGS) < 24
    shares[LAG:] = np.where(lags, max(rest - fresh, 1e-6) / lags.sum(), 0.0)
    layer = cast(nn.Linear, network.heads.head[i])
    layer.weight.zero_()
    logits = np.where(shares > 0, np.log(np.maximum(shares, 1e-12)), NEVER)
    layer.bias[:] = torch.from_numpy(logits.astype(np.float32))


def popularity(buckets: NDArray[np.float64], std: float) -> tuple[NDArray[np.float64], float]:
    """How often each bucket's popular host comes (b,), beyond what hosts that nobody knows bring; and all of these."""
    usual = max(float(np.median(buckets)), 0.0)
    beyond = buckets - usual
    popular = np.where(beyond > hidden(std, len(buckets)), beyond, 0.0)
    return popular, max(float(buckets.sum() - popular.sum()), 0.0)


def _attributes(
    network: ConversationNetwork, codec: FlowCodec, counts: FlowCounts, generator: torch.Generator
) -> NDArray[np.int64]:
    """Correct the attributes, and give some that are drawn then (n, a)."""
    rows = np.sort(np.arange(DRAWN) * codec.conversation_count // DRAWN)
    cells = attribute_cells(codec)
    targets: dict[str, NDArray[np.float64]] = {}
    network.heads.correction[ATTRIBUTE_INDEX["server"]][:, PEERS : PEERS + SERVERS] = NEVER  # those are clients
    for number in range(ROUNDS + 1):
        drawn = draw_conversations(network, codec, Wanted(rows), generator)
        if number == ROUNDS:
            break
        for name, cell in cells.items():
            i = ATTRIBUTE_INDEX[name]
            size = int(cell.max()) + 1
            came = np.bincount(cell[drawn[:, i]], minlength=size).astype(np.float64)
            if name not in targets:
                targets[name] = _wanted(name, counts, came)
            _correct(network.heads.correction[i], targets[name][None], came[None], cell)
    return drawn


def _wanted(name: str, counts: FlowCounts, came: NDArray[np.float64]) -> NDArray[np.float64]:
    noisy = counts.blocks[name][: len(came)]
    total = float(counts.blocks["conversations"][0])
    if name == "server":
        noisy = noisy.copy()
        rest = 0.0
        for begin, room in ((0, V4_SLOTS), (V4_SLOTS, ROLE_SLOTS - V4_SLOTS)):
            at = slice(PEERS + SERVERS + begin, PEERS + SERVERS + begin + room)
            noisy[at], others = popularity(noisy[at], counts.std)
            rest += others
        noisy[PEERS + FRESH] = rest
        noisy[:PEERS] = np.where(noisy[:PEERS] > hidden(counts.std, PEERS), noisy[:PEERS], 0.0)
        return np.maximum(noisy, 0.0)
    return settle(noisy, came, counts.std, max(total, 1.0))


def _fields(
    network: RecordNetwork,
    codec: FlowCodec,
    attributes: NDArray[np.int64],
    counts: FlowCounts,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> None:
    """Correct direction, packets, octets and duration of records."""
    n = len(attributes)
    length = np.maximum(codec.records.draw(attributes[:, ATTRIBUTE_INDEX["record_count"]], rng), 1)
    protocol = codec.service.table()[attributes[:, ATTRIBUTE_INDEX["service"]], 0]
    start_ns = codec.start_ns + (rng.random(n) * (codec.end_ns - codec.start_ns)).astype(np.int64)
    cells = field_cells(codec)
    packets = counts.blocks["packets"].reshape(RECORD_PLACES, WAYS, PACKET_CELLS)
    noisy = {
        "is_reverse": packets.sum(axis=2),
        "packets": packets.sum(axis=1),
        "octets": counts.blocks["octets"].reshape(-1, OCTET_CELLS),
        "duration": counts.blocks["duration"].reshape(-1, TIME_CELLS),
    }
    std = {
        "is_reverse": counts.std * np.sqrt(PACKET_CELLS), "packets": counts.std * np.sqrt(WAYS),
        "octets": counts.std, "duration": counts.std,
    }  # fmt: skip
    cells["is_reverse"] = np.arange(WAYS)
    targets: dict[str, NDArray[np.float64]] = {}
    for _ in range(ROUNDS):
        drawn = draw_records(network, codec, attributes, start_ns, length, rng, generator)
        index = (rng.random(n) * length).astype(np.int64)
        fields = drawn.fields[drawn.offset[:-1] + index]
        places = place_of(index, protocol), place_by_size(fields, protocol, codec)
        for name, cell in cells.items():
            i = FIELD_INDEX[name]
            place = places[len(noisy[name]) != RECORD_PLACES]
            size = noisy[name].shape[1]
            came = np.bincount(place * size + cell[fields[:, i]], minlength=noisy[name].size).reshape(-1, size)
            if name not in targets:
                targets[name] = _by_place(noisy[name], came.astype(np.float64), std[name])
            _correct(network.heads.correction[i], targets[name], came.astype(np.float64), cell)


def _by_place(noisy: NDArray[np.float64], came: NDArray[np.float64], std: float) -> NDArray[np.float64]:
    """What is wanted at each place (p, c): nothing new where noise hides the place."""
    out = came.copy()
    for place, (told, drawn) in enumerate(zip(noisy, came, strict=True)):
        total = float(told[drawn > 0].sum())
        if drawn.sum() > 0 and total > hidden(std * np.sqrt(max(int((drawn > 0).sum()), 1)), 1):
            out[place] = settle(told, drawn, std, total)
    return out


def _correct(
    table: torch.Tensor,
    wanted: NDArray[np.float64],
    came: NDArray[np.float64],
    cell: NDArray[np.int64],
) -> None:
    """Move rows of a table by the log ratios of what was wanted and what came (p, c), a row a place, or all alike."""
    came = came * (wanted.sum(axis=1, keepdims=True) / np.maximum(came.sum(axis=1, keepdims=True), 1.0))
    prior = _PRIOR * np.maximum(wanted.sum(axis=1, keepdims=True), 1.0) / DRAWN
    moved = np.clip(0.7 * np.log((wanted + prior) / (came + prior)), -2.0, 2.0)
    moved[wanted.sum(axis=1) == 0] = 0.0
    change = torch.from_numpy(moved[:, cell].astype(np.float32))
    rows = table if len(change) == 1 else table[: len(change)]
    rows.add_(change)
