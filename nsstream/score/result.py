"""Score: the outcome of comparing two traces, as plain immutable values; `report` draws it.

Every distance stands beside its floor, the same distance between two samples of real traffic: a perfect generator
scores about 1 x floor. None stands where nothing could be measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from nsstream.score.measures import CATEGORY_MARGINALS, NUMBER_MARGINALS

SMALLEST_FLOOR: Final = 1e-6  # below it, a ratio to the floor would only show rounding


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure and what real traffic gives in its place."""

    group: str  # marginal, structure or volume
    name: str
    value: float | None
    floor: float | None

    @property
    def x_floor(self) -> float | None:
        """The value in multiples of its floor."""
        return ratio(self.value, self.floor)


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares in [0, 1] by name, of the synthetic trace and of real traffic in its place."""

    synthetic: dict[str, float]
    real: dict[str, float]


@dataclass(frozen=True, slots=True)
class Detector:
    """Area under the ROC curve of the detector; 0.5 is indistinguishable."""

    auc: float | None
    floor: float | None  # of telling one sample of real traffic from the other
    told_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """How close, how valid and how much of a copy a synthetic trace is."""

    packet_count: tuple[int, int]  # real, synthetic; so the next two
    flow_count: tuple[int, int]
    octet_count: tuple[int, int]
    measures: tuple[Measure, ...]
    consistency: Shares
    copying: Shares  # `real` is what one sample of real traffic repeats of the other
    detector: Detector

    def summary(self) -> tuple[Measure, ...]:
        """Four means that stand for all distances: mean_jsd, mean_emd, structure, volume."""
        return (
            self._mean("marginal", "mean_jsd", CATEGORY_MARGINALS),
            self._mean("marginal", "mean_emd", NUMBER_MARGINALS),
            self._mean("structure", "structure", None),
            self._mean("volume", "volume", None),
        )

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON; what could not be measured is null."""
        groups: dict[str, dict[str, object]] = {}
        for m in self.measures:
            groups.setdefault(m.group, {})[m.name] = _measure_dict(m)
        pairs = {"packets": self.packet_count, "flows": self.flow_count, "octets": self.octet_count}
        return {
            "records": {name: {"real": real, "synthetic": synthetic} for name, (real, synthetic) in pairs.items()},
            "summary": {m.name: _measure_dict(m) for m in self.summary()},
            "detector": {
                "auc": self.detector.auc,
                "floor": self.detector.floor,
                "told_by": list(self.detector.told_by),
            },
            "copying": {"synthetic": dict(self.copying.synthetic), "real_by_real": dict(self.copying.real)},
            "consistency": {"synthetic": dict(self.consistency.synthetic), "real": dict(self.consistency.real)},
            "measures": groups,
        }

    def _mean(self, group: str, name: str, members: tuple[str, ...] | None) -> Measure:
        chosen = [m for m in self.measures if m.group == group and (members is None or m.name in members)]
        return Measure(group, name, mean(m.value for m in chosen), mean(m.floor for m in chosen))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what could be measured; None if nothing could."""
    measured = [v for v in values if v is not None]
    return float(np.mean(measured)) if measured else None


def ratio(value: float | None, floor: float | None) -> float | None:
    """`value` in multiples of `floor`; None where either is missing."""
    return None if value is None or floor is None else value / max(floor, SMALLEST_FLOOR)


def _measure_dict(measure: Measure) -> dict[str, float | None]:
    return {"value": measure.value, "floor": measure.floor, "x_floor": measure.x_floor}
