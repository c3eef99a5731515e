"""The command line: what is offered, and how it ends. What a command does is in `twin_commands` and `part_commands`.

Promises: an error that nsstream raises on purpose is one sentence on standard error and exit status 1, without a
traceback; Ctrl-C and SIGTERM end a command as errors do, with nothing half-written, and exit with 130. ``--help`` loads
neither torch nor numba: every command imports what it needs when it runs.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from nsstream import __version__
from nsstream.errors import NsstreamError
from nsstream_daemon import (
    bench_command,
    bundled_command,
    chunk_commands,
    compile_command,
    ctl_commands,
    ingest_command,
    install_command,
    keys_commands,
    part_commands,
    plugin_commands,
    replay_commands,
    score_command,
    service_commands,
    state_commands,
    subscribe_command,
    testbed_commands,
    twin_commands,
)

app = typer.Typer(
    name="nsstream",
    help="A live, private twin of a network's traffic.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(twin_commands.demo)
app.command("twin")(twin_commands.twin)
app.command("ingest")(ingest_command.ingest)
app.command("daemon")(service_commands.daemon)
app.command("validate")(service_commands.validate)
app.command("install-systemd")(install_command.install_systemd)
app.command("compile")(compile_command.compile_ahead)
app.command("bundled")(bundled_command.bundled)
app.command("doctor")(state_commands.doctor)
app.command("backup")(state_commands.backup)
app.command("restore")(state_commands.restore)
app.command("score")(score_command.score)
app.command("train")(part_commands.train)
app.command("draw")(part_commands.draw)
app.command("replay")(replay_commands.replay)
app.command("bench", context_settings={"allow_interspersed_args": False})(bench_command.bench)
app.add_typer(chunk_commands.chunk_app, name="chunk")
app.add_typer(plugin_commands.plugin_app, name="plugin")
replay_commands.send_app.command("hello")(subscribe_command.hello)
replay_commands.send_app.command("subscribe")(subscribe_command.subscribe)
app.add_typer(ctl_commands.ctl_app, name="ctl")
app.add_typer(replay_commands.send_app, name="send")
app.add_typer(testbed_commands.testbed_app, name="testbed")
app.add_typer(keys_commands.keys_app, name="keys")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"nsstream {__version__}")
        raise typer.Exit


@app.callback()
def nsstream(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A live, private twin of a network's traffic."""


def main() -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except NsstreamError as err:
        print(f"nsstream: {err}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
