"""The screen of `nsstream ctl status`: what an operator has to know, in the order in which it matters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_STYLE: Final = {True: "bold green", False: "bold red"}
_LOST: Final = ("late", "future", "sampled_out", "parked")


def screen(status: dict[str, Any]) -> RenderableType:
    """A whole status, at a glance."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, words in [*_capture(status), *_training(status), *_rest(status)]:
        table.add_row(name, words)
    return Group(_head(status), Text(), table)


def _head(status: dict[str, Any]) -> RenderableType:
    told = "healthy" if status["healthy"] else "; ".join(status["problems"])
    line = Text.assemble(
        (told, _STYLE[status["healthy"]]),
        f"  {status['state']}, up {duration(status['uptime_s'])}, pid {status['pid']}, {status['state_directory']}",
    )
    return line


def _capture(status: dict[str, Any]) -> list[tuple[str, str]]:
    capture = status["capture"]
    tally = capture["tally"]
    told = f"{escape(capture['source'])}: {capture['state']}"
    if capture["error"]:
        told += f" [red]{escape(capture['error'])}[/red]"
    if capture["restarts"]:
        told += f", opened again {capture['restarts']} times"
    latest = "" if capture["latest_ns"] is None else f", newest row {duration(max(0.0, capture['lag_s']))} ago"
    lost = {name.replace("_", " "): tally[name] for name in _LOST}
    for kind in ("dropped", "malformed", "unsupported"):
        lost |= {f"{kind} ({reason.replace('_', ' ')})": count for reason, count in tally[kind].items()}
    lost["not in the journal"] = capture["unprotected_rows"]
    rows = [
        ("capture", told),
        ("", f"{capture['rows_per_s']:,.0f} rows/s{latest}"),
        ("rows", f"{tally['offered']:,} offered, {tally['kept']:,} kept, {capture['open_rows']:,} in open chunks"),
    ]
    if words := ", ".join(f"{count:,} {name}" for name, count in lost.items() if count):
        dropped = sum(tally["dropped"].values())
        rows.append(("not kept", f"[red]{words}[/red]" if dropped else words))
    rows.append(("chunks", f"{capture['chunks']:,} stored, {capture['expired']:,} expired"))
    return rows


def _training(status: dict[str, Any]) -> list[tuple[str, str]]:
    training = status["training"]
    if not training["enabled"]:
        return [("training", "off")]
    jobs, chunks = training["jobs"], training["chunks"]
    waiting = jobs["pending"] + jobs["failed"]
    told = [f"{jobs['done']:,} done", f"{waiting:,} waiting"]
    told += ["on Ray"] if training.get("engine") == "ray" else []
    told += [f"{jobs['failed']:,} of them failed before"] if jobs["failed"] else []
    told += [f"[red]{jobs['poisoned']:,} given up[/red]"] if jobs["poisoned"] else []
    for fate, count in chunks.items():
        if fate == "held":
            told.append(f"{count:,} small chunks held for the next")
        elif fate != "queued":
            told.append(f"{count:,} chunks {fate.replace('_', ' ')}")
    rows = [("training", ("[yellow]paused[/yellow], " if training["paused"] else "") + ", ".join(told))]
    rows += [("  " + worker["name"], _worker(worker)) for worker in training["workers"]]
    if training["failures"]:
        rows.append(("failures", ", ".join(f"{count:,} {kind}" for kind, count in training["failures"].items())))
    models, promoted, newest = training["models"], training["promoted"], training["newest"]
    rows.append(("models", f"{models['passed']:,} passed, {models['refused']:,} refused"))
    if promoted is None:
        rows.append(("promoted", "[yellow]none yet[/yellow]"))
    else:
        held = ", [yellow]held by an operator[/yellow]" if training["held"] else ""
        rows.append(("promoted", f"[green]{promoted['id']}[/green] {_learned(promoted)}{held}"))
    if newest is not None and (promoted is None or newest["id"] != promoted["id"]):
        verdict = (
            "passed" if newest["passed"] else f"[yellow]refused: {escape('; '.join(newest['complaints']))}[/yellow]"
        )
        rows.append(("newest", f"{newest['id']} {_learned(newest)}, {verdict}"))
    rows.append(("privacy", _privacy(training["privacy"])))
    return rows


