"""ctl: what a running daemon is asked and told, over its control socket."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

DEFAULT_SOCKET: Final = Path("/run/nsstream/control.sock")
WATCH_S: Final = 1.0

ctl_app = typer.Typer(help="Ask and steer a running daemon.", no_args_is_help=True)

Socket = Annotated[
    Path, typer.Option(envvar="NSSTREAM_CONTROL_SOCKET", help="The daemon's control.socket.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest first.")]


@ctl_app.command("status")
def status(
    socket: Socket = DEFAULT_SOCKET,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again each second, until Ctrl-C.")] = False,
) -> None:
    """Show where everything stands; exit status 1 if the daemon is not healthy."""
    from rich.console import Console
    from rich.live import Live

    from nsstream_daemon.status_screen import screen

    if not watch:
        told = _ask(socket, "status")
        print(json.dumps(told, indent=2)) if as_json else Console().print(screen(told))
        raise typer.Exit(0 if told["healthy"] else 1)
    if as_json:
        while True:
            print(json.dumps(_ask(socket, "status")), flush=True)
            time.sleep(WATCH_S)
    with Live(screen(_ask(socket, "status")), auto_refresh=False, screen=True) as live:
        while True:
            live.update(screen(_ask(socket, "status")), refresh=True)
            time.sleep(WATCH_S)


@ctl_app.command("reload")
def reload(socket: Socket = DEFAULT_SOCKET, as_json: Json = False) -> None:
    """Read the configuration again; when this returns it holds, or was refused and nothing changed."""
    changes = _ask(socket, "reload")
    if as_json:
        print(json.dumps(changes, indent=2))
    else:
        print("\n".join(f"{key} = {json.dumps(value)}" for key, value in changes.items()) or "nothing changed")


@ctl_app.command("pause")
def pause(socket: Socket = DEFAULT_SOCKET) -> None:
    """Start no more trainings, also after a restart; what runs goes on, and so does the capture."""
    _ask(socket, "pause")


@ctl_app.command("resume")
def resume(socket: Socket = DEFAULT_SOCKET) -> None:
    """Start trainings again."""
    _ask(socket, "resume")


@ctl_app.command("chunks")
def chunks(socket: Socket = DEFAULT_SOCKET, limit: Limit = 20, as_json: Json = False) -> None:
    """List the chunks that the training has seen, and what became of them."""
    from rich.console import Console

    from nsstream_daemon.status_screen import chunks_table

    told = _ask(socket, "chunks", limit=limit)
    print(json.dumps(told, indent=2)) if as_json else Console().print(chunks_table(told))


@ctl_app.command("models")
def models(socket: Socket = DEFAULT_SOCKET, limit: Limit = 20, as_json: Json = False) -> None:
    """List the models, how the gate judged them, and which one is promoted (*)."""
    from rich.console import Console

    from nsstream_daemon.status_screen import models_table

    told = _ask(socket, "models", limit=limit)
    if as_json:
        print(json.dumps(told, indent=2))
        return
    promoted = _ask(socket, "status")["training"]["promoted"]
    Console().print(models_table(told, None if promoted is None else promoted["id"]))


@ctl_app.command("privacy")
def privacy(socket: Socket = DEFAULT_SOCKET, limit: Limit = 10, as_json: Json = False) -> None:
    """Show what is promised, what of it is spent and left, until when it lasts, and what the newest chunks cost."""
    from rich.console import Console

    from nsstream_daemon.privacy_screen import privacy_screen

    told = _ask(socket, "privacy", limit=limit)
    print(json.dumps(told, indent=2)) if as_json else Console().print(privacy_screen(told))


@ctl_app.command("promote")
def promote(
    model: Annotated[str | None, typer.Argument(help="As in ctl models; with --newest: none.")] = None,
    newest: Annotated[bool, typer.Option("--newest", help="The newest that passed, and leave it to the gate.")] = False,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Promote a model, until it is taken back with --newest: the way back to one that was good."""
    from nsstream.errors import InputError

    if (model is None) != newest:
        raise InputError("give a model, or --newest")
    promoted = _ask(socket, "promote", model=model)
    print("no model is promoted" if promoted is None else f"{promoted['id']} is promoted")


@ctl_app.command("forget")
def forget(
    chunk: Annotated[str | None, typer.Argument(help="As in ctl chunks; with --before: none.")] = None,
    before: Annotated[
        str | None, typer.Option(help="All that ended by then: 2026-01-31T12:00:00Z, or as long ago as 30d.")
    ] = None,
    socket: Socket = DEFAULT_SOCKET,
    as_json: Json = False,
) -> None:
    """Remove a chunk, or all before a time: the file, and the models that only it made, but the promoted one.

    Models that went on from one of these hold what it taught them. There is no way back.
    """
    from nsstream.errors import InputError

    if (chunk is None) == (before is None):
        raise InputError("give a chunk, or --before TIME")
    asked: dict[str, Any] = {"chunk": chunk} if before is None else {"before_ns": _time_ns(before)}
    told = _ask(socket, "forget", **asked)
    while told["left"]:
        more = _ask(socket, "forget", **asked)
        for name in ("chunks", "row_count", "models"):
            told[name] += more[name]
        told |= {name: more[name] for name in ("kept_models", "spared", "left")}
    if as_json:
        print(json.dumps(told, indent=2))
        return
    print(f"forgot {len(told['chunks']):,} chunks of {told['row_count']:,} rows, {len(told['models']):,} models")
    for name, reason in told["spared"].items():
        print(f"spared {name}: it is {reason}")
    for name in told["kept_models"]:
        print(f"kept model {name}: it is promoted")


@ctl_app.command("flush")
def flush(socket: Socket = DEFAULT_SOCKET) -> None:
    """Close the open chunks now, as partial ones; when this returns they are stored."""
    _ask(socket, "flush")


def _time_ns(text: str) -> int:
    from datetime import UTC, datetime

    from nsstream.errors import InputError
    from nsstream.pipeline import parse_duration_s

    try:
        told = datetime.fromisoformat(text)
        return round((told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() * 1e9)
    except ValueError:
        pass
    try:
        return time.time_ns() - round(parse_duration_s(text) * 1e9)
    except InputError as err:
        raise InputError(f"--before is a time such as 2026-01-31T12:00:00Z, or 30d, got {text!r:.40}") from err


def _ask(socket: Path, command: str, **told: Any) -> Any:
    from nsstream_daemon.control_server import ask

    return ask(socket, {"command": command, **told})
