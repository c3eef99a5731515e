"""The section ``[privacy]`` of the configuration: what is promised, of whom, and what may be spent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nsstream.pipeline.config_fields import MOST_LENGTH_S, Duration, Section


class PrivacySection(Section):
    """What is promised of those whose traffic is learned. See privacy.md."""

    mode: Literal["open", "remapped", "private"] = Field(
        default="remapped",
        description="What is promised. `open`: nothing. `remapped`: no model holds a real address. `private`: that, "
        "and each job's cost is reserved in the ledger before it reads anything; what would overspend is refused.",
    )
    unit: Literal["host", "flow"] = Field(
        default="host",
        description="Who is protected: a host, with all conversations that it initiates, or a flow, with all that its "
        "five-tuple exchanges.",
    )
    epsilon: float = Field(default=8.0, gt=0, le=100, description="The most that may be spent in a horizon.")
    delta: float = Field(default=1e-5, ge=1e-12, le=1e-2, description="Of all promises.")
    horizon_s: Annotated[Duration, Field(ge=60, le=MOST_LENGTH_S)] = Field(
        default=30 * 86_400.0,
        description="Length of the windows of traffic that `epsilon` is for: each of them, wherever it begins.",
    )
    epsilon_for_ever: float | None = Field(
        default=None, gt=0, le=1000, description="The most that may be spent in all. Without it, no bound."
    )
    chunk_epsilon: float = Field(default=1.0, gt=0, le=100, description="The most that one job may spend.")
    most_chunks_of_a_unit: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Jobs of a horizon that one unit's traffic may be in; in others it is left out. Without it, of a "
        "flow 2, of a host any number.",
    )
    attempts: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Workers that may begin on one job, whatever ended those before: each spends anew. "
        "`training.attempts` holds, too.",
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> PrivacySection:
        if self.chunk_epsilon > self.epsilon:
            raise ValueError("chunk_epsilon must not be more than epsilon")
        if self.epsilon_for_ever is not None and self.epsilon_for_ever < self.epsilon:
            raise ValueError("epsilon_for_ever must not be less than epsilon")
        return self
