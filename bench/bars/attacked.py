"""What attacks on models need: a chunk of given packets, a model trained on it, what that says of conversations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bars.runs import run_nsstream
from bars.traces import lab_capture
from nsstream.capture import read_trace
from nsstream.chunk import ChunkStore
from nsstream.chunk.chunk import Chunk
from nsstream.chunk.interval import SECOND_NS
from nsstream.counters import Tally
from nsstream.encode.address_map import AddressMap
from nsstream.encode.encoding import sort_by_start
from nsstream.model.checkpoint import load_checkpoint
from nsstream.pipeline.address_keys import key_beside
from nsstream.score.observed import Observed, address_identity, mix, observe
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations
from nsstream.train.likelihood import Nats, conversation_nats


@dataclass(frozen=True, slots=True)
class Trained:
    """A model of one chunk, and the address map that it was trained with."""

    model: Path
    address_map: AddressMap


def packets_of(trace: Path | None) -> tuple[str, PacketBatch]:
    """The name of a trace, the bundled capture where there is none, and its packets in time order."""
    if trace is None:
        with lab_capture() as lab:
            return packets_of(lab)
    packets, _ = read_trace(trace)
    return trace.name, packets.take(np.argsort(packets.observation_time_ns, kind="stable"))


def span_of(packets: PacketBatch) -> tuple[int, int]:
    """The whole seconds that packets lie in."""
    first, last = int(packets.observation_time_ns.min()), int(packets.observation_time_ns.max())
    return first // SECOND_NS * SECOND_NS, (last // SECOND_NS + 1) * SECOND_NS


def train(
    packets: PacketBatch, span_ns: tuple[int, int], place: Path, *, steps: int, seed: int, private: float | None
) -> Trained:
    """Train on a chunk of these packets, which are in time order, as a user would; `private` is an epsilon."""
    tally = Tally(offered=len(packets), kept=len(packets))
    chunk = ChunkStore(place / "chunks").write(Chunk.of(*span_ns, packets, tally, is_partial=False))
    models = place / "models"
    given = [] if private is None else ["--private", private]
    run_nsstream("train", chunk, "-o", models, "--steps", steps, "--seed", seed, *given)
    (model,) = (path for path in models.iterdir() if path.is_dir() and not path.name.startswith("."))
    return Trained(model, AddressMap(key_beside(models, b"")))


def draw(trained: Trained, output: Path, seed: int) -> PacketBatch:
    """The packets of the model's twin."""
    run_nsstream("draw", trained.model, "-o", output, "--seed", seed)
    return read_trace(output)[0]


def nats_of(trained: Trained, packets: PacketBatch) -> tuple[NDArray[np.uint64], Nats]:
    """Identity (n,) and negative log-likelihoods of each conversation of real packets, in order of identity.

    What has several parts (later fragments) is one conversation.
    """
    table = sort_by_start(group_conversations(packets)[0])
    ends = table.initiator_address, table.responder_address
    one, other = map(address_identity, ends)
    ports = table.initiator_port, table.responder_port
    identity = np.minimum(
        mix(one, other, *ports, table.protocol_identifier), mix(other, one, *ports[::-1], table.protocol_identifier)
    )
    mapped = [trained.address_map.map(addresses) for addresses in ends]
    table = dataclasses.replace(table, initiator_address=mapped[0], responder_address=mapped[1])
    known, which = np.unique(identity, return_inverse=True)
    nats = conversation_nats(load_checkpoint(trained.model), table)
    return known, Nats(np.bincount(which, weights=nats.attributes), np.bincount(which, weights=nats.packets))


def conversations(trace: Observed) -> NDArray[np.uint64]:
    """The identity, as of `nats_of`, of the conversation of each packet: (m,)."""
    return np.minimum(trace.flow_identity, trace.reverse_identity)[trace.flow]


def scores_of(
    canaries: tuple[PacketBatch, ...], identity: NDArray[np.uint64], nats: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How likely each canary is, in the mean of its conversations, of nats (n,) in order of identity: (k,)."""
    return np.array(
        [-nats[np.searchsorted(identity, np.unique(conversations(observe(batch))))].mean() for batch in canaries]
    )
