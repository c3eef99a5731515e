"""What was drawn gets its place, and with it the promise that the replay put beside it (`replay.promise_file`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nsstream.pipeline.outputs import check_output, publish
from nsstream.replay.promise_file import promise_place


def check_drawn(output: Path, *, inputs: Sequence[Path] = (), replaces: bool) -> None:
    """Raise OutputError or InputError if a twin, or the promise beside it, may not be written."""
    for path in (output, promise_place(output)):
        check_output(path, inputs=inputs, replaces=replaces)


def publish_drawn(drawn: Path, output: Path, *, others: Sequence[tuple[Path, Path]] = (), trash: Path) -> None:
    """Give what was drawn its place, the promise beside it too, and `others` theirs: all or none; raises OutputError.

    Where there is no promise, that of a twin that was replaced is removed.
    """
    promise = [(promise_place(drawn), promise_place(output))] if promise_place(drawn).exists() else []
    publish([*others, *promise, (drawn, output)], trash=trash)  # the twin last: it is never there without its promise
    if not promise:
        promise_place(output).unlink(missing_ok=True)
