"""Bars: what was wanted, what was measured, and whether that will do; as a table, as JSON and as an exit status.

A figure that could not be measured (None, NaN) misses its bar: nothing passes unseen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeGuard

from rich import box
from rich.console import Console
from rich.table import Table

WIDEST = 112
Value = float | int | str | None


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure; `passed` is None where no bar is set for it."""

    name: str
    gave: Value
    wanted: str = ""
    passed: bool | None = None
    beside: Value = ""  # what to compare with: the real capture's figure, or another judge's


def at_most(name: str, gave: float | None, limit: float, beside: Value = "") -> Bar:
    return Bar(name, gave, f"<= {limit:g}", is_number(gave) and gave <= limit, beside)


def at_least(name: str, gave: float | None, limit: float, beside: Value = "") -> Bar:
    return Bar(name, gave, f">= {limit:g}", is_number(gave) and gave >= limit, beside)


def between(name: str, gave: float | None, least: float, most: float, beside: Value = "") -> Bar:
    return Bar(name, gave, f"{least:g} to {most:g}", is_number(gave) and least <= gave <= most, beside)


def equal(name: str, gave: Value, wanted: Value, beside: Value = "") -> Bar:
    return Bar(name, gave, _text(wanted), gave is not None and gave == wanted, beside)


def is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def show(title: str, bars: Sequence[Bar], beside: str = "") -> None:
    """Print a table; `beside` heads the column of that name."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in ("gave", "bar", beside) if beside else ("gave", "bar"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("")
    for bar in bars:
        words = {None: "", True: "pass", False: "[bold]MISS[/bold]"}
        cells = [_text(bar.gave), bar.wanted, *([_text(bar.beside)] if beside else [])]
        table.add_row(bar.name, *cells, words[bar.passed])
    console = Console()
    if console.width < WIDEST:  # a terminal may wrap the lines; names are never cut
        console = Console(width=WIDEST)
    console.print(table)


def has_passed(bars: Sequence[Bar]) -> bool:
    return all(bar.passed is not False for bar in bars)


def as_dict(bars: Sequence[Bar]) -> dict[str, object]:
    return {"passed": has_passed(bars), "bars": [asdict(bar) for bar in bars]}


def finish(figures: Mapping[str, object], json_path: Path | None, *, passed: bool | None) -> int:
    """Write the figures, say the verdict, and return the exit status: 1 when a bar is missed. None: there is no bar."""
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    if passed is not None:
        print("every bar is met" if passed else "a bar is MISSED")
    return 1 if passed is False else 0


def _text(value: Value) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
