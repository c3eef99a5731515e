"""The reference of the configuration, made from its models: what docs/configuration.md holds, to the letter.

``python -m nsstream_daemon.config_page > docs/configuration.md`` writes it anew; a test compares the two.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from nsstream.pipeline.config_fields import Section
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.service_config import (
    ChunksSection,
    ControlSection,
    GateSection,
    RaySection,
    ServiceConfig,
    SourceSection,
    TrainingSection,
    WorkerSection,
)

SECTIONS: Final[tuple[tuple[str, type[Section]], ...]] = (
    ("", ServiceConfig),
    ("[source]", SourceSection),
    ("[chunks]", ChunksSection),
    ("[training]", TrainingSection),
    ("[[training.workers]]", WorkerSection),
    ("[ray]", RaySection),
    ("[gate]", GateSection),
    ("[privacy]", PrivacySection),
    ("[control]", ControlSection),
)
HEAD: Final = """# Configuration

What `nsstream daemon -c FILE` reads: one TOML file. `nsstream validate -c FILE` says whether it is right, and names
the path, the value and what is allowed where it is not. An example is [nsstream.toml](../systemd/nsstream.toml).

A duration (`_s`) is in seconds, or a text such as `"90s"`, `"5m"`, `"1.5h"`, `"7d"`; a size (`_octets`) in octets, or
a text such as `"512M"`, `"50G"`. Keys marked *live* are applied by `nsstream ctl reload` and by SIGHUP; a reload that
changes any other is refused, and names it. A key with a default of *none* may be left out; what holds then is said.

This page is made from the code: `python -m nsstream_daemon.config_page > docs/configuration.md`.
"""
_UNITS: Final = {"_s": "s", "_octets": "octets", "_rows": "rows", "_conversations": "conversations", "_port": "port"}
_BOUNDS: Final = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_section(name, section) for name, section in SECTIONS)


def _section(name: str, section: type[Section]) -> str:
    title = f"## `{name}`" if name else "## At the top"
    doc = (section.__doc__ or "").strip() if name else "Before any section."
    rows = [
        _row(key, field)
        for key, field in section.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section))
    ]
    head = "| key | takes | unit | default | live | means |\n|---|---|---|---|---|---|\n"
    return f"\n{title}\n\n{doc}\n\n{head}" + "".join(rows)


def _row(key: str, field: FieldInfo) -> str:
    extra = field.json_schema_extra
    is_live = "live" if isinstance(extra, dict) and extra.get("live") else ""
    cells = [f"`{key}`", _takes(field), _unit(key), _default(field), is_live, field.description or ""]
    return "| " + " | ".join(cells) + " |\n"


def _takes(field: FieldInfo) -> str:
    kind, bounds = _kind(field.annotation)
    bounds += [_bound(each) for each in field.metadata]
    return " ".join([kind, ", ".join(filter(None, bounds))]).strip()


def _kind(annotation: Any) -> tuple[str, list[str]]:
    """What a type is called, and the bounds that it carries."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, bounds = _kind(args[0])
        for each in args[1:]:
            bounds += [_bound(part) for part in each.metadata] if isinstance(each, FieldInfo) else [_bound(each)]
        return kind, bounds
    if origin in (Union, types.UnionType):
        kinds = [_kind(arg) for arg in args if arg is not type(None)]
        return " or ".join(kind for kind, _ in kinds), [bound for _, bounds in kinds for bound in bounds]
    if origin is Literal:
        return ", ".join(f"`{json.dumps(arg)}`" for arg in args), []
    if origin is tuple:
        of = "tables" if args[0] is WorkerSection else f"{_kind(args[0])[0]}s"
        return f"list of {of}", []
    if origin is dict:
        return "table of texts, numbers, true and false", []
    return {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}[annotation], []


def _bound(constraint: object) -> str:
    for kind, sign in _BOUNDS.items():
        if isinstance(constraint, kind):
            return f"{sign} {_number(getattr(constraint, kind.__name__.lower()))}"
    return f"at least {constraint.min_length}" if isinstance(constraint, MinLen) and constraint.min_length > 1 else ""


def _number(value: float) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) and abs(value) < 1 << 53 else f"{value:g}"


def _unit(key: str) -> str:
    return next((unit for suffix, unit in _UNITS.items() if key.endswith(suffix)), "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "none"
    if value == (WorkerSection(),):
        return "one, with its defaults"
    if isinstance(value, bool | str | tuple | dict):
        return f"`{json.dumps(value)}`"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


if __name__ == "__main__":
    print(page(), end="")
