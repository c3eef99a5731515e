"""The promise beside a twin: ``OUT.privacy.json``, wherever a model that it was drawn of was learned privately.

It goes with the twin: handed out, it says what epsilon, delta, unit and mechanisms are, and of a single file by a
SHA-256 of which. A twin without it promises nothing. Of a row of files there is one, of all of them so far.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nsstream.chunk.whole_file import whole_file
from nsstream.errors import InputError, OutputError
from nsstream.replay.checkpoints import MAX_MANIFEST_BYTES
from nsstream.replay.sink import SinkContext

PROMISE_SUFFIX: Final = ".privacy.json"
LITTLE: Final = 5.0  # an epsilon from which on the bound alone says little: odds of 148 to 1
Promise = Mapping[str, Any]  # as of `privacy.promise.promise_of`

_log = logging.getLogger(__name__)


def promise_place(twin: Path) -> Path:
    """Where the promise of a twin stands."""
    return twin.with_name(twin.name + PROMISE_SUFFIX)


class PromiseFile:
    """The promise of what one sink writes.

    Args:
        context: of the sink.
        place: where it stands.
        twin: the file that it is of; None: a row of files.
        replaces: whether one of a twin that was replaced is removed.
    """

    def __init__(self, context: SinkContext, place: Path, twin: Path | None, *, replaces: bool) -> None:
        self._models, self._origin = context.models, context.origin
        self._place, self._twin, self._replaces = place, twin, replaces
        self._written: Promise | None = None

    def note(self) -> None:
        """Take in of which model the frames are that the sink is given now."""
        self._models.drawn(self._origin()[1])

    def put(self) -> None:
        """Say what the files that are whole by now promise; raises OutputError, but of a row logs it."""
        promise = self._models.promise()
        try:
            if promise is None and (self._written is not None or (self._twin is not None and self._replaces)):
                self._place.unlink(missing_ok=True)
            told = None if promise is None or self._twin is None else {"sha256": _sha256(self._twin)}
        except OSError as err:
            raise OutputError(f"cannot write {self._place}: {err.strerror or err}") from err
        if promise is None or promise is self._written:
            return
        try:
            with whole_file(self._place) as file:
                file.write(json.dumps({**promise, **(told or {})}, indent=1).encode() + b"\n")
        except OutputError as err:
            if self._twin is not None:
                raise
            _log.warning("promise_not_written error=%s", err)  # a row goes on; without it, it promises nothing
            return
        self._written = promise


def write_promise(twin: Path, promise: Promise) -> None:
    """Say beside a whole twin what it promises; raises OutputError."""
    try:
        told = {**promise, "sha256": _sha256(twin)}
    except OSError as err:
        raise OutputError(f"cannot read {twin}: {err.strerror or err}") from err
    with whole_file(promise_place(twin)) as file:
        file.write(json.dumps(told, indent=1).encode() + b"\n")


def promise_beside(twin: Path) -> dict[str, Any] | None:
    """The promise beside a twin, None where there is none.

    Raises InputError where it is not what we write, or is of another file.
    """
    path = promise_place(twin)
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_MANIFEST_BYTES + 1)
        told: Any = json.loads(octets) if len(octets) <= MAX_MANIFEST_BYTES else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as err:
        raise InputError(f"{path} is no promise of a twin: {err}") from err
    try:
        in_words(told), in_plain_words(told)
    except (LookupError, TypeError, ValueError, ArithmeticError) as err:
        raise InputError(f"{path} is no promise of a twin: what it says of epsilon, delta or unit is none") from err
    if told.get("sha256") != _sha256(twin):
        raise InputError(f"{path} is the promise of another file than {twin.name}, or that one was changed")
    return dict(told)


def in_words(promise: Promise) -> str:
    """A promise as a line."""
    if promise["unit"] is None:
        return "models that protect different units: what each of them keeps stands in its manifest"
    kinds = ", ".join(sorted({each["kind"] for each in promise["mechanisms"]}))
    words = f"epsilon {promise['epsilon']:.4g}, delta {promise['delta']:g}, of each {promise['unit']} ({kinds})"
    private = [model for model in promise["models"] if model["is_private"]]
    rest = len(promise["models"]) - len(private)
    if len(private) > 1:
        words += f"; that is of all {len(private)} private models together"
    elif private and private[0].get("epsilon_before"):
        own, before = private[0]["epsilon"], private[0]["epsilon_before"]
        words += (
            f"; that is in all: {own:.4g} of what its model learned last, {before:.4g} of what the models that it went "
            "on from had learned privately"
        )
        words += f" (less than the sum, {own + before:.4g})" if promise["epsilon"] < own + before else ""
    return words + (f"; {rest} more of its models were not learned privately, and have to be public" if rest else "")


def in_plain_words(promise: Promise) -> str:
    """What a promise means for who is in it, as a sentence or two."""
    if promise["unit"] is None:
        return "What that means for one host or one conversation cannot be said for all of its models together."
    what = {"host": "whether a certain host started any of it", "flow": "whether a certain conversation took place"}
    spent, delta = promise["epsilon"], promise["delta"]
    factor = f"{math.exp(spent):,.2f}" if spent < 3 else f"{math.exp(spent):,.0f}" if spent < 20 else f"e^{spent:.4g}"
    words = (
        f"Who sees the twin, knows all other traffic and asks {what[promise['unit']]}, learns at most so much that the "
        f"odds change by a factor of {factor}, but for a chance of {delta:g}."
    )
    return words + (" So large a factor rules out little by itself." if spent > LITTLE else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
