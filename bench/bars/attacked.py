"""What attacks on models need: a chunk of given packets, a model trained on it, what that says of conversations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bars.runs import run_nsstream
from bars.traces import cut_day, lab_capture
from nsstream.capture import read_trace
from nsstream.chunk import ChunkStore
from nsstream.chunk.chunk import Chunk
from nsstream.chunk.interval import SECOND_NS
from nsstream.counters import Tally
from nsstream.encode.address_map import AddressMap
from nsstream.encode.encoding import sort_by_start
from nsstream.errors import InputError
from nsstream.model.checkpoint import load_checkpoint
from nsstream.pipeline.address_keys import key_beside
from nsstream.score.observed import Observed, address_identity, mix, observe
from nsstream.trace import ConversationTable, PacketBatch
from nsstream.trace.grouping import group_conversations
from nsstream.train.likelihood import Nats, conversation_nats


@dataclass(frozen=True, slots=True)
class Trained:
    """A model of one chunk, and the address map that it was trained with."""

    model: Path
    address_map: AddressMap


@dataclass(frozen=True, slots=True)
class Promise:
    """What a private training is to keep to, from which public model."""

    epsilon: float
    unit: str
    seed: Path
    delta: float = 1e-5
    steps: int = 100

    def __str__(self) -> str:
        return f"{self.unit}, epsilon {self.epsilon:g}"


def packets_of(trace: Path | None, place: Path, day: date | None = None, most: int | None = None) -> PacketBatch:
    """The packets of a trace, of the bundled capture where there is none, in time order.

    `day` (UTC) and `most` packets, the first ones, are all that is taken; `place` is a folder for what is cut.
    """
    if trace is None:
        with lab_capture() as lab:
            return packets_of(lab, place, day, most)
    packets, _ = read_trace(trace if day is None else cut_day(trace, day, place / "day.pcap"))
    return packets.take(np.argsort(packets.observation_time_ns, kind="stable")[:most])


def span_of(packets: PacketBatch, least_s: int = 1) -> tuple[int, int]:
    """The whole seconds that packets lie in, from the first one's on; so many at least."""
    first, last = int(packets.observation_time_ns.min()), int(packets.observation_time_ns.max())
    start = first // SECOND_NS
    return start * SECOND_NS, max(last // SECOND_NS + 1, start + least_s) * SECOND_NS


def chunk_of(packets: PacketBatch, span_ns: tuple[int, int], place: Path) -> Path:
    """A stored chunk of these packets, which are in time order."""
    tally = Tally(offered=len(packets), kept=len(packets))
    return ChunkStore(place / "chunks").write(Chunk.of(*span_ns, packets, tally, is_partial=False))


def train(packets: PacketBatch, span_ns: tuple[int, int], place: Path, how: Promise | Sequence[object]) -> Trained:
    """Train on a chunk of these packets, which are in time order, as a user would: privately, or by these options."""
    options = how
    if isinstance(how, Promise):
        promise = ("--private", how.epsilon, "--delta", how.delta, "--unit", how.unit)
        options = ("--from", how.seed, *promise, "--steps", how.steps)
    models = place / "models"
    run_nsstream("train", chunk_of(packets, span_ns, place), "-o", models, *options)
    (model,) = (path for path in models.iterdir() if path.is_dir() and not path.name.startswith("."))
    return Trained(model, AddressMap(key_beside(models, b"")))


def public_seed(place: Path, budget: str) -> Path:
    """A model of the bundled capture, as private trainings go on from."""
    packets = packets_of(None, place)
    return train(packets, span_of(packets), place, ("--budget", budget)).model


def promises_of(
    epsilons: Sequence[float], units: Sequence[str], traces: Sequence[Path], seed: Path | None, budget: str, place: Path
) -> list[Promise]:
    """Each unit with each epsilon, from a public model that is made unless it is given; none of no epsilon.

    Raises InputError where there is no trace: the bundled capture is the public one.
    """
    if not epsilons:
        return []
    if not traces:
        raise InputError("--private needs a trace: the bundled capture is what the public model learned")
    public = public_seed(place / "seed", budget) if seed is None else seed
    return [Promise(epsilon, unit, public) for unit in units for epsilon in epsilons]


def draw(trained: Trained, output: Path, seed: int) -> PacketBatch:
    """The packets of the model's twin."""
    run_nsstream("draw", trained.model, "-o", output, "--seed", seed)
    return read_trace(output)[0]


def nats_of(trained: Trained, packets: PacketBatch) -> tuple[NDArray[np.uint64], Nats]:
    """Identity (n,) and negative log-likelihoods of each conversation of real packets, in order of identity.

    What has several parts (later fragments) is one conversation. The model is not private: that has no token for most.
    """
    table = sort_by_start(group_conversations(packets)[0])
    known, which = np.unique(identities(table), return_inverse=True)
    nats = conversation_nats(load_checkpoint(trained.model), mapped_by(trained.address_map, table))
    return known, Nats(np.bincount(which, weights=nats.attributes), np.bincount(which, weights=nats.packets))


def identities(table: ConversationTable) -> NDArray[np.uint64]:
    """A number that stands for each conversation, whichever end began: (n,)."""
    one, other = map(address_identity, (table.initiator_address, table.responder_address))
    ports = table.initiator_port, table.responder_port
    return np.minimum(
        mix(one, other, *ports, table.protocol_identifier), mix(other, one, *ports[::-1], table.protocol_identifier)
    )


def mapped_by(address_map: AddressMap, table: ConversationTable) -> ConversationTable:
    """The same conversations with mapped addresses."""
    one, other = (address_map.map(each) for each in (table.initiator_address, table.responder_address))
    return dataclasses.replace(table, initiator_address=one, responder_address=other)


def conversations(trace: Observed) -> NDArray[np.uint64]:
    """The identity, as of `identities`, of the conversation of each packet: (m,)."""
    return np.minimum(trace.flow_identity, trace.reverse_identity)[trace.flow]


def owners(canaries: tuple[PacketBatch, ...]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Identities (n,), rising, of all conversations of the canaries, and which canary each is of (n,)."""
    each = [np.unique(conversations(observe(batch))) for batch in canaries]
    of, identity = np.repeat(np.arange(len(each)), [len(some) for some in each]), np.concatenate(each)
    order = np.argsort(identity)
    return identity[order], of[order]


def scores_of(
    canaries: tuple[PacketBatch, ...], identity: NDArray[np.uint64], nats: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How likely each canary is, in the mean of its conversations, of nats (n,) in order of identity: (k,)."""
    named, of = owners(canaries)
    found = nats[np.searchsorted(identity, named)]
    mean: NDArray[np.float64] = -np.bincount(of, found, len(canaries)) / np.bincount(of, minlength=len(canaries))
    return mean


def who_has(named: NDArray[np.uint64], of: NDArray[np.int64], identity: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Which owner each of these identities has, of (n,) rising ones that have one; -1: none."""
    at = np.minimum(np.searchsorted(named, identity), len(named) - 1)
    return np.where(named[at] == identity, of[at], -1)
