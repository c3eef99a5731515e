"""The bundled capture: what is played where nobody has named a model or a trace."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

LAB: Final = files("nsstream_daemon") / "data" / "lab.pcap.xz"
