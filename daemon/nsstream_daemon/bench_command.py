"""bench: the figures that the README claims, measured by the scripts of a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


def bench(
    name: Annotated[str | None, typer.Argument(help="Which; none: list them.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Handed on to the benchmark.")] = None,
) -> None:
    """Run a benchmark of the checkout."""
    import nsstream
    from nsstream.errors import InputError

    folder = Path(nsstream.__file__).resolve().parent.parent / "bench"
    scripts = {path.stem: path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")}
    if not scripts:
        raise InputError(f"there are no benchmarks in {folder}; run this from a clone of the repository")
    if name is None:
        print("\n".join(scripts))
        return
    if name not in scripts:
        raise InputError(f"there is no benchmark {name!r}; there are {', '.join(scripts)}")
    raise typer.Exit(subprocess.run([sys.executable, str(scripts[name]), *(arguments or [])], check=False).returncode)
