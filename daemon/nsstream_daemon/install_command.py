"""install-systemd: the units and what belongs to them, shown first, then put in place or removed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

NEXT = """next:
  edit {config}                      (source.input), then: nsstream validate -c {config}
  systemctl enable --now nsstreamd nsstream-replay      (and nsstreamd.socket for netflow:@)"""


def install_systemd(
    root: Annotated[Path, typer.Option(help="Of the system to install into, such as a mounted image.")] = Path("/"),
    program: Annotated[
        Path | None, typer.Option(help="The nsstream that the units start, as they see it. Without it, this one.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Also a drop-in that lets workers use NVIDIA GPUs.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Undo it; state, keys and users stay.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
) -> None:
    """Install the service where systemd runs it: units, users, folders, an example of the configuration.

    Shows what it would do, and does it with --yes, or where it is told to at a terminal. A configuration that is there
    is never overwritten.
    """
    from nsstream.errors import InputError
    from nsstream_daemon.install_plan import install_steps, remove_steps
    from nsstream_daemon.unit_files import EXAMPLE, check_program, own_program, place_of, unit_files

    root = root.absolute()
    if not root.is_dir():
        raise InputError(f"--root {root}: there is no such directory")
    if remove:
        (example,) = (file for file in unit_files(Path("/"), has_gpu=False) if file.place == place_of(EXAMPLE))
        steps = remove_steps(example.octets, root)
    else:
        started = own_program() if program is None else program
        if program is None and root != Path("/") and started.is_relative_to(root):
            started = Path("/") / started.relative_to(root)
        check_program(started, root)
        steps = install_steps(unit_files(started, has_gpu=gpu), root)
    for step in steps:
        print(step.words)
    if dry_run or not (yes or (sys.stdin.isatty() and typer.confirm("do it?"))):
        print("nothing was done; --yes does it")
        return
    for step in steps:
        if step.do is not None:
            step.do()
    print("done")
    if not remove:
        print(NEXT.format(config=place_of(EXAMPLE)))
