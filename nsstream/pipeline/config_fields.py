"""What sections of the configuration are made of: the kinds of their fields, and what all of them refuse."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from nsstream.errors import InputError
from nsstream.pipeline.plan import parse_duration_s, parse_octets

LIVE: Final[dict[str, JsonValue]] = {"live": True}  # of a field's schema: a reload applies it
MOST_LENGTH_S: Final = 3640 * 86_400


def _seconds(value: object) -> object:
    return _told(parse_duration_s, value) if isinstance(value, str) else value


def _octets(value: object) -> object:
    return _told(parse_octets, value) if isinstance(value, str) else value


def _told(parse: Any, text: str) -> object:
    try:
        return parse(text)
    except InputError as err:
        raise ValueError(str(err)) from err


def whole(value: float) -> float:
    """A duration, if it is in whole seconds; raises ValueError."""
    if value != int(value):
        raise ValueError("must be whole seconds")
    return value


Duration = Annotated[float, BeforeValidator(_seconds)]
Size = Annotated[int, BeforeValidator(_octets)]
Positive = Annotated[Duration, Field(gt=0)]
Core = Annotated[int, Field(ge=0, lt=4096)]


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
