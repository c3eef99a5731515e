"""Mechanisms: what was done to private data, as an accountant needs to know it.

Each stands for a release about a data set to which one *unit* (a host or a flow) was added, or from which it was
taken. A noise multiplier is the noise's standard deviation in multiples of the l2 distance that one unit can make.
As dicts they stand in manifests and in the ledger; whatever is read from there is checked as if a stranger wrote it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Final

from nsstream.errors import InputError

MOST_STEPS: Final = 100_000_000  # of one mechanism: beyond, it is a mistake
MOST_MECHANISMS: Final = 100_000  # in one list that is read


@dataclass(frozen=True, slots=True)
class SampledGaussian:
    """DP-SGD: `steps` noisy sums, each over a Poisson sample that holds every unit with chance `sample_rate`."""

    KIND: ClassVar[str] = "sampled_gaussian"
    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        _check_positive("noise_multiplier", self.noise_multiplier)
        _check_number("sample_rate", self.sample_rate)
        if not 0 <= self.sample_rate <= 1:
            raise InputError(f"sample_rate must be from 0 to 1, got {self.sample_rate!r}")
        _check_count("steps", self.steps)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """`times` releases of real values under normal noise."""

    KIND: ClassVar[str] = "gaussian"
    noise_multiplier: float
    times: int = 1

    def __post_init__(self) -> None:
        _check_positive("noise_multiplier", self.noise_multiplier)
        _check_count("times", self.times)


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """`times` releases of whole values under discrete normal noise (`noise.noisy_counts`).

    Its Rényi divergences are at most those of `Gaussian` (Canonne, Kamath, Steinke 2020, proposition 5).
    """

    KIND: ClassVar[str] = "discrete_gaussian"
    noise_multiplier: float
    times: int = 1

    def __post_init__(self) -> None:
        _check_positive("noise_multiplier", self.noise_multiplier)
        _check_count("times", self.times)


@dataclass(frozen=True, slots=True)
class PureEpsilon:
    """`times` releases that each are `epsilon`-DP: (discrete) Laplace noise, a choice by the exponential mechanism."""

    KIND: ClassVar[str] = "pure_epsilon"
    epsilon: float
    times: int = 1

    def __post_init__(self) -> None:
        _check_positive("epsilon", self.epsilon)
        _check_count("times", self.times)


Mechanism = SampledGaussian | Gaussian | DiscreteGaussian | PureEpsilon

_KINDS: Final[dict[str, type[Mechanism]]] = {
    kind.KIND: kind for kind in (SampledGaussian, Gaussian, DiscreteGaussian, PureEpsilon)
}


def as_dict(mechanism: Mechanism) -> dict[str, Any]:
    """A mechanism as a plain dict, for JSON."""
    return {"kind": mechanism.KIND, **asdict(mechanism)}


def from_dict(values: Mapping[str, Any]) -> Mechanism:
    """The mechanism that `as_dict` gave; raises InputError where it is none: a kind or a field that we do not know."""
    if not isinstance(values, Mapping) or not isinstance(values.get("kind"), str):
        raise InputError(f"a mechanism is an object with a kind, got {values!r:.80}")
    kind = _KINDS.get(values["kind"])
    if kind is None:
        raise InputError(f"no mechanism is of kind {values['kind']!r:.80}; known are {', '.join(_KINDS)}")
    given, wanted = {name: value for name, value in values.items() if name != "kind"}, [at.name for at in fields(kind)]
    if set(given) != set(wanted):
        raise InputError(f"a {kind.KIND} has {', '.join(wanted)}, got {', '.join(map(str, given)):.80}")
    return kind(**given)


def as_dicts(mechanisms: Iterable[Mechanism]) -> list[dict[str, Any]]:
    """Mechanisms as a list of plain dicts, in their order."""
    return [as_dict(mechanism) for mechanism in mechanisms]


def from_dicts(values: object) -> tuple[Mechanism, ...]:
    """The mechanisms that `as_dicts` gave; raises InputError."""
    if not isinstance(values, list) or len(values) > MOST_MECHANISMS:
        raise InputError(f"mechanisms are a list of at most {MOST_MECHANISMS:,}, got {values!r:.80}")
    return tuple(from_dict(value) for value in values)


def merged(counts: Mapping[Mechanism, int]) -> tuple[Mechanism, ...]:
    """Mechanisms, each done so many times over, as few as tell the same, in an order of their own."""
    totals: Counter[Mechanism] = Counter()
    for mechanism, count in counts.items():
        one, times = _one(mechanism)
        totals[one] += times * count
    done: list[Mechanism] = []
    for one in sorted(totals, key=repr):
        for start in range(0, totals[one], MOST_STEPS):
            done.append(_times(one, min(MOST_STEPS, totals[one] - start)))
    return tuple(done)


def is_part(part: Iterable[Mechanism], whole: Iterable[Mechanism]) -> bool:
    """Whether what was done is some of what might have been: each mechanism at most as often."""
    left = _times_each(whole)
    return all(times <= left[one] for one, times in _times_each(part).items())


def _times_each(mechanisms: Iterable[Mechanism]) -> Counter[Mechanism]:
    totals: Counter[Mechanism] = Counter()
    for mechanism in mechanisms:
        one, times = _one(mechanism)
        totals[one] += times
    return totals


def _one(mechanism: Mechanism) -> tuple[Mechanism, int]:
    times = mechanism.steps if isinstance(mechanism, SampledGaussian) else mechanism.times
    return _times(mechanism, 1), times


def _times(mechanism: Mechanism, times: int) -> Mechanism:
    if isinstance(mechanism, SampledGaussian):
        return replace(mechanism, steps=times)
    return replace(mechanism, times=times)


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value!r:.80}")


def _check_positive(name: str, value: float) -> None:
    _check_number(name, value)
    if value <= 0:
        raise InputError(f"{name} must be > 0, got {value!r}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_STEPS:
        raise InputError(f"{name} must be a whole number from 0 to {MOST_STEPS:,}, got {value!r:.80}")
