"""What one training run gives away of canaries that were planted in it: an audited epsilon beside the claimed one.

    python bench/audit.py [TRACE ...] [--day YYYY-MM-DD] [--packets N] [--canaries N] [--conversations K]
        [--steps N | --private EPSILON ... [--unit host --unit flow] [--from SEED | --budget 40s]] [--json OUT]

Made-up hosts (`nsstream.score.privacy.canaries`) are planted in the trace, each by a fair coin; a model learns the
whole as one chunk; then each canary is scored, and from the scores follows what epsilon is at least (Steinke, Nasr,
Jagielski 2023, theorem 3.1), with 95 % confidence in all scores of a run together, and the exposure of the planted ones
(Carlini et al. 2019). Scores by the twin: how near it comes to a canary, and whether the canary's address, as the map
made it, is in it. By an open model: how likely it finds a canary, or its packets. With --private, which trains from a
public model as a user would, once for each unit and epsilon: how much likelier than the public model does, and how far
heads and counts went the canary's way (`bars.learned`).

A canary of the unit *flow* is one conversation, of *host* --conversations of them. Without --private nothing is
claimed and no bar is set for epsilon.

Bars: no planted canary is in the twin size by size; with --private EPSILON, no audited figure is above EPSILON.
Exit status 1 when one is missed. The trace is the bundled capture unless some are named.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
from bars.attacked import (
    Promise,
    Trained,
    draw,
    nats_of,
    owners,
    packets_of,
    promises_of,
    scores_of,
    span_of,
    train,
    who_has,
)
from bars.learned import listen
from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, equal, finish, has_passed, show
from numpy.typing import NDArray

from nsstream.score.observed import observe
from nsstream.score.privacy.audit import audit
from nsstream.score.privacy.canaries import MOST_SPAN_S, Canaries, exposure, make_canaries, named, nearness, reproduced
from nsstream.score.privacy.intervals import auc_of
from nsstream.trace import PacketBatch

DOUBT = 0.05  # of all scores of a run together
LEAST_SPAN_S = 2 * round(MOST_SPAN_S)  # of a chunk that canaries are planted in
DELTA = 1e-5
ROWS_OF = {
    "likelihood": "by the model's likelihood",
    "packets": "by that of packets alone",
    "gain": "by likelihood beside the seed's",
    "heads": "by how the heads went",
    "counts": "by how the counts went",
    "nearness": "by nearness in the twin",
    "name": "by mapped addresses in the twin",
}


def main() -> int:
    told = _arguments()
    passed, figures = True, {}
    with tempfile.TemporaryDirectory(prefix="nsstream-audit-") as folder:
        place = Path(folder)
        promises = promises_of(told.private, told.unit, told.trace, told.seed_model, told.budget, place)
        for at, trace in enumerate(told.trace or [None]):
            packets = packets_of(trace, place, told.day, told.packets)
            name = "bundled capture" if trace is None else trace.name
            bars: list[Bar] = []
            for number, how in enumerate(promises or [None]):
                found, rows = attack(packets, how, told, place / f"{at}-{number}")
                figures[f"{name}, {how or 'open'}"] = found | {"packets": len(packets)}
                bars += rows
            title = f"{name}, {len(packets):,} packets, {told.canaries} canaries"
            show(title + ("" if promises else f", {told.steps} steps, open: nothing is claimed"), bars, beside="beside")
            figures[f"{name}, bars"] = as_dict(bars)
            passed = passed and has_passed(bars)
    return finish(figures, told.json, passed=passed)


def attack(
    packets: PacketBatch, how: Promise | None, told: argparse.Namespace, place: Path
) -> tuple[dict[str, object], list[Bar]]:
    """Plant, train and score once; gives all figures, and the bars."""
    span_ns = span_of(packets, LEAST_SPAN_S)
    conversations = told.conversations if how is None or how.unit == "host" else 1
    canaries = make_canaries(told.canaries, conversations, span_ns, np.random.default_rng(told.seed))
    included = canaries.included
    openly = ("--steps", told.steps, "--seed", told.seed)
    trained = train(canaries.planted_in(packets), span_ns, place, how or openly)
    twin = observe(draw(trained, place / "twin.pcap", told.seed))
    is_named = named(canaries.packets, twin, trained.address_map.map)
    scores = by_model(trained, how, canaries, packets) | {
        "nearness": nearness(canaries.packets, twin),
        "name": is_named.astype(np.float64),
    }
    given_back = reproduced(canaries.packets, twin)
    figures: dict[str, object] = {
        "claimed": None if how is None else how.epsilon, "conversations": conversations,
        "included": int(included.sum()), "reproduced": int(given_back[included].sum()),
        "named": int(is_named[included].sum()),
    }  # fmt: skip
    first = "" if how is None else f"{how}: "
    planted = f"of {included.sum()} planted; {is_named[included].sum()} by mapped address"
    bars = [equal(f"{first}canaries in the twin size by size", int(given_back[included].sum()), 0, planted)]
    for name, values in scores.items():
        found = audit(values, included, DELTA if how is None else how.delta, 1 - DOUBT / len(scores))
        area, bits = auc_of(values[included], values[~included]), _exposures(values, included)
        figures[name] = found.as_dict() | area.as_dict() | {"exposure": {"mean": bits.mean(), "most": bits.max()}}
        beside = f"AUC {area.value:.3f} ({area.low:.3f} to {area.high:.3f}), exposure {bits.mean():.2f} bits"
        row = f"{first}epsilon at least, {ROWS_OF[name]}"
        bars.append(
            Bar(row, found.epsilon, beside=beside) if how is None
            else at_most(row, found.epsilon, how.epsilon, beside)
        )  # fmt: skip
    return figures, bars


def by_model(
    trained: Trained, how: Promise | None, canaries: Canaries, packets: PacketBatch
) -> dict[str, NDArray[np.float64]]:
    """The canaries' scores (k,) by name, of whom has the model itself."""
    if how is None:
        identity, nats = nats_of(trained, canaries.all_in(packets))
        return {
            "likelihood": scores_of(canaries.packets, identity, nats.total),
            "packets": scores_of(canaries.packets, identity, nats.packets),
        }
    heard = listen(
        trained, how.seed, canaries.all_in(PacketBatch.empty(0)), partial(who_has, *owners(canaries.packets))
    )
    return {"gain": heard.gain, "heads": heard.pull, "counts": heard.counted}


def _exposures(values: NDArray[np.float64], included: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.array([exposure(value, values[~included]) for value in values[included]])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="*")
    parser.add_argument("--day", type=date.fromisoformat, help="take only this day (UTC) of each trace")
    parser.add_argument("--packets", type=int, help="take only the first so many of each trace")
    parser.add_argument("--canaries", type=int, default=256)
    parser.add_argument("--conversations", type=int, help="of each canary; a host's are 8 unless it is given, openly 1")
    parser.add_argument("--steps", type=int, default=300, help="of an open training")
    parser.add_argument(
        "--private", type=float, metavar="EPSILON", action="append", default=[],
        help="train in private mode, and claim this; may be repeated",
    )  # fmt: skip
    parser.add_argument("--unit", choices=("host", "flow"), action="append", help="that is protected; may be repeated")
    parser.add_argument("--from", type=Path, dest="seed_model", metavar="SEED", help="the public model to go on from")
    parser.add_argument("--budget", default="40s", help="of the public model, where none is given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    told.unit = told.unit or ["host"]
    told.conversations = told.conversations or (8 if told.private else 1)
    return told


if __name__ == "__main__":
    raise SystemExit(run_main(main))
