"""testbed: a twin of two sides written for tcpreplay, replayed on two interfaces, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

testbed_app = typer.Typer(help="Replay a twin on a testbed's two interfaces, and count.", no_args_is_help=True)


@testbed_app.command("write")
def write(
    directory: Annotated[Path, typer.Argument(help="To make: the twin, its sides, what is expected.")],
    client_interface: Annotated[str, typer.Option("--client", help="Where clients' packets leave.")],
    server_interface: Annotated[str, typer.Option("--server", help="Where servers' packets leave.")],
    models: Annotated[list[Path] | None, typer.Option("--model", help="A model; in the order of their chunks.")] = None,
    trace: Annotated[Path | None, typer.Option(help="A capture; without this and models, the bundled one.")] = None,
    testbed: Annotated[Path | None, typer.Option(help="JSON: the lab's prefixes, VLANs and MACs.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Of the twin's time; it ends there.")] = None,
    packets: Annotated[int | None, typer.Option(min=1, help="Of the twin; it ends there.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Fixes what is drawn.")] = 0,
    mtu: Annotated[int, typer.Option(min=576, max=65_535, help="Octets of the longest IP datagram.")] = 1500,
) -> None:
    """Write a scenario; DIRECTORY/replay.sh needs nothing but tcpreplay."""
    from importlib.resources import as_file

    from nsstream_plugins.lab import LAB
    from nsstream_plugins.testbed import write_scenario

    from nsstream.errors import InputError
    from nsstream.replay import spawn_server

    if models and trace is not None:
        raise InputError("give models or --trace, not both")
    limits = {name: value for name, value in (("twin_s", seconds), ("packets", packets)) if value is not None}
    with as_file(LAB) as lab, spawn_server() as client:
        stream: dict[str, Any] = {"kind": "recorded", "path": str((trace or lab).absolute())}
        if models:
            stream = {"kind": "models", "models": [str(path.absolute()) for path in models]}
        scenario = write_scenario(
            directory, client, stream, (client_interface, server_interface), seed=seed, mtu=mtu,
            testbed=None if testbed is None else _json_in(testbed), scenario={"limits": limits} if limits else None,
        )  # fmt: skip
    print(f"scenario  {directory}")
    print(f"client    {scenario.client_packets:,} packets on {client_interface}")
    print(f"server    {scenario.server_packets:,} packets on {server_interface}")
    print(f"lasts     {scenario.duration_s:.3f} s")


@testbed_app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Of the scenario.")],
    watch: Annotated[
        list[str] | None,
        typer.Option(help="IF, IF:client or IF:server: where those packets must arrive; may be repeated."),
    ] = None,
    default_route: Annotated[bool, typer.Option("--default-route", help="One with a default route is meant.")] = False,
) -> None:
    """Replay a scenario and say whether it passed: exit status 1 if not. Other options are tcpreplay's: --pps=1000."""
    from nsstream_plugins.testbed import run_scenario

    result = run_scenario(directory, options=context.args, watched=watch or [], default_route=default_route)
    width = max(len(check.name) for check in result.checks)
    for check in result.checks:
        mark = "pass" if check.is_met else "FAIL"
        print(f"{mark}  {check.name:<{width}}  {check.found:>12,} of {check.expected:,}")
    print(f"{'passed' if result.has_passed else 'FAILED'} in {result.elapsed_s:.3f} s; {directory}/result.json")
    raise typer.Exit(0 if result.has_passed else 1)


def _json_in(path: Path) -> dict[str, Any]:
    from nsstream.errors import InputError

    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as err:
        raise InputError(f"{path}: is not JSON: {err}") from err
    if not isinstance(value, dict):
        raise InputError(f"{path}: is not a JSON object")
    return value
