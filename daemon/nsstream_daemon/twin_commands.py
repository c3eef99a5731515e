"""demo, twin: a trace to its twin. What only --private does is in `private_twin`."""

from __future__ import annotations

import hashlib
import secrets
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from nsstream_daemon.bundled_command import capture_of
from nsstream_daemon.places import print_places, write_json
from nsstream_daemon.private_options import (
    DELTA,
    MOST_CONVERSATIONS,
    Delta,
    MostConversations,
    Private,
    Unit,
    promise,
)
from nsstream_daemon.private_twin import NO_SCORE, interval_of, run_private_flow_twin, run_private_twin

if TYPE_CHECKING:
    from nsstream.pipeline.twin import TwinConfig

DEMO_BUDGET: Final = "240s"
SCORE_SUFFIX: Final = ".score.json"

Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**63 - 1,
        help="Fixes all chance, the key of the address map included: who knows the seed can undo the map. "
        "Without it, both are random.",
    ),
]
Cores = Annotated[int, typer.Option(min=1, help="Threads in all.")]
Workers = Annotated[int, typer.Option(min=1, help="Chunks fine-tuned at once.")]
Budget = Annotated[str | None, typer.Option(help="Time from start to verified twin, such as 90s, 5m or 1h.")]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Training steps of the seed model, in place of a budget: the run is then reproducible."),
]
Ipv4Range = Annotated[str, typer.Option(help="Where IPv4 hosts of the twin are: a network of /16 or shorter.")]
Ipv6Range = Annotated[str, typer.Option(help="Where IPv6 hosts of the twin are: a network of /48 or shorter.")]
ModelName = Annotated[
    str, typer.Option("--model", help="autoregressive, or doppelganger: NetShare's architecture, a baseline.")
]
Device = Annotated[
    str,
    typer.Option(
        help="Where models are trained: cpu, cuda, or auto, which is the GPU that CUDA_VISIBLE_DEVICES names where "
        "torch can use it, and else the CPU."
    ),
]


def twin(
    trace: Annotated[
        Path, typer.Argument(help="A capture, or a table of flows (CSV, nfcapd), plain or as .gz, .xz or .zst.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The twin: .pcap, .pcapng or, of flows, .csv; and .gz, .xz or .zst.")
    ],
    chunk: Annotated[str, typer.Option(help="Length of a chunk, such as 60s or 1h; auto chooses it.")] = "auto",
    budget: Budget = None,
    steps: Steps = None,
    model: ModelName = "autoregressive",
    seed: Seed = None,
    state: Annotated[Path | None, typer.Option(help="Where chunks and models are kept; OUTPUT.state.")] = None,
    mtu: Annotated[
        int | None,
        typer.Option(
            min=576,
            max=65_535,
            help="Octets of the longest IP datagram; 1500, or (not with --private) more if the trace has it.",
        ),
    ] = None,
    ipv4_range: Ipv4Range = "10.0.0.0/8",
    ipv6_range: Ipv6Range = "fd00::/8",
    cores: Cores = 2,
    workers: Workers = 2,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier twin and its state.")] = False,
    with_score: Annotated[
        bool | None, typer.Option("--score/--no-score", help="Score the twin against the trace; not with --private.")
    ] = None,
    private: Private = None,
    parent: Annotated[
        Path | None, typer.Option("--from", help="With --private: the model to start from, of public traffic.")
    ] = None,
    during: Annotated[
        str | None,
        typer.Option(
            metavar="START/END",
            help="With --private: what of the capture is learned, in UTC, or START/24h; it is public.",
        ),
    ] = None,
    unit: Unit = "host",
    delta: Delta = DELTA,
    most_conversations: MostConversations = MOST_CONVERSATIONS,
) -> None:
    """Make the twin of a trace (budget: 5m, unless --steps is given).

    With --private the twin keeps to (epsilon, delta) for each unit of the capture; the model to start from has to be of
    public traffic. All of the interval is learned as one, for --steps (100); nothing else of the capture is used, and
    no score is made. Each run spends its epsilon anew.
    """
    from nsstream.encode.address_map import AddressMap
    from nsstream.errors import InputError
    from nsstream.pipeline import parse_duration_s
    from nsstream.pipeline.flow_twin import is_table
    from nsstream.pipeline.outputs import beside
    from nsstream.pipeline.twin import STATE_SUFFIX, USUAL_MTU, TwinConfig

    if budget is not None and steps is not None:
        raise InputError("give either --budget or --steps, not both")
    if private is None and (parent is not None or during is not None):
        raise InputError("--from and --during are for --private: an open twin begins from nothing, and is of all of it")
    if private is not None:
        from nsstream.pipeline.private_twin import PrivateTwinConfig

        is_otherwise_open = budget is not None or seed is not None or model != "autoregressive"
        told = promise(
            private, delta, unit, most_conversations, steps, parent=parent, is_otherwise_open=is_otherwise_open
        )
        if with_score:
            raise InputError(f"--score: {NO_SCORE}")
        if chunk != "auto":
            raise InputError("--private learns the whole of --during as one chunk: no --chunk")
        if is_table(output) and mtu is not None:
            raise InputError("--mtu is for packets: a table of flows has none")
        assert parent is not None
        run = run_private_flow_twin if is_table(output) else run_private_twin
        run(
            PrivateTwinConfig(
                trace=trace,
                output=output,
                state=state or beside(output, STATE_SUFFIX),
                parent=parent,
                interval_ns=interval_of(during),
                private=told,
                address_map=AddressMap(address_key(None), ipv4_range, ipv6_range),
                seed=secrets.randbelow(2**31),
                mtu=mtu or USUAL_MTU,
                cores=cores,
                replaces=force,
            )
        )
        return
    chunk_s = None if chunk == "auto" else parse_duration_s(chunk)
    if chunk_s is not None and chunk_s != int(chunk_s):
        raise InputError(f"--chunk must be whole seconds, got {chunk}")
    config = TwinConfig(
        trace=trace,
        output=output,
        state=state or beside(output, STATE_SUFFIX),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        address_map=AddressMap(address_key(seed), ipv4_range, ipv6_range),
        model=model,
        budget_s=None if steps is not None else parse_duration_s(budget or "5m"),
        steps=steps,
        chunk_length_s=None if chunk_s is None else int(chunk_s),
        mtu=mtu,
        cores=cores,
        workers=workers,
        device=device,
        replaces=force,
    )
    if is_table(output):
        _run_flows(config)
    else:
        _run(config, trace, with_score=with_score is not False)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the twin; an earlier demo's is replaced.")] = Path("out"),
    budget: Annotated[str, typer.Option(help="Time from start to verified twin; the score comes after.")] = DEMO_BUDGET,
    steps: Steps = None,
    seed: Seed = None,
    cores: Cores = 2,
    workers: Workers = 2,
) -> None:
    """Run the whole path on the bundled capture of a small lab network."""
    from nsstream.encode.address_map import AddressMap
    from nsstream.errors import OutputError
    from nsstream.pipeline import parse_duration_s
    from nsstream.pipeline.twin import TwinConfig

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"cannot make the folder {out}: {err.strerror}") from err
    with resources.as_file(capture_of("lab")) as trace:
        config = TwinConfig(
            trace=trace,
            output=out / "twin.pcap",
            state=out / "twin.pcap.state",
            seed=secrets.randbelow(2**31) if seed is None else seed,
            address_map=AddressMap(address_key(seed)),
            budget_s=None if steps is not None else parse_duration_s(budget),
            steps=steps,
            cores=cores,
            workers=workers,
            replaces=True,
        )
        _run(config, trace, with_score=True)


