"""The last lines of a command that made something: what is where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def write_json(figures: dict[str, object], path: Path) -> None:
    """Write figures to a file, whole or not at all; raises OutputError."""
    from nsstream.chunk import whole_file

    with whole_file(path) as file:
        file.write(json.dumps(figures, indent=2).encode() + b"\n")


def print_places(console: Console, places: dict[str, str]) -> None:
    """A line each: what it is, and where."""
    for name, place in places.items():
        console.print(f"{name:<7} {place}", highlight=False, soft_wrap=True)
