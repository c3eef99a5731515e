"""Rate: how fast a run is played, as a command and the command line say it.

One of four: a number is seconds of the twin a second (1.0 is real time), ``{"packets_per_s": n}`` and
``{"bits_per_s": n}`` space frames evenly by their number or by their octets, and ``"max"`` waits for nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from nsstream.errors import InputError

MIN_RATE: Final = 0.001
MAX_RATE: Final = 1e6
MAX_PACKETS_PER_S: Final = 1e9
MAX_BITS_PER_S: Final = 1e12


class PacketRate(BaseModel):
    """So many frames a second, each as long after the one before."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    packets_per_s: Annotated[float, Field(ge=MIN_RATE, le=MAX_PACKETS_PER_S, allow_inf_nan=False)]


class BitRate(BaseModel):
    """So many bits of frames a second, without preamble, FCS and the gap between frames."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    bits_per_s: Annotated[float, Field(ge=1.0, le=MAX_BITS_PER_S, allow_inf_nan=False)]


Rate = (
    Literal["max"] | Annotated[float, Field(ge=MIN_RATE, le=MAX_RATE, allow_inf_nan=False)] | PacketRate | BitRate
)  # twin seconds a second where it is a number

_SCALES: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_TEXT: Final = re.compile(r"(\d+(?:\.\d+)?)(?:([kMG]?)(pps|bps)|x?)", re.ASCII)


def parse_rate(text: str) -> Rate:
    """The rate in a text such as ``max``, ``1.5``, ``2x``, ``20kpps``, ``100Mbps``; raises InputError."""
    if text == "max":
        return "max"
    match = _TEXT.fullmatch(text)
    number = float(match[1]) * _SCALES[match[2] or ""] if match else 0.0
    unit = match[3] if match else None
    low, high = {"pps": (MIN_RATE, MAX_PACKETS_PER_S), "bps": (1.0, MAX_BITS_PER_S)}.get(
        unit or "", (MIN_RATE, MAX_RATE)
    )
    if not low <= number <= high:
        raise InputError(
            f"a rate is max, a multiple of the twin's own pace from {MIN_RATE:g} to {MAX_RATE:g} (1.0 is real time), "
            f"or a number with pps or bps (20kpps, 100Mbps), got {text!r:.80}"
        )
    if unit == "pps":
        return PacketRate(packets_per_s=number)
    return BitRate(bits_per_s=number) if unit == "bps" else number