def address_key(seed: int | None) -> bytes:
    """32 octets: random, or SHA-256 of ``nsstream address key SEED`` where a seed is given."""
    return secrets.token_bytes(32) if seed is None else hashlib.sha256(f"nsstream address key {seed}".encode()).digest()


def _run(config: TwinConfig, trace: Path, *, with_score: bool) -> None:
    """Make the twin, score it, and say where everything is."""
    from rich.console import Console

    from nsstream.clock import SystemClock
    from nsstream.errors import InputError
    from nsstream.pipeline import Progress, Stage
    from nsstream.pipeline.outputs import beside, check_output
    from nsstream.pipeline.twin import make_twin
    from nsstream.replay.pcap_sink import split_suffixes
    from nsstream.score import score_traces
    from nsstream_daemon.progress_view import ProgressView

    split_suffixes(config.output)
    score_path = beside(config.output, SCORE_SUFFIX)
    if with_score:
        check_output(score_path, inputs=[trace], replaces=config.replaces)
    console = Console(stderr=True)
    clock = SystemClock()
    began_ns = clock.monotonic_ns()

    def elapsed_s() -> float:
        return (clock.monotonic_ns() - began_ns) * 1e-9

    with ProgressView(console) as view:
        made = make_twin(config, view, clock)
        score_path.unlink(missing_ok=True)  # it told of the twin that was replaced
        result, why_not = None, "not asked for; nsstream score makes one"
        if with_score:
            view(Progress(Stage.SCORE, elapsed_s()))
            try:
                result = score_traces(trace, config.output)
            except InputError as err:  # the twin is whole; a trace of a single conversation cannot be scored
                why_not = str(err)
        if result:
            write_json(result.as_dict() | {"verification": made.verification.as_dict()}, score_path)
            view(Progress(Stage.SCORE, elapsed_s(), is_done=True))
    out = Console()
    if result:
        from nsstream.score.report import summary_table

        out.print(summary_table(result))
    print_places(
        out,
        {
            "twin": f"{made.output}  ({made.packet_count:,} packets, {made.real_packet_count:,} in the trace)",
            "verify": "; ".join(made.verification.complaints()) or "every frame is lawful",
            "report": str(score_path) if result else f"none: {why_not}",
            "config": str(made.config),
            "state": f"{made.state}  (private: chunks of the real trace, models, the address key)",
        },
    )


def _run_flows(config: TwinConfig) -> None:
    """Make the twin of a table of flows, and say where everything is."""
    from rich.console import Console

    from nsstream.clock import SystemClock
    from nsstream.pipeline.flow_twin import make_flow_twin
    from nsstream_daemon.progress_view import ProgressView

    with ProgressView(Console(stderr=True)) as view:
        made = make_flow_twin(config, view, SystemClock())
    print_places(
        Console(),
        {
            "twin": f"{made.output}  ({made.record_count:,} flows, {made.real_count:,} in the table)",
            "verify": "every line is a lawful flow",
            "report": "none: nsstream score reads captures only",
            "config": str(made.config),
            "state": f"{made.state}  (private: chunks of the real flows, models, the address key)",
        },
    )
