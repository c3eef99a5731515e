"""demo, twin, score: a trace to its twin, and how close the twin is."""

from __future__ import annotations

import hashlib
import json
import secrets
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from nsstream.encode.address_map import AddressMap
    from nsstream.pipeline.twin import TwinConfig

DEMO_CAPTURE: Final = "lab.pcap.xz"
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
        typer.Option(min=576, max=65_535, help="Octets of the longest IP datagram; 1500, or more if the trace has it."),
    ] = None,
    ipv4_range: Ipv4Range = "10.0.0.0/8",
    ipv6_range: Ipv6Range = "fd00::/8",
    cores: Cores = 2,
    workers: Workers = 2,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier twin and its state.")] = False,
    with_score: Annotated[bool, typer.Option("--score/--no-score", help="Score the twin against the trace.")] = True,
) -> None:
    """Make the twin of a trace (budget: 5m, unless --steps is given)."""
    from nsstream.encode.address_map import AddressMap
    from nsstream.errors import InputError
    from nsstream.pipeline import parse_duration_s
    from nsstream.pipeline.flow_twin import is_table
    from nsstream.pipeline.twin import TwinConfig

    if budget is not None and steps is not None:
        raise InputError("give either --budget or --steps, not both")
    chunk_s = None if chunk == "auto" else parse_duration_s(chunk)
    if chunk_s is not None and chunk_s != int(chunk_s):
        raise InputError(f"--chunk must be whole seconds, got {chunk}")
    config = TwinConfig(
        trace=trace,
        output=output,
        state=state or _beside(output, ".state"),
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
        _run(config, trace, with_score=with_score)


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
    with resources.as_file(resources.files("nsstream_daemon") / "data" / DEMO_CAPTURE) as trace:
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


def score(
    real: Annotated[Path, typer.Argument(help="The real trace.")],
    synthetic: Annotated[Path, typer.Argument(help="Its twin.")],
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out",
            "--holdout",
            help="Other traffic of the same network, for the floor; for --privacy, what it never learned.",
        ),
    ] = None,
    privacy: Annotated[
        bool, typer.Option("--privacy", help="Attack the twin, too: what could an outsider learn of the trace?")
    ] = False,
    address_key_file: Annotated[
        Path | None,
        typer.Option(
            "--address-key", help="Of --privacy: the key of the twin's address map; SYNTHETIC.state/address.key."
        ),
    ] = None,
    ipv4_range: Ipv4Range = "10.0.0.0/8",
    ipv6_range: Ipv6Range = "fd00::/8",
    json_output: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the samples that the score draws.")] = 0,
    details: Annotated[bool, typer.Option("--details", help="Show every measure.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the --json file.")] = False,
) -> None:
    """Measure how close a twin is to its trace, how valid, and how much of a copy."""
    from rich.console import Console

    from nsstream.pipeline.outputs import check_output
    from nsstream.score import score_traces
    from nsstream.score.report import details_table, privacy_table, summary_table

    if json_output:
        check_output(json_output, inputs=[real, synthetic], replaces=force)
    mapping = _address_map(synthetic, address_key_file, (ipv4_range, ipv6_range)) if privacy else None
    result = score_traces(real, synthetic, held_out, seed)
    figures = result.as_dict()
    console = Console()
    console.print(summary_table(result))
    if details:
        console.print(details_table(result))
    if privacy:
        from nsstream.score.privacy import attack_traces

        attacked = attack_traces(real, synthetic, held_out, mapping.map if mapping else None, seed)
        figures["privacy"] = attacked.as_dict()
        console.print(privacy_table(attacked))
    if json_output:
        _write_json(figures, json_output)
        console.print(f"figures  {json_output}", highlight=False, soft_wrap=True)


def _address_map(twin: Path, key_file: Path | None, ranges: tuple[str, str]) -> AddressMap | None:
    """The address map of a twin: of the key that was named, or of the one in the state beside the twin, if any."""
    from nsstream.encode.address_map import AddressMap
    from nsstream.pipeline.address_keys import key_in
    from nsstream.pipeline.outputs import KEY_FILE
    from nsstream.pipeline.twin import STATE_SUFFIX

    beside = _beside(twin, STATE_SUFFIX) / KEY_FILE
    path = key_file or (beside if beside.exists() else None)
    return None if path is None else AddressMap(key_in(path), *ranges)


def address_key(seed: int | None) -> bytes:
    """32 octets: random, or SHA-256 of ``nsstream address key SEED`` where a seed is given."""
    return secrets.token_bytes(32) if seed is None else hashlib.sha256(f"nsstream address key {seed}".encode()).digest()


def _run(config: TwinConfig, trace: Path, *, with_score: bool) -> None:
    """Make the twin, score it, and say where everything is."""
    from rich.console import Console

    from nsstream.clock import SystemClock
    from nsstream.errors import InputError
    from nsstream.pipeline import Progress, Stage
    from nsstream.pipeline.outputs import check_output
    from nsstream.pipeline.twin import make_twin
    from nsstream.replay.pcap_sink import split_suffixes
    from nsstream.score import score_traces
    from nsstream_daemon.progress_view import ProgressView

    split_suffixes(config.output)
    score_path = _beside(config.output, SCORE_SUFFIX)
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
            _write_json(result.as_dict() | {"verification": made.verification.as_dict()}, score_path)
            view(Progress(Stage.SCORE, elapsed_s(), is_done=True))
    out = Console()
    if result:
        from nsstream.score.report import summary_table

        out.print(summary_table(result))
    _print_places(
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
    _print_places(
        Console(),
        {
            "twin": f"{made.output}  ({made.record_count:,} flows, {made.real_count:,} in the table)",
            "verify": "every line is a lawful flow",
            "report": "none: nsstream score reads captures only",
            "config": str(made.config),
            "state": f"{made.state}  (private: chunks of the real flows, models, the address key)",
        },
    )


def _write_json(figures: dict[str, object], path: Path) -> None:
    from nsstream.chunk import whole_file

    with whole_file(path) as file:
        file.write(json.dumps(figures, indent=2).encode() + b"\n")


def _print_places(console: Console, places: dict[str, str]) -> None:
    for name, place in places.items():
        console.print(f"{name:<7} {place}", highlight=False, soft_wrap=True)


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(output.name + suffix)
