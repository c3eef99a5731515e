"""replay, send: a replay server in the foreground, and commands to one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

send_app = typer.Typer(help="Command a replay server that runs.", no_args_is_help=True)

Endpoint = Annotated[str, typer.Option(help="Where the server listens: ipc:///absolute/path or tcp://127.0.0.1:PORT.")]


def replay(endpoint: Endpoint) -> None:
    """Run a replay server until it is told to end."""
    from nsstream.replay.server import main

    raise typer.Exit(main(["--endpoint", endpoint]))


@send_app.command("start")
def start(
    models: Annotated[list[Path], typer.Argument(help="Models in the order of their chunks.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Capture file: .pcap or .pcapng, and .gz, .xz, .zst.")],
    endpoint: Endpoint,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Fixes what is drawn.")] = 0,
    mtu: Annotated[int, typer.Option(min=576, max=9216, help="Octets of the longest IP datagram.")] = 1500,
    rate: Annotated[str, typer.Option(help="Twin seconds a second, or max.")] = "max",
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
) -> None:
    """Start a run."""
    from nsstream.errors import InputError
    from nsstream.replay import ReplayClient

    try:
        speed = "max" if rate == "max" else float(rate)
    except ValueError as err:
        raise InputError(f"--rate is max or a number such as 1.0, got {rate!r}") from err
    sink = {"kind": "pcap", "path": output.absolute(), "overwrite": force}
    with ReplayClient(endpoint) as client:
        accepted = client.start([path.absolute() for path in models], sink, seed, mtu, speed)  # type: ignore[arg-type]
    print(f"run {accepted.run} is {accepted.state}")


@send_app.command("status")
def status(endpoint: Endpoint) -> None:
    """Print how the newest run goes, as JSON."""
    from nsstream.replay import ReplayClient

    with ReplayClient(endpoint) as client:
        print(client.status().model_dump_json(indent=2))


@send_app.command("stop")
def stop(endpoint: Endpoint) -> None:
    """End the run; what it wrote is undone."""
    from nsstream.replay import ReplayClient

    with ReplayClient(endpoint) as client:
        print(client.stop().state)


@send_app.command("shutdown")
def shutdown(endpoint: Endpoint) -> None:
    """End the server, and its run with it."""
    from nsstream.replay import ReplayClient

    with ReplayClient(endpoint) as client:
        print(client.shutdown().state)
