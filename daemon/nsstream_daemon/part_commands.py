"""train, draw: the parts of the path by hand, on files of a state directory."""

from __future__ import annotations

import secrets
from datetime import time
from pathlib import Path
from typing import Annotated

import typer

from nsstream_daemon.private_options import (
    DELTA,
    MOST_CONVERSATIONS,
    STEPS,
    Delta,
    MostConversations,
    Private,
    Unit,
    promise,
)
from nsstream_daemon.twin_commands import (
    Budget,
    Cores,
    Device,
    Ipv4Range,
    Ipv6Range,
    ModelName,
    Seed,
    Steps,
    address_key,
)


def train(
    chunks: Annotated[list[Path], typer.Argument(help="A chunk file, STATE/chunks/ID.arrow; or several, by start.")],
    models: Annotated[Path, typer.Option("--output", "-o", help="Folder of models; the new one is made in it.")],
    parent: Annotated[Path | None, typer.Option("--from", help="The model to start from; none: from nothing.")] = None,
    budget: Budget = None,
    steps: Steps = None,
    model: ModelName = "autoregressive",
    seed: Seed = None,
    ipv4_range: Ipv4Range = "10.0.0.0/8",
    ipv6_range: Ipv6Range = "fd00::/8",
    cores: Cores = 2,
    device: Device = "auto",
    turns: Annotated[int, typer.Option(min=1, max=1000, help="Of several chunks: how often weights are averaged.")] = 4,
    ray: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of several chunks: the Ray cluster to use.")
    ] = None,
    private: Private = None,
    delta: Delta = DELTA,
    unit: Unit = "host",
    most_conversations: MostConversations = MOST_CONVERSATIONS,
) -> None:
    """Train a model on one chunk (budget: 2m, unless --steps is given), or on several at once (--steps a turn).

    With --private the model keeps to (epsilon, delta) for each unit of the chunk; the model to start from has to be of
    public traffic. It is learned for --steps (100), and neither --seed nor a budget has a say.

    Of several chunks, each is learned by a worker of its own, on this machine or on a Ray cluster, and the weights are
    averaged after each turn; the result is a seed like any other.

    The key of the address map is the file address.key beside the folder of models, as in a state directory; it is made
    if it is missing.
    """
    from rich.console import Console

    from nsstream.clock import SystemClock
    from nsstream.errors import InputError
    from nsstream.pipeline import parse_duration_s
    from nsstream.pipeline.by_hand import train_chunk, train_chunks
    from nsstream_daemon.progress_view import ProgressView

    if len(chunks) > 1 or ray is not None:
        if steps is None or budget is not None or parent is not None or model != "autoregressive" or private:
            raise InputError("several chunks are learned from nothing, openly, by --steps, by the default model")
        if device not in ("auto", "cpu"):
            raise InputError(f"several chunks are learned on the CPU, got --device {device}")
        with ProgressView(Console(stderr=True)) as view:
            checkpoint = train_chunks(
                chunks, models, turns=turns, steps=steps, seed=secrets.randbelow(2**31) if seed is None else seed,
                new_key=address_key(seed), cores=cores, ray=ray, listen=view, clock=SystemClock(),
                ranges=(ipv4_range, ipv6_range),
            )  # fmt: skip
        Console().print(f"model  {checkpoint}", highlight=False, soft_wrap=True)
        return
    if budget is not None and steps is not None:
        raise InputError("give either --budget or --steps, not both")
    privacy: dict[str, object] | None = None
    if private is not None:
        steps = STEPS if steps is None else steps
        is_otherwise_open = budget is not None or seed is not None or model != "autoregressive"
        privacy = promise(
            private, delta, unit, most_conversations, steps, parent=parent, is_otherwise_open=is_otherwise_open
        )
    with ProgressView(Console(stderr=True)) as view:
        checkpoint = train_chunk(
            chunks[0],
            models,
            parent=parent,
            budget_s=None if steps is not None else parse_duration_s(budget or "2m"),
            steps=steps,
            seed=secrets.randbelow(2**31) if seed is None else seed,
            new_key=address_key(seed),
            cores=cores,
            listen=view,
            clock=SystemClock(),
            model=model,
            ranges=(ipv4_range, ipv6_range),
            private=privacy,
            device=device,
        )
    Console().print(f"model  {checkpoint}", highlight=False, soft_wrap=True)


