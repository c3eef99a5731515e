"""Can a conversation be told to be in a model's training? Several models, each of a random half of a trace.

    python bench/membership.py [TRACE ...] [--day YYYY-MM-DD] [--packets N] [--models K]
        [--steps N | --private EPSILON ... [--unit host --unit flow] [--from SEED | --budget 40s]] [--json OUT]

Each pair of models learns two random halves of the trace's conversations, so every conversation is in half of the
models. Each model in turn is attacked, the others being the outsider's own (shadow models: Shokri et al. 2017; their
use for calibration: Watson et al. 2022, Carlini et al. 2022 with few shadows):

- *loss*: how likely the model finds a conversation;
- *ratio*: how much more likely than the models of the other pairs do in the mean that do not have it, one of each pair
  (its own pair's other model would have just what it has not: it would be asked of members alone); of open models the
  same of conversations that every model's vocabulary has words for: what is left when a vocabulary gives
  nothing away;
- *seed*, *heads*, of private models: how much more likely than the public model that they went on from, and how far
  their heads went the conversation's way (`bars.learned`);
- *twin*: `nsstream score --privacy`'s density and nearest attacks on what each private model draws (and the first open
  one), its half against the other: no shadows and no model are needed for those, only the twin.

Private models are trained from a public one, as a user would, for each unit and epsilon. What holds for a model's half
is the other way round for the second of its pair: what sets conversations apart by themselves cancels in the mean.

Bars, with --private: the mean of the models' areas at most 0.53, for each attack, where there are conversations enough
that chance alone keeps to it (chance moves the mean by 0.015 at most, one standard deviation). Without, none: the
figures are what an open model gives away.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
from bars.attacked import (
    Promise,
    Trained,
    conversations,
    draw,
    nats_of,
    packets_of,
    promises_of,
    span_of,
    train,
    who_has,
)
from bars.learned import Heard, listen
from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, finish, has_passed, show
from numpy.typing import NDArray

from nsstream.errors import InputError
from nsstream.score.observed import observe
from nsstream.score.privacy.intervals import Auc, auc_of
from nsstream.score.privacy.membership import Membership, membership
from nsstream.trace import PacketBatch
from nsstream.train.likelihood import IMPOSSIBLE

MOST_AUC = 0.53
MOST_CHANCE = 0.015  # standard deviation of a mean of areas by chance, from which on no bar is set
MOST_ASKED = 2_000  # conversations that private models are asked of

Figures = dict[str, object]


def main() -> int:
    told = _arguments()
    if told.models < 4 or told.models % 2:
        raise InputError(f"an even number of models, 4 or more, is needed, got {told.models}")
    passed, figures = True, {}
    with tempfile.TemporaryDirectory(prefix="nsstream-membership-") as folder:
        place = Path(folder)
        promises = promises_of(told.private, told.unit, told.trace, told.seed_model, told.budget, place)
        for at, trace in enumerate(told.trace or [None]):
            packets = packets_of(trace, place, told.day, told.packets)
            halved = Halved(packets, told.models, told.seed)
            name = "bundled capture" if trace is None else trace.name
            bars: list[Bar] = []
            for number, how in enumerate(promises or [None]):
                here = place / f"{at}-{number}"
                found, rows = attack_openly(halved, told, here) if how is None else attack(halved, how, told, here)
                figures[f"{name}, {how or 'open'}"] = found | {"conversations": len(halved.known)}
                bars += rows
            title = f"{name}, {told.models} models, {len(packets):,} packets, {len(halved.known):,} conversations"
            show(title + ("" if promises else f", {told.steps} steps, open"), bars, "beside")
            figures[f"{name}, bars"] = as_dict(bars)
            passed = passed and has_passed(bars)
    return finish(figures, told.json, passed=passed if promises else None)


class Halved:
    """A trace's packets, and who of its conversations is in which model's half: `is_in` (models, n)."""

    def __init__(self, packets: PacketBatch, models: int, seed: int) -> None:
        self.packets, self.span_ns = packets, span_of(packets)
        self.known, self._which = np.unique(conversations(observe(packets)), return_inverse=True)
        self.is_in = halves_of(len(self.known), models, np.random.default_rng(seed))

    def half(self, model: int) -> PacketBatch:
        """What a model learns."""
        return self.packets.take(self.is_in[model][self._which])

    def twins_gift(self, model: int, twin: PacketBatch, seed: int) -> Membership | None:
        """What a model's twin tells of its half, beside the half that it never saw."""
        others = self.packets.take(~self.is_in[model][self._which])
        return membership(observe(self.half(model)), observe(twin), observe(others), np.random.default_rng(seed))


