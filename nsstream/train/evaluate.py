"""Evaluate: how likely a model finds the conversations of its chunk that it did not learn; and how likely its parent.

A fit holds out one conversation in eight, chosen by its seed; the same ones are asked for here. All networks are judged
without the corrections that belong to one chunk's frequencies, and the parent with its weights made ready for this
chunk's codec, just as the fine-tune began: so the two differ in what was learned alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_attributes, allowed_kinds, encode
from nsstream.encode.tokens import ChunkTokens
from nsstream.errors import InputError, TrainError
from nsstream.model.checkpoint import Model, load_checkpoint, new_networks
from nsstream.model.layout import LAYOUT
from nsstream.model.networks import AttributeNetwork, PacketNetwork
from nsstream.train.batches import cut_windows, packet_batch
from nsstream.train.calibrate import reset_corrections
from nsstream.train.chunk_table import load_conversations
from nsstream.train.fit import LEAST_CONVERSATIONS
from nsstream.train.inherit import inherit
from nsstream.train.job import AddressMapConfig
from nsstream.train.reading import HELD_OUT_EVERY, held_out

RUN: Final = 64  # consecutive conversations of which the attribute network reads the one before
MOST_RUNS: Final = 128
MOST_WINDOWS: Final = 1024
WINDOWS_AT_ONCE: Final = 64


class EvaluateJob(BaseModel):
    """Judge one checkpoint on its own chunk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chunk: Path
    before: Path | None = None
    candidate: Path
    parent: Path | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)]  # of the fit: it says which conversations were held out
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    drawn_conversations: Annotated[int, Field(ge=1)] = 2000
    address_map: AddressMapConfig
    is_blind: bool = False  # nothing of the chunk may be told: the candidate's drawing alone is judged

    @classmethod
    def parse(cls, text: str) -> EvaluateJob:
        """Read a job; raises InputError that names the first bad key."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as err:
            first = err.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "job"
            raise InputError(f"not an evaluation: {where}: {first['msg']}") from err


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Loss on held-out conversations, in nats."""

    conversation: float  # of a conversation's attributes
    piece: float  # of a packet, or of a flow record
    pieces: float  # packets or records a conversation, on the average

    @property
    def total(self) -> float:
        """Of a whole conversation."""
        return self.conversation + self.pieces * self.piece


def held_out_rows(tokens: ChunkTokens, seed: int) -> NDArray[np.int64]:
    """The conversations that a fit of this seed does not learn."""
    return held_out(np.diff(tokens.packet_offset), np.random.default_rng(seed))


def evaluate(job: EvaluateJob) -> dict[str, Any]:
    """The figures of a checkpoint of packets: `figures_of` says what they are.

    Raises StateError where a checkpoint or a chunk cannot be read, TrainError where the chunk is too small.
    """
    torch.set_num_threads(job.threads)
    chunk_id, table, _, _ = load_conversations(job.chunk, job.before, job.address_map)
    if len(table) < LEAST_CONVERSATIONS:
        raise TrainError(f"chunk {chunk_id} has {len(table)} conversations, too few to judge by")
    candidate = load_checkpoint(job.candidate)
    tokens = encode(table, candidate.codec)
    mine = _held_out(_networks_of(candidate, candidate.codec), tokens, candidate.codec, job.seed)
    if job.parent is None:
        return figures_of(mine, None, None, "packet")
    parent = load_checkpoint(job.parent)
    theirs = _held_out(_networks_of(parent, candidate.codec), tokens, candidate.codec, job.seed)
    return figures_of(mine, theirs, parent.manifest, "packet")


def figures_of(mine: HeldOut, theirs: HeldOut | None, manifest: dict[str, Any] | None, piece: str) -> dict[str, Any]:
    """What the gate needs, as plain values.

    loss, parent_loss: nats a held-out conversation; ratio: the one in multiples of the other; drift: the parent's loss
    here in multiples of what it was on its own chunk, for a conversation of as many packets. None where there is none.
    """
    figures: dict[str, Any] = {
        "loss": mine.total,
        f"nats_a_{piece}": mine.piece,
        "nats_a_conversation": mine.conversation,
        "parent_loss": None,
        "ratio": None,
        "drift": None,
    }
    if theirs is not None and manifest is not None:
        own = manifest.get("held_out_nats") or {}
        figures |= {"parent_loss": theirs.total, "ratio": mine.total / max(theirs.total, 1e-9)}
        if isinstance(own.get("conversation"), float) and isinstance(own.get(piece), float):
            before = own["conversation"] + theirs.pieces * own[piece]
            figures["drift"] = theirs.total / max(before, 1e-9)
    return figures


def _networks_of(model: Model, codec: Codec) -> nn.ModuleDict:
    networks = new_networks()
    held = nn.ModuleDict({"attributes": model.attributes, "packets": model.packets, "critic": model.critic})
    networks.load_state_dict(held.state_dict())
    if model.codec is not codec:
        inherit(networks, model.codec, codec)
    reset_corrections(networks)
    return networks.eval()


@torch.no_grad()
def _held_out(networks: nn.ModuleDict, tokens: ChunkTokens, codec: Codec, seed: int) -> HeldOut:
    held = held_out_rows(tokens, seed)
    pieces = float(np.diff(tokens.packet_offset)[held].mean())
    attributes, packets = cast(AttributeNetwork, networks["attributes"]), cast(PacketNetwork, networks["packets"])
    return HeldOut(
        float(attribute_nats(attributes, tokens, codec, held).sum()), packet_nats(packets, tokens, codec, held), pieces
    )


@torch.no_grad()
def attribute_nats(
    network: AttributeNetwork, tokens: ChunkTokens, codec: Codec, held: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The mean loss of each attribute of the conversations `held` (k,), in nats: (a,)."""
    masks = [torch.from_numpy(mask) for mask in allowed_attributes(codec)]
    is_held = np.zeros(len(tokens), bool)
    is_held[held] = True
    run = min(RUN, len(tokens) // HELD_OUT_EVERY)
    starts = np.linspace(0, len(tokens) - run, min(len(tokens) // run, MOST_RUNS)).astype(np.int64)
    total, count = np.zeros(len(masks)), 0
    for some in np.array_split(starts, max(1, len(starts) // 8)):
        rows = some[:, None] + np.arange(run)
        losses = network.losses(
            torch.from_numpy(tokens.attributes[rows]), torch.from_numpy(tokens.start_features[rows]), masks
        )
        judged = torch.from_numpy(is_held[rows])
        total, count = total + [float(nll[judged].sum()) for nll in losses], count + int(judged.sum())
    return total / max(count, 1)


@torch.no_grad()
def packet_nats(network: PacketNetwork, tokens: ChunkTokens, codec: Codec, held: NDArray[np.int64]) -> float:
    """The mean loss of a packet of the conversations `held` (k,), in nats."""
    kinds = torch.from_numpy(allowed_kinds(codec))[torch.from_numpy(tokens.stack)]
    windows = cut_windows(tokens, held)
    chosen = np.linspace(0, len(windows) - 1, min(len(windows), MOST_WINDOWS)).astype(np.int64)
    total, count = 0.0, 0
    for some in np.array_split(chosen, max(1, len(chosen) // WINDOWS_AT_ONCE)):
        batch = packet_batch(tokens, windows, some, LAYOUT)
        total += float(network.loss(batch, kinds[torch.from_numpy(windows.owner[some])]).sum())
        count += int(batch.counts.sum())
    return total / max(count, 1)
