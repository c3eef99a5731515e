"""Corrections to the logits of a private flow model, so that what is drawn has the noisy counts; as `flow_calibrate`.

What the networks draw by themselves is what is expected, and the noisy counts say more the less noise there is beside
them (`private_settle`). First heads are taught pairs (`private_flow_taught`), then each
field is corrected by itself. Nothing but the noisy vector and the model is read here.
"""

from __future__ import annotations

import math
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import allowed_fields, place_by_size, place_of
from nsstream.encode.flow_hosts import KNOWN, REACHES
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, ATTRIBUTES, FIELD_INDEX, FRESH, LAG, LAGS, PEERS
from nsstream.encode.public_flow_codec import ROLE_SLOTS, SERVERS, V4_SLOTS
from nsstream.model.flow_networks import ConversationNetwork, RecordNetwork
from nsstream.model.flow_sample import Wanted, draw_conversations, draw_records
from nsstream.train.private_flow_counts import (
    LARGE,
    LARGE_OCTAVES,
    LAYERS,
    OCTET_CELLS,
    PACKET_CELLS,
    RECORD_PLACES,
    TIME_CELLS,
    WAYS,
    attribute_cells,
    field_cells,
)
from nsstream.train.private_flow_large import with_large
from nsstream.train.private_flow_taught import teach_records, teach_ways
from nsstream.train.private_flow_told import FlowCounts, popularity, rare_servers
from nsstream.train.private_settle import hidden, settle

LESSONS: Final = 2  # drawings that pairs are taught by,
ROUNDS: Final = 6  # and then those that are corrected by
DRAWN: Final = 8192  # conversations a round
FIRMNESS: Final = 0.8  # how much of the log ratio is applied a round,
FURTHEST: Final = 6.0  # and how far a logit is moved at most
READ: Final = 12  # records of a conversation that are drawn
NEVER: Final = -60.0  # added to a logit
_PRIOR: Final = 0.5  # added to counts that were drawn
NEAR: Final = 8  # octaves of lags, of some hundred hosts, after which hosts without a slot come again


