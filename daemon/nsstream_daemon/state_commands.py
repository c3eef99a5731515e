"""doctor, backup, restore: what is done with a state directory as a whole."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nsstream.pipeline.doctor import Examination

State = Annotated[Path, typer.Argument(help="A state directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def doctor(
    state: State = Path("/var/lib/nsstream"),
    repairs: Annotated[bool, typer.Option("--repair", help="Repair what can be; no daemon may run meanwhile.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Of the daemon: for the cap of chunks, the seed model and the key."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Examine a state directory: ledger, chunks, models, keys, rights, room; exit status 1 if anything is wrong.

    Everything that is stored is read. --repair takes nothing away: what cannot be used is moved to STATE/quarantine.
    """
    from nsstream.clock import SystemClock
    from nsstream.errors import StateError
    from nsstream.pipeline.repair import repair
    from nsstream_daemon.state_lock import held_by, kept_out

    if not state.is_dir():
        raise StateError(f"there is no state directory {state}")
    holder = held_by(state)
    with kept_out(state) if repairs else nullcontext():
        found = _examine(state, config, is_live=holder is not None)
        repaired = [_told(finding) for finding in found.findings if finding.remedy] if repairs else []
        if repaired:
            repair(state.absolute(), found.findings, SystemClock())
            found = _examine(state, config, is_live=False)
    told = {
        "facts": found.facts | {"holder": holder},
        "repaired": repaired,
        "findings": list(map(_told, found.findings)),
    }
    print(json.dumps(told, indent=2)) if as_json else _print(told)
    raise typer.Exit(1 if found.findings else 0)


def backup(
    state: State,
    output: Annotated[Path, typer.Argument(metavar="FILE", help="The backup, a tar; it must not exist.")],
    as_json: Json = False,
) -> None:
    """Write a state directory to one file, also while its daemon runs; it holds the keys: keep it as you keep those."""
    from dataclasses import asdict

    from nsstream.clock import SystemClock
    from nsstream.errors import OutputError
    from nsstream.pipeline.backup import back_up

    if output.exists():
        raise OutputError(f"{output} is there already; give another name")
    done = back_up(state.absolute(), output, SystemClock().wall_ns())
    if as_json:
        print(json.dumps(asdict(done), indent=2))
        return
    print(f"{output}: {done.chunks} chunks, {done.models} models, {done.octets:,} octets")
    if not done.has_journal:
        print("the rows of chunks that were open are not in it")
    for name in done.left_out:
        print(f"{name} is not in it: nothing of nsstream's has such a name")


def restore(
    backup: Annotated[Path, typer.Argument(metavar="FILE", help="What `nsstream backup` wrote.")],
    state: Annotated[Path, typer.Argument(help="The state directory to make; it must not exist, or be empty.")],
    spent_in: Annotated[
        Path | None,
        typer.Option(help="The state directory that is replaced, or its ledger: it knows what was spent since."),
    ] = None,
    nothing_spent: Annotated[
        bool, typer.Option("--nothing-spent", help="You know that no private job ran after the backup was made.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a state directory of a backup, once all of it is checked; where it is there and empty, its owner stays.

    Without --spent-in or --nothing-spent, private mode learns nothing until a privacy.horizon_s has passed.
    """
    from nsstream.errors import InputError
    from nsstream.pipeline.restore import restore as restore_state

    if spent_in is not None and nothing_spent:
        raise InputError("give --spent-in or --nothing-spent, not both")
    told = restore_state(backup, state.absolute(), spent_in=spent_in, is_complete=nothing_spent)
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        print(f"{state}: {len(told['files'])} files restored, promoted {told['promoted'] or 'none'}")


def _examine(state: Path, config: Path | None, *, is_live: bool) -> Examination:
    from nsstream.model.loading import load_any
    from nsstream.pipeline.config_file import load_config
    from nsstream.pipeline.doctor import examine

    loaded = None if config is None else load_config(config)
    seed_model = None if loaded is None else loaded.training.seed_model
    return examine(
        state.absolute(),
        is_live=is_live,
        load=load_any,
        keep_octets=None if loaded is None else loaded.chunks.keep_octets,
        spared=() if seed_model is None else (seed_model,),
        has_own_key=loaded is None or loaded.training.address_key is None,
    )


def _told(finding: Any) -> dict[str, Any]:
    paths = [str(path) for path in finding.paths]
    return {"code": str(finding.code), "paths": paths, "says": finding.says, "repair": finding.remedy}


def _print(told: dict[str, Any]) -> None:
    for finding in told["repaired"]:
        print(f"repaired      {finding['paths'][0]}: {finding['says']}")
    for finding in told["findings"]:
        print(f"{finding['code']:<13} {finding['paths'][0]}: {finding['says']}")
        print(f"{'':<13} --repair would {finding['repair']}" if finding["repair"] else f"{'':<13} only you can help it")
    facts = told["facts"]
    promoted, schema, holder = (facts[name] for name in ("promoted", "schema", "holder"))
    print(
        f"{facts['state']}: {facts['chunks']} chunks, {facts['models']} models, promoted {promoted or 'none'}, "
        f"ledger of schema {schema or 'none'}, held by {holder or 'nobody'}; {len(told['findings']) or 'nothing'} wrong"
    )
