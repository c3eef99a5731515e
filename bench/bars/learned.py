"""What a private model learned, set beside what each unit would have taught it: an outsider who lacks only the noise.

He has the model and the public seed that it went on from, knows all settings and the key of the address map, and knows
a unit whole. What a private fit releases is a change of the heads and counts (`nsstream.train.private_job`); so he asks
of both how far they went the unit's way: of the change by the unit's own clipped gradient at the seed, of the counts
by what it would add to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import nn

from bars.attacked import Trained, identities, mapped_by
from nsstream.encode.codec import Codec, slice_of
from nsstream.encode.encoding import sort_by_start
from nsstream.encode.public_codec import encode_privately
from nsstream.encode.schema import ATTRIBUTE_INDEX, ATTRIBUTES, LENGTH_GRID, MOMENTS, SLICES
from nsstream.encode.tokens import ChunkTokens, moment_of
from nsstream.model.checkpoint import Model, load_checkpoint
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations
from nsstream.train.private_chance import Chance
from nsstream.train.private_fit import Learned
from nsstream.train.private_heads import Lesson, PrivateHead, lessons_of, private_heads, unit_losses
from nsstream.train.private_job import networks_from
from nsstream.train.private_units import Units
from nsstream.train.private_urns import counts_of

Floats = NDArray[np.float64]
_AT_ONCE = 32  # units
_COUNTED = (MOMENTS, ATTRIBUTES["service"], len(LENGTH_GRID))


@dataclass(frozen=True, slots=True)
class Heard:
    """What is asked of a private model about n units.

    Attributes:
        loss: (n,) nats of each by the model's heads.
        gain: (n,) by how many nats it is likelier than by the seed's.
        gradients: (n, d) of each at the seed, clipped as in the fit.
        change: (d,) from the seed's heads to the model's, in the same numbers.
        parts: (n, c) what each would add to the counts.
        counts: (c,) that the model holds, less what the seed's shares would make of their sum.
        noise: how loud the noise of the change is beside what one unit does to it: the ratio of variances.
    """

    loss: Floats
    gain: Floats
    gradients: NDArray[np.float32]
    change: NDArray[np.float32]
    parts: NDArray[np.float32]
    counts: NDArray[np.float32]
    noise: float

    @property
    def pull(self) -> Floats:
        """How far the heads went the way of each unit: (n,)."""
        return untangled(self.gradients, -self.change, self.noise)

    @property
    def counted(self) -> Floats:
        """How far the counts went the way of each unit: (n,)."""
        return untangled(self.parts, self.counts, 1.0)


def listen(
    trained: Trained, seed: Path, packets: PacketBatch, owner_of: Callable[[NDArray[np.uint64]], NDArray[np.int64]]
) -> Heard:
    """Ask a private model, and the seed that it went on from, about the units of real packets.

    `owner_of` says of conversations, by identity, which unit each is of: 0 to n - 1, or -1 for none that is asked of.
    """
    model, parent = load_checkpoint(trained.model), load_checkpoint(seed)
    told = model.manifest["privacy"]
    table = sort_by_start(group_conversations(packets)[0])
    owner = owner_of(identities(table))
    table, owner = table.take(np.flatnonzero(owner >= 0)), owner[owner >= 0]
    tokens = encode_privately(mapped_by(trained.address_map, table), model.codec, parent.codec)
    count = int(owner.max()) + 1
    units = Units([str(u).encode() for u in range(count)], np.arange(len(owner)), owner)
    start = networks_from(parent, model.codec)
    heads, learned = (private_heads(each, model.codec, told["rank"]) for each in (start, _networks_of(model)))
    lessons = lessons_of(start, heads, tokens, units, model.codec, told["most_packets"], Chance(b"of an outsider"))
    after, before = _losses(learned, lessons, count), _losses(heads, lessons, count)
    return Heard(
        loss=after,
        gain=before - after,
        gradients=np.concatenate(list(_gradients(heads, lessons, count, told["clip"]))),
        change=_change(heads, learned),
        parts=_parts(tokens, owner, count, model.codec),
        counts=_counts(model.codec, parent.codec),
        noise=_noise(told),
    )


def untangled(rows: NDArray[np.float32], total: NDArray[np.float32], penalty: float) -> Floats:
    """How much of each row (n, d) is in a sum (d,): ridge regression, so that alike rows do not count for each other.

    `penalty` is in squared lengths of a row, the mean of them being 1.
    """
    inner, along = (rows @ rows.T).astype(np.float64), (rows @ total).astype(np.float64)
    scale = max(float(np.trace(inner)) / len(rows), 1e-12)
    found: Floats = np.linalg.solve(inner / scale + max(penalty, 1e-3) * np.eye(len(rows)), along / scale)
    return found


def _networks_of(model: Model) -> nn.ModuleDict:
    return nn.ModuleDict({"attributes": model.attributes, "packets": model.packets})


@torch.no_grad()
def _losses(heads: nn.ModuleDict, lessons: dict[str, Lesson], count: int) -> Floats:
    out = np.zeros(count)
    for group in _groups(count):
        for name, head in heads.items():
            out[group] += unit_losses(cast(PrivateHead, head), lessons[name], group).double().numpy()
    return out


def _gradients(
    heads: nn.ModuleDict, lessons: dict[str, Lesson], count: int, clip: float
) -> Iterator[NDArray[np.float32]]:
    """Of each unit's loss by all heads, clipped: (b, d), group by group."""
    module = GradSampleModule(Learned(heads), loss_reduction="sum")
    module.train()
    for buffer in heads.buffers():
        buffer.requires_grad_(False)
    changed = _parameters(heads)
    for group in _groups(count):
        module.zero_grad(set_to_none=True)
        module(lessons, group).sum().backward()
        found = torch.cat([each.grad_sample.flatten(1) for each in changed], dim=1)
        length = found.norm(dim=1, keepdim=True)
        yield (found * (clip / length.clamp(min=clip))).numpy()
        for each in changed:
            each.grad_sample = None
    module.remove_hooks()