def draw(
    models: Annotated[list[Path], typer.Argument(help="Models in the order of their chunks: STATE/models/ID ...")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A capture (.pcap, .pcapng) or, of flows, .csv; and .gz, .xz, .zst.")
    ],
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Fixes what is drawn; none: random.")] = None,
    mtu: Annotated[int, typer.Option(min=576, max=65_535, help="Octets of the longest IP datagram.")] = 1500,
    form: Annotated[str, typer.Option(help="Of a table of flows: the preset whose columns it has.")] = "plain",
    label: Annotated[str | None, typer.Option(help="Of a table: only flows of this label.")] = None,
    protocol: Annotated[int | None, typer.Option(min=0, max=255, help="Only flows of this IP protocol.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Only flows of the service at this port.")] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="Of a capture: only tcp/443, udp/8000-8100, icmp; may be repeated.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Of a capture: only what this twin host or prefix takes part in; repeated.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Only the models of chunks that have this time of day, HH:MM UTC.")
    ] = None,
    scale: Annotated[float, typer.Option(min=0.001, max=1000, help="How many times as many flows.")] = 1.0,
    more_clients: Annotated[
        bool, typer.Option("--more-clients", help="Of a capture, with --scale: new clients have the flows beyond.")
    ] = False,
    candidates: Annotated[
        int | None, typer.Option(min=1, max=64, help="Of a capture: drawings that each conversation is chosen from.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
) -> None:
    """Draw models' traffic into a capture file, or models of flows into a table; some of it, or more, if asked.

    Where a model was learned privately, OUTPUT.privacy.json says what the twin promises.
    """
    from rich.console import Console

    from nsstream.clock import SystemClock
    from nsstream.errors import InputError
    from nsstream.pipeline.by_hand import draw_flow_models, draw_models, models_at
    from nsstream.pipeline.flow_twin import is_table
    from nsstream_daemon.progress_view import ProgressView

    chosen = secrets.randbelow(2**31) if seed is None else seed
    if at is not None:
        models = models_at(models, _time_of_day(at))
    condition = {"label": label, "protocol": protocol, "port": port, "scale": scale}
    is_asked = condition != {"label": None, "protocol": None, "port": None, "scale": 1.0}
    if is_table(output):
        if service or host or more_clients or candidates:
            raise InputError("--service, --host, --more-clients and --candidates are for captures: -o OUT.pcap")
        with ProgressView(Console(stderr=True)) as view:
            count = draw_flow_models(
                models, output, form=form, condition=condition if is_asked else None, seed=chosen, cores=2,
                replaces=force, listen=view, clock=SystemClock(),
            )  # fmt: skip
        Console().print(f"drawn  {output}  ({count:,} flows, seed {chosen})", highlight=False, soft_wrap=True)
        return
    if label is not None:
        raise InputError("--label is for tables of flows: -o OUT.csv")
    scenario: dict[str, object] = {"flows": scale, "clients": "more" if more_clients else "same"}
    services = [*(service or []), *_services(protocol, port)]
    asked = {"services": services, "hosts": host, "candidates": candidates}
    scenario |= {name: value for name, value in asked.items() if value}
    with ProgressView(Console(stderr=True)) as view:
        packet_count = draw_models(
            models, output, seed=chosen, mtu=mtu, replaces=force, listen=view, clock=SystemClock(), scenario=scenario
        )
    Console().print(f"drawn  {output}  ({packet_count:,} packets, seed {chosen})", highlight=False, soft_wrap=True)


def _services(protocol: int | None, port: int | None) -> list[str]:
    """A protocol and a port as a scenario names them."""
    if port is None:
        return [] if protocol is None else [str(protocol)]
    return [f"{name}/{port}" for name in (["tcp", "udp", "sctp"] if protocol is None else [str(protocol)])]


def _time_of_day(text: str) -> time:
    from nsstream.errors import InputError

    try:
        return time.fromisoformat(text)
    except ValueError as err:
        raise InputError(f"--at: a time of day is like 14:30 or 14:30:15, got {text!r}") from err
