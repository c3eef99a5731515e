"""Heavy hitters by sketches: how far estimates are off on a twin, beside how far they are off on its trace.

    python bench/sketches.py REAL TWIN [REAL TWIN ...] [--runs 200] [--json OUT]

REAL and TWIN are captures, or tables of flow records. Keys are destination addresses, and source addresses, counted by
packets; who has a thousandth of all is a heavy hitter. Each of four sketches (`bars.sketches`) estimates them with as
many counters as REAL has such keys. What is compared is the mean relative error of the estimates, over so many runs
with other hashes: |twin's - real's| / real's, as NetShare's paper does (SIGCOMM 2022, figure 13; 4 % for count-min, 33
to 34 % for the others). Bar: at most 10 % in the median of the pairs' figures, for each sketch. Beside it stands what
two halves of REAL, of its conversations at random, are from each other: what chance alone does. Where nobody has a
thousandth, as of a flood's sources, there is nothing to estimate, and no figure. Exit status 1 when one is missed.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from bars.sketches import SKETCHES, Counts, error_of
from bars.verdict import Bar, as_dict, at_most, finish, has_passed, show
from numpy.typing import NDArray

from nsstream.capture import PcapFileSource
from nsstream.pipeline.flow_twin import holds_flows, read_flows
from nsstream.trace import PacketBatch

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
    by_chance: dict[str, list[float]] = {name: [] for name in SKETCHES}
    for real, twin in zip(given.files[::2], given.files[1::2], strict=True):
        packets = Packets.of(real)
        halves, parts = [packets.take(half) for half in packets.halves()], (packets, Packets.of(twin))
        rows = []
        for key in ("destination", "source"):
            memory = max(FEWEST_COUNTERS, len(packets.counts(key)))
            for name, sketch in SKETCHES.items():
                off = [error_of(sketch, part.counts(key), memory, given.runs, rng) for part in parts]
                half = [error_of(sketch, part.counts(key), memory, given.runs, rng) for part in halves]
                figure, chance = between(*off), between(*half)
                rows.append(Bar(f"{name}, {key}", figure, beside=chance))
                if not np.isnan(figure):  # else there is nothing to estimate
                    found[name].append(figure)
                    by_chance[name].append(chance)
        show(f"{real.name}", rows, beside="half by half")
        figures[real.name] = as_dict(rows)
    bars = [
        at_most(f"{name}, median of {len(of)}", _median(of), LIMIT, _median(by_chance[name]))
        for name, of in found.items()
    ]
    show("relative error of heavy hitters' errors", bars, beside="half by half")
    return finish(figures | as_dict(bars), given.json, passed=has_passed(bars))


def between(real: float, other: float) -> float:
    """By what share of the real one another error differs.

    NaN where nobody is a heavy hitter really, and without end where only the other has none, or is off where the real
    estimates are exact.
    """
    if np.isnan(real) or other == real:
        return 0.0 if other == real else float("nan")
    return abs(other - real) / real if real and not np.isnan(other) else float("inf")


def _median(figures: list[float]) -> float:
    """Of those that there are; NaN, which misses a bar, where there is none."""
    known = [figure for figure in figures if not np.isnan(figure)]
    return float(np.median(known)) if known else float("nan")


@dataclass(frozen=True)
class Packets:
    """Packets, or records that stand for some.

    Attributes:
        source, destination: (n, 16) addresses.
        ports: (n,) both, added.
        weight: (n,) how many packets.
    """

    source: NDArray[np.uint8]
    destination: NDArray[np.uint8]
    ports: NDArray[np.int64]
    weight: Counts

    @classmethod
    def of(cls, path: Path) -> Self:
        """Those of a file."""
        if holds_flows(path):
            table = read_flows(path).table
            ports = np.tile(table.source_transport_port.astype(np.int64) + table.destination_transport_port, 2)
            ends = table.source_address, table.destination_address
            weight = (np.asarray(c, np.int64) for c in (table.packet_delta_count, table.reverse_packet_delta_count))
            return cls(np.concatenate(ends), np.concatenate(ends[::-1]), ports, np.concatenate(list(weight)))
        source, batches = PcapFileSource(path), []
        source.open()
        while (batch := source.read_batch()) is not None:
            batches.append(batch)
        source.close()
        all_ = PacketBatch.concatenate(batches)
        ports = all_.source_transport_port.astype(np.int64) + all_.destination_transport_port
        return cls(all_.source_address, all_.destination_address, ports, np.ones(len(all_), np.int64))

    def take(self, rows: NDArray[np.bool_]) -> Packets:
        """Some of them."""
        return Packets(self.source[rows], self.destination[rows], self.ports[rows], self.weight[rows])

    def halves(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Two halves of the conversations, at random: who goes with whom is not parted."""
        mixed = self.ports.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for address in (self.source, self.destination):
            words = np.ascontiguousarray(address).view(np.uint64).reshape(-1, 2)
            mixed += (words * np.array([0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)).sum(
                axis=1, dtype=np.uint64
            )
        first = ((mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(63) == 0
        return first, ~first

    def counts(self, key: str) -> Counts:
        """Packets of each destination, or source, that has any."""
        address = np.ascontiguousarray(getattr(self, key))
        _, which = np.unique(address.view(np.dtype((np.void, 16))).ravel(), return_inverse=True)
        counts = np.bincount(which.ravel(), self.weight).astype(np.int64)
        return counts[counts > 0]


if __name__ == "__main__":
    sys.exit(main())