def attack(halved: Halved, how: Promise, told: argparse.Namespace, place: Path) -> tuple[Figures, list[Bar]]:
    """Train private models of a trace's halves and attack them; gives all figures, and the bars."""
    asked = np.sort(np.random.default_rng(told.seed).permutation(len(halved.known))[:MOST_ASKED])
    owner_of = partial(who_has, halved.known[asked], np.arange(len(asked)))
    heard: list[Heard] = []
    by_twin: list[Membership] = []
    for i in range(told.models):
        trained = train(halved.half(i), halved.span_ns, place / str(i), how)
        heard.append(listen(trained, how.seed, halved.packets, owner_of))
        gift = halved.twins_gift(i, draw(trained, place / str(i) / "twin.pcap", told.seed), told.seed)
        by_twin += [] if gift is None else [gift]
    is_in = halved.is_in[:, asked]
    loss, ratio = areas(np.array([each.loss for each in heard]), is_in)
    found = {"loss": loss, "ratio to shadows": ratio}
    found["likelihood beside the seed's"] = _areas_of([each.gain for each in heard], is_in)
    found["how the heads went"] = _areas_of([each.pull for each in heard], is_in)
    chance = chance_of(len(asked), told.models)
    bars = [_mean_bar(f"{how}: AUC, {name}", areas_, chance) for name, areas_ in found.items()]
    for name in ("nearest", "density") if by_twin else ():
        few = min((each.member_count, each.other_count) for each in by_twin)
        found[f"{name} in the twin"] = [getattr(each, name) for each in by_twin]
        blind = np.mean([getattr(each, f"{name}_blind").value for each in by_twin])
        row = f"{how}: AUC, {name} in the twin"
        twin_chance = chance_of(sum(few), len(by_twin))
        bars.append(_mean_bar(row, found[f"{name} in the twin"], twin_chance, f"; without {blind:.3f}"))
    return {"epsilon": how.epsilon, "unit": how.unit, "chance": chance} | {
        name: [area.as_dict() for area in areas_] for name, areas_ in found.items()
    }, bars


def attack_openly(halved: Halved, told: argparse.Namespace, place: Path) -> tuple[Figures, list[Bar]]:
    """Train open models of a trace's halves and attack them; gives all figures, and rows without bars."""
    trained = [
        train(halved.half(i), halved.span_ns, place / str(i), ("--steps", told.steps, "--seed", told.seed + i))
        for i in range(told.models)
    ]
    nats, is_in = np.array([_nats(model, halved.packets, halved.known) for model in trained]), halved.is_in  # (K, n)
    loss, ratio = areas(nats, is_in)
    impossible = nats > IMPOSSIBLE
    has_words = ~impossible.any(axis=0)
    among = areas(nats[:, has_words], is_in[:, has_words])[1]
    by_twin = halved.twins_gift(0, draw(trained[0], place / "twin.pcap", told.seed), told.seed)
    rows = [
        *_rows("loss", loss),
        *_rows("ratio to shadows", ratio),
        Bar("others that a model has no words for, of others", float(impossible[~is_in].mean())),
        *_rows("ratio, of what all have words for", among),
    ]
    if by_twin is not None:
        for name in ("nearest", "density"):
            area, blind = getattr(by_twin, name), getattr(by_twin, f"{name}_blind")
            beside = f"{area.low:.3f} to {area.high:.3f}; without the twin {blind.value:.3f}"
            rows.append(Bar(f"AUC, {name} in the first one's twin", area.value, beside=beside))
    return {
        "steps": told.steps,
        "loss": [area.as_dict() for area in loss], "ratio": [area.as_dict() for area in ratio],
        "ratio_with_words": [area.as_dict() for area in among], "impossible": float(impossible[~is_in].mean()),
        "twin": by_twin and by_twin.as_dict(),
    }, rows  # fmt: skip


