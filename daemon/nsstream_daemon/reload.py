"""What changes from one configuration to another, by key; and which of it cannot change while the daemon runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nsstream.pipeline.config_fields import Section
from nsstream.pipeline.service_config import ServiceConfig


def changes_of(now: ServiceConfig, later: ServiceConfig) -> dict[str, Any]:
    """The keys that differ, with their later values as plain values."""
    values = later.model_dump(mode="json")
    changes: dict[str, Any] = {}
    for key, _ in _differences(now, later):
        at: Any = values
        for part in key.split("."):
            at = at[part]
        changes[key] = at
    return changes


def refused_changes(now: ServiceConfig, later: ServiceConfig) -> list[str]:
    """The keys that differ and are not live."""
    return [key for key, is_live in _differences(now, later) if not is_live]


def _differences(now: Section, later: Section, path: str = "") -> Iterator[tuple[str, bool]]:
    for name, field in type(now).model_fields.items():
        one, other = getattr(now, name), getattr(later, name)
        if isinstance(one, Section):
            yield from _differences(one, other, f"{path}{name}.")
        elif one != other:
            extra = field.json_schema_extra
            yield f"{path}{name}", isinstance(extra, dict) and extra.get("live") is True