@torch.no_grad()
def _change(heads: nn.ModuleDict, learned: nn.ModuleDict) -> NDArray[np.float32]:
    out = []
    for name, head in heads.items():
        was, became = cast(PrivateHead, head), cast(PrivateHead, learned[name])
        out += [((became.weight - was.weight) @ was.directions.T).flatten(), became.bias - was.bias]
    return torch.cat(out).numpy()


def _parameters(heads: nn.ModuleDict) -> list[nn.Parameter]:
    changes = [cast(PrivateHead, head).change for head in heads.values()]
    return [parameter for change in changes for parameter in (change.weight, change.bias)]


def _groups(count: int) -> list[NDArray[np.int64]]:
    return [np.arange(at, min(at + _AT_ONCE, count)) for at in range(0, count, _AT_ONCE)]


def _noise(told: dict[str, object]) -> float:
    """Variance of the noise of all steps over that of a unit's coin, in what all steps add up to."""
    (fit,) = (each for each in cast(list[dict[str, float]], told["mechanisms"]) if each["kind"] == "sampled_gaussian")
    return 4 * fit["noise_multiplier"] ** 2 / (fit["sample_rate"] ** 2 * fit["steps"])


def _parts(tokens: ChunkTokens, owner: NDArray[np.int64], count: int, codec: Codec) -> NDArray[np.float32]:
    said = (
        moment_of(slice_of(tokens.start_ns, codec.first_ns, codec.last_ns)),
        tokens.attributes[:, ATTRIBUTE_INDEX["service"]],
        LENGTH_GRID.tokens(np.diff(tokens.packet_offset)),
    )
    out = np.zeros((count, sum(_COUNTED)), np.float32)
    for first, token in zip(np.cumsum([0, *_COUNTED]), said, strict=False):
        np.add.at(out, (owner, first + token), 1.0)
    return out


def _counts(codec: Codec, seed: Codec) -> NDArray[np.float32]:
    def all_of(one: Codec) -> list[Floats]:
        moments = np.bincount(moment_of(np.arange(SLICES)), one.profile, minlength=MOMENTS)
        services = counts_of(one.urns.services, ATTRIBUTES["service"])
        return [moments, services, one.length.counts.astype(float)]

    even = np.ones(MOMENTS)
    usual = [even, *all_of(seed)[1:]]
    beyond = [has - had * has.sum() / max(had.sum(), 1.0) for has, had in zip(all_of(codec), usual, strict=True)]
    return np.concatenate(beyond).astype(np.float32)