def _privacy(told: dict[str, Any]) -> str:
    """What is promised, and what of it is spent, in one line."""
    if told["mode"] != "private":
        return f"{told['mode']}: no promise in numbers"
    refused = sum(told["refused"].values())
    parts = [f"private, epsilon {told['spent']:.3g} of {told['epsilon']:g} spent"]
    parts += ["[red]what was spent before is not known[/red]"] if told["unknown"] else []
    parts += [f"[red]{refused:,} jobs refused[/red]"] if refused else []
    return ", ".join(parts)


def _worker(worker: dict[str, Any]) -> str:
    if worker["state"] == "idle":
        return "idle"
    what = "seed of " if worker["is_seed"] else ""
    parts = [f"{worker['state']} {what}{worker['chunk']} for {duration(worker['for_s'])}"]
    parts += [worker["stage"]] if worker["stage"] else []
    parts += [f"step {worker['step']:,}"] if worker["step"] is not None else []
    parts += [f"loss {worker['loss']:.3f}"] if worker["loss"] is not None else []
    parts += [f"{duration(worker['left_s'])} left"] if worker["left_s"] is not None else []
    return ", ".join(parts)


def _learned(model: dict[str, Any]) -> str:
    figures = model["figures"]
    told = [f"of {utc(model['start_ns'])}"]
    if figures.get("ratio") is not None:
        told.append(f"loss {figures['ratio']:.3f} x its parent's")
    if figures.get("drift") is not None:
        told.append(f"drift {figures['drift']:.3f}")
    return ", ".join(told)


def _rest(status: dict[str, Any]) -> list[tuple[str, str]]:
    disk = status["disk"]
    told = (
        f"chunks {size(disk['chunks_octets'])}, models {size(disk['models_octets'])}, {size(disk['free_octets'])} free"
    )
    return [("disk", told), ("memory", size(status["memory_octets"]))]


def chunks_table(chunks: list[dict[str, Any]]) -> RenderableType:
    """Chunks that were seen, the newest first."""
    table = Table(box=None, pad_edge=False)
    for name, justify in (("chunk", "left"), ("rows", "right"), ("conversations", "right"), ("became", "left")):
        table.add_column(name, justify=justify, no_wrap=name != "became")  # type: ignore[arg-type]
    for chunk in chunks:
        table.add_row(chunk["id"], f"{chunk['row_count']:,}", f"{chunk['conversations']:,}", _became(chunk))
    return table


def _became(chunk: dict[str, Any]) -> str:
    if chunk["fate"] == "held":
        return "held for the next, it is small"
    if chunk["fate"] == "skipped":
        return f"skipped: {chunk['reason'].replace('_', ' ')}"
    if chunk["model"] is not None:
        return f"model {chunk['model']}, {'passed' if chunk['passed'] else 'refused'}"
    reason = f": {escape(chunk['job_reason'])}" if chunk["job_reason"] else ""
    return f"{chunk['job_state']}{reason}"


def models_table(models: list[dict[str, Any]], promoted: str | None) -> RenderableType:
    """Models, the newest first; the promoted one is marked."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "model", "of", "loss", "x parent's", "drift", "took", "verdict"):
        right = name in ("loss", "x parent's", "drift", "took")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "verdict")
    for model in models:
        figures = model["figures"]
        verdict = "passed" if model["passed"] else "refused: " + escape("; ".join(model["complaints"]))
        table.add_row(
            "*" if model["id"] == promoted else "", model["id"] if model["is_stored"] else f"({model['id']})",
            utc(model["start_ns"]), _figure(figures["loss"]), _figure(figures["ratio"]), _figure(figures["drift"]),
            duration(model["training_s"]), verdict,
        )  # fmt: skip
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """A time that passed, in two units at most."""
    whole = int(seconds)
    for length, name, small, small_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= length:
            rest = whole % length // small
            return f"{whole // length} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole} s"


def size(octets: int) -> str:
    """Octets as people write them."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def utc(time_ns: int) -> str:
    """A time as people write it."""
    return f"{datetime.fromtimestamp(time_ns // 10**9, tz=UTC):%Y-%m-%d %H:%M:%S}Z"
