"""Replies that need no state: to a hello, and counts as the protocol carries them."""

from __future__ import annotations

from collections.abc import Mapping

import nsstream
from nsstream.replay.messages import (
    MAX_MAP_LENGTH,
    MIN_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Hello,
    Refusal,
    Welcome,
)


def fit_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """As many as the protocol carries, as its own type of integers."""
    return {name[:100]: int(count) for name, count in sorted(counts.items())[:MAX_MAP_LENGTH]}


def welcome(command: Hello) -> Welcome | Refusal:
    """The version that both speak, or that there is none."""
    version = min(command.max_version, PROTOCOL_VERSION)
    if version < max(command.min_version, MIN_PROTOCOL_VERSION):
        return Refusal.of(
            command.id,
            "version",
            f"this server speaks protocol versions {MIN_PROTOCOL_VERSION} to {PROTOCOL_VERSION}, "
            f"the client {command.min_version} to {command.max_version}",
        )
    return Welcome(id=command.id, version=version, server=f"nsstream {nsstream.__version__}")
