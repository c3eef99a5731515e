"""The screen of `nsstream ctl privacy`: what is promised, what of it is spent, and what each job cost."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nsstream_daemon.status_screen import duration, utc


def privacy_screen(told: dict[str, Any]) -> RenderableType:
    """All of it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, words in _rows(told):
        table.add_row(name, words)
    return Group(table, Text(), _jobs(told["newest"])) if told["newest"] else table


def _rows(told: dict[str, Any]) -> list[tuple[str, str]]:
    bound = f"epsilon {told['epsilon']:g}, delta {told['delta']:g}, of each {told['unit']}"
    rows = [
        ("mode", told["mode"]),
        ("promise", f"{bound}, in any {duration(told['horizon_s'])} of traffic; {told['chunk_epsilon']:g} a job"),
        ("spent", f"epsilon {told['spent']:.4g} in the newest horizon, {told['spent_day']:.4g} in the last day"),
    ]
    if told["mode"] != "private":
        rows[1] = ("promise", f"none; in private mode it would be {bound}")
    if told["unknown"]:
        rows.append(("left", "[red]nothing: what was spent before is not known (docs/privacy.md)[/red]"))
    else:
        rows.append(("left", f"epsilon {told['left']:.4g}{_until(told['runs_out_s'])}"))
    ever = f"epsilon {told['spent_for_ever']:.4g}"
    if told["epsilon_for_ever"] is not None:
        left, runs_out = told["left_for_ever"], _until(told["runs_out_for_ever_s"])
        ever += f" of {told['epsilon_for_ever']:g}, {left:.4g} left{runs_out}"
    rows.append(("for ever", ever))
    rows.append(("jobs", f"{told['jobs']:,} reserved, {told['unsettled']:,} of them never told what they did"))
    for reason, count in told["refused"].items():
        rows.append(("refused", f"[red]{count:,} {reason.replace('_', ' ')}[/red]"))
    return rows


def _until(seconds: float | None) -> str:
    if seconds is None:
        return ", which lasts at the last day's rate"
    return f", spent in {duration(seconds)} at the last day's rate" if seconds else ", none at the last day's rate"


def _jobs(newest: list[dict[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    columns = ("chunk", "left"), ("attempt", "right"), ("epsilon", "right"), ("unit", "left"), ("reserved", "left")
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("became")
    for job in newest:
        became = "as much as was reserved" if job["settled_ns"] is None else f"model {job['model']}"
        spent = str(job["attempt"]), f"{job['epsilon']:.4g}"
        table.add_row(job["chunk"], *spent, job["unit"], utc(job["reserved_ns"]), became)
    return table
