"""What one training run gives away of canaries that were planted in it: an audited epsilon beside the claimed one.

    python bench/audit.py [TRACE] [--canaries N] [--conversations K] [--steps N] [--private EPSILON] [--json OUT]

Made-up hosts (`nsstream.score.privacy.canaries`) are planted in the trace, each by a fair coin; a model learns the
whole as one chunk; then each canary is scored by how likely the model finds it or its packets, by how near a twin that
it draws comes to it, and by whether its address, as the map made it, is in that twin. From the scores follows what
epsilon is at least (Steinke, Nasr, Jagielski 2023, theorem 3.1), with 95 % confidence in all together, and the exposure
of the planted ones (Carlini et al. 2019). With one conversation a canary stands for the unit *flow*, with more for
*host*. Without --private nothing is claimed and no bar is set for epsilon.

Bars: no planted canary is in the twin size by size; with --private EPSILON, no audited figure is above EPSILON.
Exit status 1 when one is missed. The trace is the bundled capture unless one is named.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bars.attacked import draw, nats_of, packets_of, scores_of, span_of, train
from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, equal, finish, has_passed, show
from numpy.typing import NDArray

from nsstream.score.observed import observe
from nsstream.score.privacy.audit import audit
from nsstream.score.privacy.canaries import exposure, make_canaries, named, nearness, reproduced
from nsstream.score.privacy.intervals import auc_of

DOUBT = 0.05  # of all scores together
ROWS_OF = {
    "likelihood": "by the model's likelihood",
    "packets": "by that of packets alone",
    "nearness": "by nearness in the twin",
    "name": "by mapped addresses in the twin",
}


def main() -> int:
    told = _arguments()
    trace_name, packets = packets_of(told.trace)
    span_ns = span_of(packets)
    canaries = make_canaries(told.canaries, told.conversations, span_ns, np.random.default_rng(told.seed))
    included = canaries.included
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        planted = canaries.planted_in(packets)
        trained = train(planted, span_ns, place, steps=told.steps, seed=told.seed, private=told.private)
        identity, nats = nats_of(trained, canaries.all_in(packets))
        twin = observe(draw(trained, place / "twin.pcap", told.seed))
        is_named = named(canaries.packets, twin, trained.address_map.map)
    scores = {
        "likelihood": scores_of(canaries.packets, identity, nats.total),
        "packets": scores_of(canaries.packets, identity, nats.packets),
        "nearness": nearness(canaries.packets, twin),
        "name": is_named.astype(np.float64),
    }
    given_back = reproduced(canaries.packets, twin)
    figures: dict[str, object] = {
        "claimed": told.private, "steps": told.steps, "conversations": told.conversations,
        "included": int(included.sum()), "named": int(is_named[included].sum()),
    }  # fmt: skip
    bars = [
        Bar("canaries planted", int(included.sum()), beside=f"of {len(included)}"),
        equal("of them in the twin size by size", int(given_back[included].sum()), 0),
        Bar("of them with their mapped address in the twin", int(is_named[included].sum())),
    ]
    for name, values in scores.items():
        found, by = audit(values, included, told.delta, 1 - DOUBT / len(scores)), ROWS_OF[name]
        area, bits = auc_of(values[included], values[~included]), _exposures(values, included)
        figures[name] = found.as_dict() | area.as_dict() | {"exposure": {"mean": bits.mean(), "most": bits.max()}}
        guesses = f"{found.right_count} of {found.guess_count} guessed"
        row = f"epsilon at least, {by}"
        bars += [
            Bar(row, found.epsilon, beside=guesses) if told.private is None
            else at_most(row, found.epsilon, told.private, guesses),
            Bar(f"AUC, {by}", area.value, beside=f"{area.low:.3f} to {area.high:.3f}"),
            Bar(f"exposure in bits, mean, {by}", float(bits.mean()), beside=f"at most {bits.max():.2f}"),
        ]  # fmt: skip
    claim = "open mode: nothing is claimed" if told.private is None else f"claimed epsilon {told.private:g}"
    unit = "flow" if told.conversations == 1 else f"host of {told.conversations} conversations"
    show(f"{trace_name}, {told.steps} steps, unit {unit}, {claim}", bars, beside="beside")
    return finish(as_dict(bars) | figures, told.json, passed=has_passed(bars))


def _exposures(values: NDArray[np.float64], included: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.array([exposure(value, values[~included]) for value in values[included]])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?")
    parser.add_argument("--canaries", type=int, default=256)
    parser.add_argument("--conversations", type=int, default=1, help="of each canary")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--private", type=float, metavar="EPSILON", help="train in private mode, and claim this")
    parser.add_argument("--delta", type=float, default=1e-5, help="of what is claimed, and of what is audited")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(run_main(main))