@torch.no_grad()
def calibrate_privately(
    networks: nn.ModuleDict,
    codec: FlowCodec,
    seed: FlowCodec,
    counts: FlowCounts,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> None:
    """Correct both networks, in evaluation mode; `seed` is the public seed's codec."""
    conversations = cast(ConversationNetwork, networks["conversations"])
    is_v6 = codec.service.table()[:, 1] == 6
    share_v6 = float(np.clip(np.maximum(counts.blocks["service"], 0)[is_v6].sum() / counts.total, 0.0, 1.0))
    say_services(conversations, counts)
    say_clients(conversations, counts, share_v6)
    tell_apart(conversations, counts, rng)
    attributes = _attributes(conversations, codec, counts, generator)
    _fields(cast(RecordNetwork, networks["records"]), codec, seed, attributes, counts, rng, generator)


def say_services(network: ConversationNetwork, counts: FlowCounts) -> None:
    """Let services be as frequent as the counts say: nothing that is known before one tells of it."""
    i = ATTRIBUTE_INDEX["service"]
    layer, shown = cast(nn.Linear, network.heads.head[i]), network.heads.shown(i)
    known = network.start.bias[None]
    nothing = torch.zeros(1, len(ATTRIBUTES), dtype=torch.int64)
    for before in range(i):
        known = known + network.heads.hear(before, nothing[:, before])
    expected = network.heads.logits(i, known, nothing)[0].softmax(-1).double().numpy()
    kept = max(float(counts.blocks["conversations"][0]), 1.0)
    wanted = settle(counts.blocks["service"][shown.numpy()], expected, counts.std, kept) / kept
    layer.weight.zero_()
    layer.bias[shown] = torch.from_numpy(_logits(wanted))


def say_clients(network: ConversationNetwork, counts: FlowCounts, share_v6: float) -> None:
    """Let clients be as popular as the counts say, whatever else a conversation is."""
    i = ATTRIBUTE_INDEX["client"]
    shares = np.zeros(LAG + LAGS)
    fresh, total = 0.0, max(float(counts.clients.sum() + counts.busy.sum()), 1.0)
    for begin, room, share in ((0, V4_SLOTS, 1 - share_v6), (V4_SLOTS, ROLE_SLOTS - V4_SLOTS, share_v6)):
        often = counts.clients[begin : begin + room].copy()
        if len(counts.busy):
            mine = counts.busy[:: max(1, round(1 / share))] if 0 < share < 0.5 else counts.busy
            free = np.flatnonzero(often == 0)[: len(mine)]
            often[free] = mine[: len(free)] * (share * float(counts.busy.sum()) / max(float(mine.sum()), 1.0))
            shares[begin : begin + room] = often / total
            fresh += (
                share * (len(counts.busy) / len(mine)) * max(len(mine) - len(free), 0) / total if len(mine) else 0.0
            )
        else:
            popular, rest, size = popularity(counts.blocks["clients"][begin : begin + room], counts.std)
            shares[begin : begin + room] = popular / counts.total
            fresh += rest / size / counts.total
    rest = max(1.0 - float(shares.sum()), 1e-6)
    shares[FRESH] = min(max(fresh, 1e-6), rest)
    shares[LAG:] = _again(float(shares[FRESH]), max(rest - float(shares[FRESH]), 1e-9))
    layer = cast(nn.Linear, network.heads.head[i])
    layer.weight.zero_()
    layer.bias[:] = torch.from_numpy(_logits(shares))


def tell_apart(network: ConversationNetwork, counts: FlowCounts, rng: np.random.Generator) -> None:
    """Let popular clients mean something of their own each, so that heads can say what theirs are."""
    table = cast(nn.Embedding, network.heads.said[ATTRIBUTE_INDEX["client"]]).weight
    popular = torch.from_numpy(np.flatnonzero(counts.clients > 0))
    spread = float(cast(nn.Embedding, network.heads.said[ATTRIBUTE_INDEX["service"]]).weight.std())
    table[popular] += spread * torch.from_numpy(rng.standard_normal((len(popular), table.shape[1]))).float()


def _again(fresh: float, again: float) -> NDArray[np.float64]:
    """Shares (LAGS,) of hosts that come again, as likely after each time: of those named once, twice, more often."""
    more = again / (fresh + again)
    by_kind = np.zeros((KNOWN, REACHES))
    by_kind[:3, :NEAR] = np.array([[fresh * more], [fresh * more**2], [again * more**2]]) / NEAR
    return by_kind.ravel()


def _logits(shares: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.where(shares > 0, np.log(np.maximum(shares, 1e-12)), NEVER).astype(np.float32)


def _attributes(
    network: ConversationNetwork, codec: FlowCodec, counts: FlowCounts, generator: torch.Generator
) -> NDArray[np.int64]:
    """Correct the attributes, and give some that are drawn then (n, a)."""
    rows = np.sort(np.arange(DRAWN) * codec.conversation_count // DRAWN)
    cells = attribute_cells(codec, counts.found)
    targets: dict[str, NDArray[np.float64]] = {}
    network.heads.correction[ATTRIBUTE_INDEX["server"]][:, PEERS : PEERS + SERVERS] = NEVER  # those are clients
    for _ in range(LESSONS):
        teach_ways(network, codec, counts, draw_conversations(network, codec, Wanted(rows), generator, run=1))
    for number in range(ROUNDS + 1):
        drawn = draw_conversations(network, codec, Wanted(rows), generator, run=1)  # none tells of another
        if number == ROUNDS:
            break
        for name, cell in cells.items():  # by the marginal
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
        noisy[PEERS + SERVERS : PEERS + 2 * SERVERS] = counts.servers
        noisy[PEERS + FRESH], noisy[PEERS + LAG] = rare_servers(counts)
        noisy[:PEERS] = np.where(noisy[:PEERS] > hidden(counts.std, PEERS), noisy[:PEERS], 0.0)
        return np.maximum(noisy, 0.0)
    return settle(noisy, came, counts.std, max(total, 1.0))


def _fields(
    network: RecordNetwork,
    codec: FlowCodec,
    seed: FlowCodec,
    attributes: NDArray[np.int64],
    counts: FlowCounts,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> None:
    """Correct direction, packets, octets and duration of records.

    What the seed never said is said where the counts show it, and nowhere else: of counts that reach from 1 to 10^8,
    a few that are made up are more than all others together.
    """
    n = len(attributes)
    length = codec.records.draw(attributes[:, ATTRIBUTE_INDEX["record_count"]], rng).clip(1, READ)
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
    large = counts.blocks["large"].reshape(LAYERS, LARGE_OCTAVES)
    std = {
        "is_reverse": counts.std * np.sqrt(PACKET_CELLS), "packets": counts.std * np.sqrt(WAYS),
        "octets": counts.std, "duration": counts.std,
    }  # fmt: skip
    had = allowed_fields(seed)
    for name, cell in cells.items():
        is_seen = _is_seen(noisy[name].sum(axis=0), std[name] * float(np.sqrt(len(noisy[name]))))
        if name == "packets":
            is_seen[LARGE:] |= np.repeat(_is_seen(large.sum(axis=0), counts.std * float(np.sqrt(LAYERS))), 2)
        network.heads.correction[FIELD_INDEX[name]][:, torch.from_numpy(~had[name] & ~is_seen[cell])] = NEVER
    cells["is_reverse"] = np.arange(WAYS)
    targets = {name: np.zeros_like(cells_of) for name, cells_of in noisy.items()}
    for _ in range(LESSONS):
        drawn = draw_records(network, codec, attributes, start_ns, length, rng, generator)
        teach_records(network, codec, counts, attributes, drawn, rng)
    for _ in range(ROUNDS):
        drawn = draw_records(network, codec, attributes, start_ns, length, rng, generator)
        index = (rng.random(n) * length).astype(np.int64)
        fields = drawn.fields[drawn.offset[:-1] + index]
        places = place_of(index, protocol), place_by_size(fields, protocol, codec)
        for name, cell in cells.items():
            i = FIELD_INDEX[name]
            place = places[len(noisy[name]) != RECORD_PLACES]
            size = noisy[name].shape[1]
            came = np.bincount(place * size + cell[fields[:, i]], minlength=noisy[name].size).astype(np.float64)
            came = came.reshape(-1, size)
            is_new = (targets[name].sum(axis=1) == 0) & (came.sum(axis=1) > 0)
            targets[name][is_new] = _by_place(noisy[name][is_new], came[is_new], std[name], noisy[name].size)
            if name == "packets" and is_new.any():
                targets[name] = with_large(targets[name], came.sum(axis=1), noisy[name].sum(axis=1), large, counts.std)
            _correct(network.heads.correction[i], targets[name], came, cell)


def _is_seen(noisy: NDArray[np.float64], std: float) -> NDArray[np.bool_]:
    """Which cells (c,), in order of size, are of a run of neighbours that has more than noise is likely to make."""
    out = np.zeros(len(noisy), bool)
    for width in (1, 2, 4, 8):
        runs = np.convolve(noisy, np.ones(width), mode="valid")
        for first in np.flatnonzero(runs > hidden(std * math.sqrt(width), len(noisy))):
            out[first : first + width] = True
    return out


def _by_place(noisy: NDArray[np.float64], came: NDArray[np.float64], std: float, cells: int) -> NDArray[np.float64]:
    """What is wanted at each place (p, c), of so many cells in all: nothing new where noise hides the place."""
    out = came.copy()
    for place, (told, drawn) in enumerate(zip(noisy, came, strict=True)):
        total = float(told[drawn > 0].sum())
        if drawn.sum() > 0 and total > hidden(std * np.sqrt(max(int((drawn > 0).sum()), 1)), 1):
            out[place] = settle(told, drawn, std, total, cells)
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
    moved = np.clip(FIRMNESS * np.log((wanted + prior) / (came + prior)), -FURTHEST, FURTHEST)
    moved[wanted.sum(axis=1) == 0] = 0.0
    change = torch.from_numpy(moved[:, cell].astype(np.float32))
    rows = table if len(change) == 1 else table[: len(change)]
    rows.add_(change)