def halves_of(count: int, models: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Who is in which model's half: (models, count); the second of each pair has what the first has not."""
    out = np.empty((models, count), bool)
    for pair in range(0, models, 2):
        out[pair] = rng.permutation(count) < count // 2
        out[pair + 1] = ~out[pair]
    return out


def areas(nats: NDArray[np.float64], is_in: NDArray[np.bool_]) -> tuple[list[Auc], list[Auc]]:
    """Of each model, how well its members are told by its loss, and by its loss beside the shadows': from (K, n)."""
    beyond = []
    for target in range(len(nats)):
        others = np.arange(len(nats)) // 2 != target // 2  # of each other pair just one model lacks it, member or not
        outside = np.where(is_in[others], 0.0, nats[others])
        beyond.append(outside.sum(axis=0) / (len(nats) // 2 - 1) - nats[target])
    return _areas_of(list(-nats), is_in), _areas_of(beyond, is_in)


def chance_of(count: int, models: int) -> float:
    """Standard deviation, by chance alone, of the mean area of so many models; of conversations half of which are in.

    Of one area it is that of the statistic of Mann and Whitney (1947) where members and others look alike.
    """
    half = max(count // 2, 1)
    return math.sqrt((2 * half + 1) / (12 * half * half) / models)


def _areas_of(scores: Sequence[NDArray[np.float64]], is_in: NDArray[np.bool_]) -> list[Auc]:
    return [auc_of(score[member], score[~member]) for score, member in zip(scores, is_in, strict=True)]


def _nats(trained: Trained, packets: PacketBatch, known: NDArray[np.uint64]) -> NDArray[np.float64]:
    identity, nats = nats_of(trained, packets)
    if not np.array_equal(identity, known):
        raise InputError(f"{len(known)} conversations were planned and {len(identity)} scored")
    return nats.total


def _mean_bar(name: str, found: list[Auc], chance: float, beside: str = "") -> Bar:
    mean, worst = float(np.mean([area.value for area in found])), max(found, key=lambda area: area.value)
    told = f"chance {chance:.3f}; worst {worst.value:.3f}, from {worst.low:.3f}{beside}"
    return at_most(name, mean, MOST_AUC, told) if chance <= MOST_CHANCE else Bar(f"{name}: too few", mean, beside=told)


def _rows(name: str, found: list[Auc]) -> list[Bar]:
    values = [area.value for area in found]
    worst = found[int(np.argmax(values))]
    return [
        Bar(f"AUC, {name}, mean of the models", float(np.mean(values))),
        Bar(f"AUC, {name}, the worst model", worst.value, beside=f"{worst.low:.3f} to {worst.high:.3f}"),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="*")
    parser.add_argument("--day", type=date.fromisoformat, help="take only this day (UTC) of each trace")
    parser.add_argument("--packets", type=int, help="take only the first so many of each trace")
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300, help="of open models")
    parser.add_argument("--private", type=float, metavar="EPSILON", action="append", default=[])
    parser.add_argument("--unit", choices=("host", "flow"), action="append", help="that is protected; may be repeated")
    parser.add_argument("--from", type=Path, dest="seed_model", metavar="SEED", help="the public model to go on from")
    parser.add_argument("--budget", default="40s", help="of the public model, where none is given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    told.unit = told.unit or ["host"]
    return told


if __name__ == "__main__":
    raise SystemExit(run_main(main))
