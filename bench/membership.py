"""Can a conversation be told to be in a model's training? Several models, each of a random half of a trace.

    python bench/membership.py [TRACE] [--models K] [--steps N] [--private EPSILON] [--json OUT]

Each pair of models learns two random halves of the trace's conversations, so every conversation is in half of the
models. Each model in turn is attacked, the others being the outsider's own (shadow models: Shokri et al. 2017; their
use for calibration: Watson et al. 2022, Carlini et al. 2022 with few shadows):

- *loss*: how likely the model finds a conversation;
- *ratio*: how much more likely than the models do in the mean that are known not to have it, as many for each; the
  same of conversations that every model's vocabulary has words for: what is left when a vocabulary gives nothing away;
- *twin*: `nsstream score --privacy`'s density and nearest attacks on what the first model draws, its half against the
  other: no shadows and no model are needed for those, only the twin.

Bars: with --private, every area at most 0.53; without, none: the figures are what an open model gives away.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bars.attacked import Trained, conversations, draw, nats_of, packets_of, span_of, train
from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, finish, has_passed, show
from numpy.typing import NDArray

from nsstream.errors import InputError
from nsstream.score.observed import observe
from nsstream.score.privacy.intervals import Auc, auc_of
from nsstream.score.privacy.membership import membership
from nsstream.trace import PacketBatch
from nsstream.train.likelihood import IMPOSSIBLE

MOST_AUC = 0.53


def main() -> int:
    told = _arguments()
    if told.models < 4 or told.models % 2:
        raise InputError(f"an even number of models, 4 or more, is needed, got {told.models}")
    trace_name, packets = packets_of(told.trace)
    of_packet = conversations(observe(packets))
    known, which = np.unique(of_packet, return_inverse=True)
    is_in = halves_of(len(known), told.models, np.random.default_rng(told.seed))
    with tempfile.TemporaryDirectory() as folder:
        trained = [
            train(
                packets.take(row[which]), span_of(packets), Path(folder) / str(i), steps=told.steps,
                seed=told.seed + i, private=told.private,
            )
            for i, row in enumerate(is_in)
        ]  # fmt: skip
        nats = np.array([_nats(model, packets, known) for model in trained])  # (K, n)
        twin = draw(trained[0], Path(folder) / "twin.pcap", told.seed)
    loss, ratio = areas(nats, is_in)
    impossible = nats > IMPOSSIBLE
    has_words = ~impossible.any(axis=0)
    among = areas(nats[:, has_words], is_in[:, has_words])[1]
    by_twin = membership(
        observe(packets.take(is_in[0][which])), observe(twin), observe(packets.take(is_in[1][which])),
        np.random.default_rng(told.seed),
    )  # fmt: skip
    rows = [
        *_rows("loss", loss, told.private),
        *_rows("ratio to shadows", ratio, told.private),
        Bar("others that a model has no words for, of others", float(impossible[~is_in].mean())),
        *_rows("ratio, of what all have words for", among, told.private),
    ]
    if by_twin is not None:
        for name in ("nearest", "density"):
            area, blind = getattr(by_twin, name), getattr(by_twin, f"{name}_blind")
            beside = f"{area.low:.3f} to {area.high:.3f}; without the twin {blind.value:.3f}"
            rows.append(_bar(f"AUC, {name} in the first one's twin", area.value, told.private, beside))
    mode = "open" if told.private is None else f"private, epsilon {told.private:g}"
    show(
        f"{trace_name}, {told.models} models, {told.steps} steps, {len(known):,} conversations, {mode}", rows, "beside"
    )
    figures = {
        "private": told.private, "steps": told.steps, "conversations": len(known),
        "loss": [area.as_dict() for area in loss], "ratio": [area.as_dict() for area in ratio],
        "ratio_with_words": [area.as_dict() for area in among], "impossible": float(impossible[~is_in].mean()),
        "twin": by_twin and by_twin.as_dict(),
    }  # fmt: skip
    return finish(as_dict(rows) | figures, told.json, passed=None if told.private is None else has_passed(rows))


def halves_of(count: int, models: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Who is in which model's half: (models, count); the second of each pair has what the first has not."""
    out = np.empty((models, count), bool)
    for pair in range(0, models, 2):
        out[pair] = rng.permutation(count) < count // 2
        out[pair + 1] = ~out[pair]
    return out


def areas(nats: NDArray[np.float64], is_in: NDArray[np.bool_]) -> tuple[list[Auc], list[Auc]]:
    """Of each model, how well its members are told by its loss, and by its loss beside the shadows': from (K, n)."""
    loss, ratio = [], []
    for target in range(len(nats)):
        member = is_in[target]
        shadows = [i for i in range(len(nats)) if i != target]
        outside = np.array([np.where(is_in[i], np.nan, nats[i]) for i in shadows])
        shown = np.sort(np.where(np.isnan(outside), np.inf, np.arange(len(shadows))[:, None]), axis=0)
        few = shown[: len(nats) // 2 - 1].astype(np.int64)  # as many shadows for members as for others
        usual = np.take_along_axis(outside, few, axis=0).mean(axis=0)
        loss.append(auc_of(-nats[target][member], -nats[target][~member]))
        beyond = usual - nats[target]
        ratio.append(auc_of(beyond[member], beyond[~member]))
    return loss, ratio


def _nats(trained: Trained, packets: PacketBatch, known: NDArray[np.uint64]) -> NDArray[np.float64]:
    identity, nats = nats_of(trained, packets)
    if not np.array_equal(identity, known):
        raise InputError(f"{len(known)} conversations were planned and {len(identity)} scored")
    return nats.total


def _rows(name: str, found: list[Auc], private: float | None) -> list[Bar]:
    values = [area.value for area in found]
    worst = found[int(np.argmax(values))]
    return [
        Bar(f"AUC, {name}, mean of the models", float(np.mean(values))),
        _bar(f"AUC, {name}, the worst model", worst.value, private, f"{worst.low:.3f} to {worst.high:.3f}"),
    ]


def _bar(name: str, value: float, private: float | None, beside: str) -> Bar:
    return Bar(name, value, beside=beside) if private is None else at_most(name, value, MOST_AUC, beside)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?")
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--private", type=float, metavar="EPSILON")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(run_main(main))
