"""score: how close a twin is, how valid, how much of a copy, and what attacks on it find."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nsstream_daemon.places import write_json
from nsstream_daemon.twin_commands import Ipv4Range, Ipv6Range

if TYPE_CHECKING:
    from nsstream.encode.address_map import AddressMap


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
        promised, words = _promised(synthetic)
        figures["privacy"] = attacked.as_dict() | {"promised": promised}
        console.print(privacy_table(attacked))
        console.print(f"promised  {words}", highlight=False)
    if json_output:
        write_json(figures, json_output)
        console.print(f"figures  {json_output}", highlight=False, soft_wrap=True)


def _address_map(twin: Path, key_file: Path | None, ranges: tuple[str, str]) -> AddressMap | None:
    """The address map of a twin: of the key that was named, or of the one in the state beside the twin, if any."""
    from nsstream.encode.address_map import AddressMap
    from nsstream.pipeline.address_keys import key_in
    from nsstream.pipeline.outputs import KEY_FILE, beside
    from nsstream.pipeline.twin import STATE_SUFFIX

    key = beside(twin, STATE_SUFFIX) / KEY_FILE
    path = key_file or (key if key.exists() else None)
    return None if path is None else AddressMap(key_in(path), *ranges)


def _promised(twin: Path) -> tuple[dict[str, Any] | None, str]:
    """What is promised of a twin by the file beside it, and in words; a promise that does not hold is none."""
    from nsstream.errors import InputError
    from nsstream.replay.promise_file import in_plain_words, in_words, promise_beside

    try:
        promise = promise_beside(twin)
    except InputError as err:
        return None, f"nothing that holds: {err}"
    if promise is None:
        return None, "nothing: it was not drawn of private models, or came without what says so (TWIN.privacy.json)"
    return promise, (
        f"{in_words(promise)}. {in_plain_words(promise)} That holds against every attack, known or not; those above "
        "look for what it leaves; a leak there is that, or what the public model knew already, or chance"
    )
