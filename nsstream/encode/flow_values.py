"""Counts of a flow record as tokens: frequent values exactly, all others by logarithmic bins.

A sampling exporter multiplies what it counts, and clocks tick: where all values are multiples of a quantum, they are
told in quanta, and so are those that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.bins import Bins, Grid
from nsstream.encode.vocabulary import Vocabulary
from nsstream.trace.flows import FlowTable

MARK_COLUMNS: Final = (
    "ip_class_of_service", "flow_end_reason", "flow_direction", "source_prefix_length", "destination_prefix_length",
    "vlan_id", "sampling_interval", "observation_domain_id", "time_quality",
)  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """Frequent values, and bins of the rest. A token is a rate's, then an atom's, then a bin's.

    Attributes:
        rates: whole values of value / per that are frequent; of no capacity where there is no `per`.
        atoms: of the other values, in quanta.
        bins: of the rest: in quanta, or thousandths of value / per.
        quantum: what all values are multiples of.
        most: the largest value.
    """

    rates: Vocabulary
    atoms: Vocabulary
    bins: Bins
    quantum: int
    most: int

    @classmethod
    def fit(
        cls,
        grid: Grid,
        capacities: tuple[int, int],
        values: NDArray[np.int64],
        per: NDArray[np.int64] | None,
        parent: Self | None,
    ) -> Self:
        """Fit on values (m,), and on what they are counted by (m,), with room for so many rates and atoms."""
        quantum = max(1, int(np.gcd.reduce(values))) if len(values) else 1
        scaled, rate = values // quantum, _rate(values, per)
        least = max(3, len(values) // 20_000)
        held = (parent.rates, parent.atoms) if parent else (None, None)
        rates = Vocabulary.fit(rate[rate[:, 0] >= 0], capacities[0], least=least, parent=held[0])
        rest = rates.tokens(rate) < 0
        atoms = Vocabulary.fit(scaled[rest, None], capacities[1], least=least, parent=held[1])
        rest &= atoms.tokens(scaled[:, None]) < 0
        binned = scaled if per is None else _ratio(values, per)
        return cls(rates, atoms, Bins.fit(grid, binned[rest]), quantum, int(values.max(initial=0)))

    def tokens(self, values: NDArray[np.int64], per: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Token of each value (m,)."""
        scaled = values // self.quantum
        rates, atoms = self.rates.tokens(_rate(values, per)), self.atoms.tokens(scaled[:, None])
        binned = self.bins.grid.tokens(scaled if per is None else _ratio(values, per))
        first, second = len(self.rates), len(self.rates) + len(self.atoms)
        return np.where(rates >= 0, rates, np.where(atoms >= 0, first + atoms, second + binned))

    def usual(self) -> NDArray[np.float64]:
        """What each token stands for, in quanta: (t,). Of values that are counted by nothing else."""
        return np.concatenate([self.atoms.table()[:, 0], self.bins.quantiles.mean(axis=1)])

    def draw(
        self, tokens: NDArray[np.int64], rng: np.random.Generator, per: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """A value of each token (m,), never above the largest that was measured."""
        first, second = len(self.rates), len(self.rates) + len(self.atoms)
        atom = self.atoms.table()[np.clip(tokens - first, 0, len(self.atoms) - 1), 0] * self.quantum
        binned = self.bins.draw_evenly(np.maximum(tokens - second, 0), rng)
        if per is None:
            rest = binned * self.quantum
        else:
            rest = np.rint(binned * (per / 1000.0 / self.quantum)).astype(np.int64) * self.quantum
            rate = self.rates.table()[np.minimum(tokens, first - 1), 0]
            atom = np.where(tokens < first, rate * per, atom)
        return np.minimum(np.where(tokens < second, atom, rest), self.most)

    def is_active(self) -> NDArray[np.bool_]:
        """Which tokens the chunk shows."""
        return np.concatenate([self.rates.is_active(), self.atoms.is_active(), self.bins.is_active()])

    def is_zero(self) -> NDArray[np.bool_]:
        """Which tokens stand for the value 0, whatever it is counted by."""
        zero = [vocabulary.table()[:, 0] == 0 for vocabulary in (self.rates, self.atoms) if len(vocabulary)]
        return np.concatenate([*zero, np.arange(len(self.bins.grid)) == 0])

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        vocabularies = {"rates": self.rates.as_json(), "atoms": self.atoms.as_json()}
        return vocabularies | {"quantum": self.quantum, "most": self.most, **self.bins.as_json()}

    @classmethod
    def from_json(cls, grid: Grid, data: dict[str, Any]) -> Self:
        """The inverse of `as_json` on the same grid."""
        rates, atoms = Vocabulary.from_json(data["rates"]), Vocabulary.from_json(data["atoms"])
        return cls(rates, atoms, Bins.from_json(grid, data), int(data["quantum"]), int(data["most"]))


def _rate(values: NDArray[np.int64], per: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Give value / per as rows (m, 1), -1 where that is no whole number."""
    if per is None:
        return np.full((len(values), 1), -1)
    whole = (per > 0) & (values % np.maximum(per, 1) == 0)
    return np.where(whole, values // np.maximum(per, 1), -1)[:, None]


def _ratio(values: NDArray[np.int64], per: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.rint(values * 1000.0 / np.maximum(per, 1)).astype(np.int64)


def mark_values(table: FlowTable) -> NDArray[np.int64]:
    """Rows (m, k) of `MARK_COLUMNS`."""
    return np.stack([getattr(table, name).astype(np.int64) for name in MARK_COLUMNS], axis=1)


def path_values(table: FlowTable) -> NDArray[np.int64]:
    """Rows (m, 32): the octets of next hop and exporter."""
    return np.concatenate([table.ip_next_hop_address, table.exporter_address], axis=1).astype(np.int64)


def flag_values(table: FlowTable) -> NDArray[np.int64]:
    """Rows (m, 2): TCP flags of the record's direction and of the reverse one."""
    return np.stack([table.tcp_control_bits, table.reverse_tcp_control_bits], axis=1).astype(np.int64)
