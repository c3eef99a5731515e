"""What `train` and `twin` are asked of privacy: their options, and the promise that these come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Private = Annotated[
    float | None,
    typer.Option("--private", metavar="EPSILON", help="Learn privately, from a public model (--from)."),
]
Delta = Annotated[float, typer.Option("--delta", help="With --private: delta of (epsilon, delta).")]
Unit = Annotated[
    str,
    typer.Option(
        "--unit", help="With --private, what is protected: host (all it initiates), or flow (a conversation)."
    ),
]
MostConversations = Annotated[
    int,
    typer.Option(
        "--most-conversations",
        min=1,
        max=4096,
        help="With --private: those of a host that are learned, chosen by lot.",
    ),
]
DELTA = 1e-5
MOST_CONVERSATIONS = 64
STEPS = 100


def promise(
    epsilon: float,
    delta: float,
    unit: str,
    most_conversations: int,
    steps: int | None,
    *,
    parent: Path | None,
    is_otherwise_open: bool,
) -> dict[str, object]:
    """The fields of `train.job.Privacy` that the options come to.

    `is_otherwise_open`: whether something was asked for that only an open training has, a budget or a seed or another
    model. Raises InputError where that is so, or where the promise is none.
    """
    from nsstream.errors import InputError

    if parent is None or is_otherwise_open:
        raise InputError("--private needs --from, a public model of the default kind, and no --budget or --seed")
    if unit not in ("host", "flow"):
        raise InputError(f"--unit must be host or flow, got {unit!r}")
    if not (0 < epsilon <= 100 and 0 < delta < 0.1):
        told = f"got {epsilon:g} and {delta:g}"
        raise InputError(f"--private must be above 0 and at most 100, --delta above 0 and below 0.1, {told}")
    return {
        "epsilon": epsilon,
        "delta": delta,
        "unit": unit,
        "steps": STEPS if steps is None else steps,
        "most_conversations": most_conversations,
    }
