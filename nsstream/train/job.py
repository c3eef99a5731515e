"""TrainJob: what a worker is told to do, as one JSON object; validated, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nsstream.errors import InputError

DeviceName = Literal["auto", "cpu", "cuda"]
GPU_MEMORY_OCTETS: Final = 2 << 30
GPU_MEMORY: Final = "gpu_memory"  # the kind of an ``error`` line: a GPU's memory was too small, or used up


class AddressMapConfig(BaseModel):
    """How real addresses become others before the model sees them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_hex: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){16,64}$")]
    ipv4_range: str = "10.0.0.0/8"
    ipv6_range: str = "fd00::/8"


class Part(BaseModel):
    """A job's part in a learning of several chunks (`train.parallel`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    does: Literal["begin", "learn", "finish"]
    turn: Annotated[int, Field(ge=0)]
    turns: Annotated[int, Field(ge=1)]


class Privacy(BaseModel):
    """What a private fit promises; the rest is as of `config.PrivateConfig`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epsilon: Annotated[float, Field(gt=0, le=100)]
    delta: Annotated[float, Field(gt=0, lt=0.1)] = 1e-5
    unit: Literal["host", "flow"] = "host"
    most_conversations: Annotated[int, Field(ge=1, le=4096)] = 64
    steps: Annotated[int, Field(ge=1, le=100_000)] = 100


class TrainJob(BaseModel):
    """Train one checkpoint on one chunk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chunk: Path  # a chunk file
    before: Path | None = None  # the chunk before it, whose open conversations go on in this one
    parent: Path | None = None  # a checkpoint to start from; None: from nothing
    out: Path  # the directory of checkpoints
    model: Literal["autoregressive", "doppelganger"] = "autoregressive"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    steps: Annotated[int, Field(ge=1)] | None = None  # of a private fit `private` says it, and neither of these does
    budget_s: Annotated[float, Field(gt=0)] | None = None
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    address_map: AddressMapConfig
    device: DeviceName = "auto"  # where to compute: `device.choose_device`
    gpu_memory_octets: Annotated[int, Field(ge=0)] = GPU_MEMORY_OCTETS  # that a fit on a GPU waits for, and takes
    private: Privacy | None = None  # None: openly
    part: Part | None = None
    models: tuple[Path, ...] = ()  # of a part: the checkpoints whose average it goes on from

    @model_validator(mode="after")
    def _has_an_end(self) -> TrainJob:
        if self.steps is None and self.budget_s is None:
            raise ValueError("steps or budget_s must be given")
        return self

    @model_validator(mode="after")
    def _can_be_private(self) -> TrainJob:
        if self.private is None:
            return self
        if self.parent is None or self.model != "autoregressive" or self.part is not None:
            raise ValueError("what is learned privately goes on from a public parent of the default model")
        return self

    @classmethod
    def parse(cls, text: str) -> TrainJob:
        """Read a job; raises InputError that names the first bad key."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as err:
            first = err.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "job"
            raise InputError(f"not a training job: {where}: {first['msg']}") from err
