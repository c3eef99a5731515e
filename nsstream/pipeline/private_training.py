"""What training says of itself in private mode: what a job may do to its traffic, and what it did.

The seam between ledger and training: `plan` is asked before anything is read, and what it gives is reserved; `told` of
it goes to the worker, as ``private`` of its job; and what the worker did stands in its checkpoint's manifest. The judge
of a private job is blind: it tells nothing of the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from nsstream.encode.flow_schema import FLOW_SCHEMA_ID
from nsstream.errors import InputError
from nsstream.pipeline.job_runner import manifest_of
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.privacy_ledger import REFUSALS, SpendingRefusedError
from nsstream.pipeline.service_config import TrainingSection
from nsstream.privacy import Mechanism, from_dicts
from nsstream.train.config import PrivateConfig
from nsstream.train.job import Privacy
from nsstream.train.private_plan import mechanisms_of

UNSUPPORTED: Final = "privacy_unsupported"  # reasons why a job is refused
PARENT: Final = "privacy_parent"
ATTEMPTS: Final = "privacy_attempts"
UNITS: Final = "privacy_units"
ALL_REFUSALS: Final = (UNSUPPORTED, PARENT, ATTEMPTS, UNITS, *REFUSALS)


@dataclass(frozen=True, slots=True)
class PrivatePlan:
    """How a job keeps a promise: the most that it does to one unit's traffic, and what its worker is told."""

    mechanisms: tuple[Mechanism, ...]
    told: dict[str, Any]


Planner = Callable[[PrivacySection, TrainingSection, bool], PrivatePlan]


def plan(privacy: PrivacySection, training: TrainingSection, is_seed: bool) -> PrivatePlan:
    """How the training code learns one job privately; it follows from the configuration, and from no traffic.

    Raises SpendingRefusedError where it cannot: without a model to go on from, or where no noise keeps the promise.
    """
    if is_seed:
        raise SpendingRefusedError(
            UNSUPPORTED,
            "private training goes on from a public model, and there is none: "
            "name one in training.seed_model, or public captures in training.seed_captures",
        )
    promise = Privacy(epsilon=privacy.chunk_epsilon, delta=privacy.delta, unit=privacy.unit)
    try:
        return PrivatePlan(_mechanisms_of(promise), promise.model_dump())
    except InputError as err:
        raise SpendingRefusedError(UNSUPPORTED, str(err)) from err


@cache
def _mechanisms_of(promise: Privacy) -> tuple[Mechanism, ...]:
    return mechanisms_of(PrivateConfig(**promise.model_dump()))


def what_was_done(checkpoint: Path) -> tuple[Mechanism, ...] | None:
    """The mechanisms that a checkpoint's manifest says made it, as ``privacy.mechanisms``; none: of an open model.

    None where it says nothing, or nothing that we know.
    """
    told = manifest_of(checkpoint).get("privacy")
    try:
        return from_dicts(told["mechanisms"]) if isinstance(told, dict) else None
    except (InputError, KeyError):
        return None


def check_parent(parent: Path | None, public: Collection[Path | None]) -> None:
    """Raise SpendingRefusedError where a parent was neither learned privately nor is public by the operator's word."""
    if parent is None or parent in public or what_was_done(parent):
        return
    raise SpendingRefusedError(
        PARENT,
        f"{parent.name}, which it would go on from, was not learned privately; begin another state directory, "
        "or name a public model in training.seed_model, or public captures in training.seed_captures",
    )


def check_kind(parent: Path | None, *, is_of_flows: bool) -> None:
    """Raise SpendingRefusedError where a model is of packets and the chunk of flow records, or the other way round."""
    if parent is None or (manifest_of(parent).get("schema") == FLOW_SCHEMA_ID) == is_of_flows:
        return
    model, chunk = ("packets", "flow records") if is_of_flows else ("flow records", "packets")
    raise SpendingRefusedError(
        UNSUPPORTED,
        f"{parent.name} is a model of {model}, and the chunk is of {chunk}: training.seed_model has to be of its kind",
    )
