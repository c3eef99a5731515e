"""Sinks by name: `make_sink` makes one of the plain fields of a specification; anybody's distribution adds kinds.

A kind is the name of an entry point of the group ``nsstream.replay``; ours are registered in the same way. It loads to
a class (or another callable) of ``(spec, context)`` with the attribute `spec_type`, the model of its specification::

    [project.entry-points."nsstream.replay"]
    napatech = "nsstream_napatech:NapatechSink"          # then: {"kind": "napatech", "port": 0}

Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Protocol

from pydantic import ValidationError

from nsstream.errors import InputError
from nsstream.replay.faults import field_names, first_fault, show
from nsstream.replay.sink import ChecksOutput, Sink, SinkContext, SinkSpec

GROUP: Final = "nsstream.replay"


class SinkFactory(Protocol):
    """What an entry point loads to."""

    spec_type: type[SinkSpec]

    def __call__(self, spec: Any, context: SinkContext, /) -> Sink:
        """The sink of a specification, an instance of `spec_type`; not open."""
        ...


def sink_kinds() -> list[str]:
    """The kinds that are registered, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def check_sink(fields: Mapping[str, object]) -> SinkSpec:
    """The specification in these fields; `kind` says of which sink.

    Raises InputError: there is no such kind, it cannot be loaded, or its fields are not what it takes; the sentence
    begins with the path of the fault, ``sink.kind`` or the like.
    """
    return _read(fields)[1]


def make_sink(fields: Mapping[str, object], context: SinkContext) -> Sink:
    """The sink that fields specify, inert until its `open`.

    Raises InputError as `check_sink` does, and OutputError where it is known already that the output is not possible.
    """
    factory, spec = _read(fields)
    sink = factory(spec, context)
    if isinstance(sink, ChecksOutput):
        sink.check()
    return sink


def load_sink(kind: str) -> SinkFactory:
    """What makes the sinks of a kind; raises InputError."""
    points = list(entry_points(group=GROUP, name=kind))
    if not points:
        known = ", ".join(sink_kinds()) or "none: install nsstream, or install it again"
        raise InputError(f"sink.kind: there is no sink {show(kind)}; sinks: {known}")
    if len({point.value for point in points}) > 1:
        owners = " and ".join(sorted(map(_owner, points)))
        raise InputError(f"sink.kind: the sink {kind!r} is registered by {owners}; uninstall all but one")
    try:
        made = points[0].load()
    except (ImportError, AttributeError) as err:
        raise InputError(f"sink.kind: the sink {kind!r} of {_owner(points[0])} cannot be loaded: {err}") from err
    spec_type = getattr(made, "spec_type", None)
    if not callable(made) or not (isinstance(spec_type, type) and issubclass(spec_type, SinkSpec)):
        raise InputError(
            f"sink.kind: the sink {kind!r} of {_owner(points[0])} is no callable with a `spec_type`: {points[0].value}"
        )
    return made  # type: ignore[no-any-return]  # whatever a plugin's factory gives, its contract test judges


def _read(fields: Mapping[str, object]) -> tuple[SinkFactory, SinkSpec]:
    kind = fields.get("kind")
    if not isinstance(kind, str):
        raise InputError(f"sink.kind: must name a sink, one of {', '.join(sink_kinds())}, got {show(kind)}")
    factory = load_sink(kind)
    try:
        return factory, factory.spec_type.model_validate(dict(fields))
    except ValidationError as err:
        raise InputError(f"sink.{first_fault(err, frozenset(field_names(factory.spec_type)), kind)}") from err


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
