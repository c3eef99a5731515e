"""Heavy hitters by sketches: how far estimates are off on a twin, beside how far they are off on its trace.

    python bench/sketches.py REAL TWIN [REAL TWIN ...] [--runs 200] [--json OUT]

REAL and TWIN are captures, or tables of flow records. Keys are destination addresses, and source addresses, counted by
packets; who has a thousandth of all is a heavy hitter. Each of four sketches (`bars.sketches`) estimates them with as
many counters as REAL has such keys. What is compared is the mean relative error of the estimates, over so many runs
with other hashes: |twin's - real's| / real's, as NetShare's paper does (SIGCOMM 2022, figure 13; 4 % for count-min, 33
to 34 % for the others). Bar: at most 10 % in the median of the pairs' figures, for each sketch. Exit status 1 when one
is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from bars.sketches import SKETCHES, Counts, error_of
from bars.verdict import Bar, as_dict, at_most, finish, has_passed, show
from numpy.typing import NDArray

from nsstream.capture import PcapFileSource
from nsstream.pipeline.flow_twin import holds_flows, read_flows

LIMIT = 0.10
FEWEST_COUNTERS = 160  # of a sketch: eight a row of UnivMon's


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="REAL TWIN")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args()
    if len(given.files) % 2:
        parser.error("each REAL needs its TWIN")
    rng, figures = np.random.default_rng(given.seed), dict[str, object]()
    found: dict[str, list[float]] = {name: [] for name in SKETCHES}
    for real, twin in zip(given.files[::2], given.files[1::2], strict=True):
        both = counts_of(real), counts_of(twin)
        rows = []
        for key in ("destination", "source"):
            memory = max(FEWEST_COUNTERS, len(both[0][key]))
            for name, sketch in SKETCHES.items():
                off = [error_of(sketch, counts[key], memory, given.runs, rng) for counts in both]
                found[name].append(abs(off[1] - off[0]) / off[0])
                rows.append(Bar(f"{name}, {key}", found[name][-1], beside=f"{off[0]:.4f}, twin {off[1]:.4f}"))
        show(f"{real.name}", rows, beside="off on the real")
        figures[real.name] = as_dict(rows)
    bars = [at_most(f"{name}, median of {len(of)}", float(np.median(of)), LIMIT) for name, of in found.items()]
    show("relative error of heavy hitters' errors", bars)
    return finish(figures | as_dict(bars), given.json, passed=has_passed(bars))


def counts_of(path: Path) -> dict[str, Counts]:
    """Packets of each destination address, and of each source address."""
    if holds_flows(path):
        table = read_flows(path).table
        forward, back = (np.asarray(c, np.int64) for c in (table.packet_delta_count, table.reverse_packet_delta_count))
        to = np.concatenate([table.destination_address, table.source_address])
        of = np.concatenate([table.source_address, table.destination_address])
        return {"destination": _counted(to, np.r_[forward, back]), "source": _counted(of, np.r_[forward, back])}
    source, to, of = PcapFileSource(path), [], []
    source.open()
    while (batch := source.read_batch()) is not None:
        to.append(batch.destination_address)
        of.append(batch.source_address)
    source.close()
    packets = np.ones(sum(map(len, to)), np.int64)
    return {"destination": _counted(np.concatenate(to), packets), "source": _counted(np.concatenate(of), packets)}


def _counted(addresses: NDArray[np.uint8], packets: Counts) -> Counts:
    keys = np.ascontiguousarray(addresses).view(np.dtype((np.void, addresses.shape[1]))).ravel()
    _, which = np.unique(keys, return_inverse=True)
    counts = np.bincount(which.ravel(), packets).astype(np.int64)
    return counts[counts > 0]


if __name__ == "__main__":
    sys.exit(main())
