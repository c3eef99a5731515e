"""What a twin promises: epsilon, delta, unit and mechanisms of the models that it is drawn of, all together.

Drawing is post-processing, so a twin keeps the promise of its models. Of several, or of one that went on from another
private one, the costs add up, as if each unit's traffic were in all that they learned; a ledger may know it to be less.
A model that another one here went on from is counted in that one's ``before``. What manifests say is checked as if a
stranger wrote it; what says nothing that we know is not private.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsstream.errors import InputError
from nsstream.privacy.accountant import epsilon
from nsstream.privacy.mechanisms import Mechanism, as_dicts, from_dicts, merged

ADJACENCY = "one unit is added or removed"
UNITS = ("host", "flow")


@dataclass(frozen=True, slots=True)
class _Learned:
    """What a manifest says of a model that was learned privately."""

    epsilon: float  # as it was asked for; 0 where the manifest does not say
    delta: float
    unit: str
    own: tuple[Mechanism, ...]
    before: tuple[Mechanism, ...]


def before_of(manifest: Mapping[str, Any]) -> tuple[Mechanism, ...]:
    """What was done to private traffic in all that led to a model, it too: its children's ``before``."""
    learned = _learned(manifest)
    return () if learned is None else merged(Counter((*learned.own, *learned.before)))


def promise_of(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a twin of these models' manifests promises, for its own manifest; None where no model is private.

    ``models`` has a line for each model: ``is_private`` (one that is not has to be public, or nothing is promised of
    what it learned), the ``epsilon`` that was asked of it alone, and ``epsilon_before``, what all that it went on from
    had cost (0 where that was public). At the top, ``epsilon``, ``delta``, ``unit`` and ``mechanisms`` are of all
    private ones together; None where they do not protect the same unit.
    """
    told = [(manifest, _learned(manifest)) for manifest in manifests]
    private = [(manifest, learned) for manifest, learned in told if learned is not None]
    if not private:
        return None
    units = {learned.unit for _, learned in private}
    together: dict[str, Any] = {"epsilon": None, "delta": None, "unit": None, "mechanisms": None}
    if len(units) == 1:
        together = _together(private) | {"unit": units.pop()}
    models = [
        {
            "id": str(manifest.get("id")),
            "chunk": str(manifest.get("chunk")),
            "is_private": learned is not None,
            "epsilon": None if learned is None else learned.epsilon,
            "epsilon_before": None if learned is None else epsilon(learned.before, learned.delta),
            "unit": None if learned is None else learned.unit,
        }
        for manifest, learned in told
    ]
    return together | {"adjacency": ADJACENCY, "models": models}


def _together(private: Sequence[tuple[Mapping[str, Any], _Learned]]) -> dict[str, Any]:
    once = {str(manifest.get("id")): (manifest, learned) for manifest, learned in private}
    told_by_a_child = {str(manifest.get("parent")) for manifest, learned in once.values() if learned.before}
    tips = [learned for name, (_, learned) in once.items() if name not in told_by_a_child]
    tips = tips or [learned for _, learned in once.values()]  # each the other's parent: they are not as we write them
    delta = min(learned.delta for learned in tips)
    done = merged(Counter(each for learned in tips for each in (*learned.own, *learned.before)))
    spent = _of_one(tips[0]) if len(tips) == 1 else epsilon(done, delta)
    return {"epsilon": spent, "delta": delta, "mechanisms": as_dicts(done)}


def _of_one(learned: _Learned) -> float:
    """What one model costs with all before it: as much as was asked for, or more if its mechanisms say so."""
    spent = epsilon((*learned.own, *learned.before), learned.delta)
    return max(spent, learned.epsilon)


def _learned(manifest: Mapping[str, Any]) -> _Learned | None:
    told: Any = manifest.get("privacy")
    if not isinstance(told, dict):
        return None
    asked: Any = told.get("epsilon", 0.0)
    delta: Any = told.get("delta")
    unit: Any = told.get("unit")
    if not (_is_number(asked) and asked >= 0 and _is_number(delta) and 0 < delta < 1 and unit in UNITS):
        return None
    try:
        own, before = from_dicts(told.get("mechanisms")), from_dicts(told.get("before", []))
    except InputError:
        return None
    return _Learned(float(asked), float(delta), unit, own, before) if own else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
