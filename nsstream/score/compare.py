"""From two traces to a Score: distances, their floors, consistency, copying and the detector, in that order.

The floor comes from held-out real traffic where there is some, else from two random halves of the real trace's
conversations, as the mean of several splits: one split alone can be lucky. Given the same traces and seed, the result
is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from nsstream.capture import read_trace
from nsstream.errors import InputError
from nsstream.score import measures
from nsstream.score.consistency import consistency
from nsstream.score.copying import copying
from nsstream.score.detector import detect
from nsstream.score.observed import Observed, halves, observe
from nsstream.score.result import Detector, Measure, Score, Shares, mean
from nsstream.trace import PacketBatch

FLOOR_SPLITS: Final = 5
_GROUPS: Final = {"marginal": measures.marginal, "structure": measures.structure, "volume": measures.volume}


def score_traces(real: Path, synthetic: Path, held_out: Path | None = None, seed: int = 0) -> Score:
    """Score the synthetic trace against the real one; `held_out` is other real traffic of the same network.

    Raises InputError if a trace cannot be read, has no IP packet, or (the real one) fewer than two conversations.
    """
    real_packets, synthetic_packets = read_packets(real), read_packets(synthetic)
    held_out_packets = None if held_out is None else read_packets(held_out)
    try:
        return score_packets(real_packets, synthetic_packets, held_out_packets, np.random.default_rng(seed))
    except ValueError as err:
        raise InputError(f"{real}: cannot be scored against: {err}") from err


def score_packets(
    real: PacketBatch, synthetic: PacketBatch, held_out: PacketBatch | None, rng: np.random.Generator
) -> Score:
    """Score packets against packets; raises ValueError where there is too little to compare."""
    a, b = observe(real), observe(synthetic)
    pairs = [halves(a, rng) for _ in range(FLOOR_SPLITS)] if held_out is None else [(a, observe(held_out))]
    found = detect(a, b, rng)
    found_floor = detect(*pairs[0], rng)
    copied = [copying(one, other) for one, other in pairs]
    return Score(
        packet_count=(len(real), len(synthetic)),
        flow_count=(len(a.flow_identity), len(b.flow_identity)),
        octet_count=(_octets(real), _octets(synthetic)),
        measures=_distances(a, b, pairs),
        consistency=Shares(consistency(b), consistency(a)),
        copying=Shares(copying(a, b), {name: float(np.mean([c[name] for c in copied])) for name in copied[0]}),
        detector=Detector(
            auc=found.auc if found else None,
            floor=found_floor.auc if found_floor else None,
            told_by=found.told_by if found else (),
        ),
    )


def _distances(real: Observed, synthetic: Observed, pairs: Sequence[tuple[Observed, Observed]]) -> tuple[Measure, ...]:
    out: list[Measure] = []
    for group, measure in _GROUPS.items():
        floors = [measure(one, other) for one, other in pairs]
        for name, value in measure(real, synthetic).items():
            out.append(Measure(group, name, value, mean(floor[name] for floor in floors)))
    return tuple(out)


def _octets(packets: PacketBatch) -> int:
    return int(packets.ip_total_length.sum(dtype=np.int64))


def read_packets(path: Path) -> PacketBatch:
    """The packets of a capture; raises InputError if it cannot be read, or has no IP packet."""
    packets, tally = read_trace(path)
    if not len(packets):
        raise InputError(f"{path}: no IP packet in {tally.offered} records; nothing to score")
    return packets
