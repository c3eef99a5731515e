"""Tally: what happened to every record that was offered, so that nothing is lost without a name.

The law, checked by `check()`: ``observed == kept + late + sum(malformed) + sum(unsupported) + dropped_by_channel``.
`dropped_by_tool` counts what the capture tool or the kernel lost before we saw it, and stands outside the sum.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of records by fate; the two counters are keyed by reason (snake case)."""

    observed: int = 0
    kept: int = 0
    late: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    dropped_by_channel: int = 0
    dropped_by_tool: int = 0

    def add(self, other: Tally) -> None:
        """Add another tally's counts to this one."""
        self.observed += other.observed
        self.kept += other.kept
        self.late += other.late
        self.malformed.update(other.malformed)
        self.unsupported.update(other.unsupported)
        self.dropped_by_channel += other.dropped_by_channel
        self.dropped_by_tool += other.dropped_by_tool

    def check(self) -> None:
        """Raise AssertionError if the counts do not add up: a broken invariant of ours, never the input's fault."""
        parts = (
            self.kept
            + self.late
            + sum(self.malformed.values())
            + sum(self.unsupported.values())
            + self.dropped_by_channel
        )
        if self.observed != parts:
            raise AssertionError(f"tally does not add up: observed {self.observed}, accounted for {parts}: {self!r}")

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON: reasons sorted by name."""
        return {
            "observed": self.observed,
            "kept": self.kept,
            "late": self.late,
            "malformed": dict(sorted(self.malformed.items())),
            "unsupported": dict(sorted(self.unsupported.items())),
            "dropped_by_channel": self.dropped_by_channel,
            "dropped_by_tool": self.dropped_by_tool,
        }
