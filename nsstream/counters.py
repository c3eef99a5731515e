"""Tally: what became of every record that was offered, so that nothing is lost without a name.

The law, checked by `check()`, at every moment and for every source: ``offered == kept + late + future + parked +
sampled_out + sum(malformed) + sum(unsupported) + sum(dropped)``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Self

PLACES: Final = ("nic", "ring", "socket", "tool", "channel", "disk", "restart")


@dataclass
class Tally:
    """Counts of records by fate.

    `malformed` and `unsupported` are keyed by reason (snake case), `dropped` by the place where room ran out: one of
    `PLACES` (``tool``: what a capture file says that its maker lost; ``restart``: what waited in a process that ended).
    A parked record waits for what explains or completes it, such as a template, and becomes kept or malformed later.
    What was sampled out was left by a declared rule.

    `behind` is the account of what the records were made of, where that is counted, too: the packets behind records of
    flows. There, what is kept is in a record that was given. It travels with the counts and obeys the same law.
    """

    offered: int = 0
    kept: int = 0
    late: int = 0  # of an interval that had closed
    future: int = 0  # too far ahead of what came before, or of the clock
    parked: int = 0
    sampled_out: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    behind: Tally | None = None

    @property
    def read(self) -> int:
        """Records that reached us: offered, less dropped."""
        return self.offered - sum(self.dropped.values())

    def drop(self, place: str, count: int) -> None:
        """Count records that were offered and lost for want of room at one of `PLACES`."""
        if place not in PLACES or count < 0:
            raise ValueError(f"cannot drop {count} records at {place!r}; places are {', '.join(PLACES)}")
        if count:
            self.offered += count
            self.dropped[place] += count

    def add(self, other: Tally) -> None:
        """Add another tally's counts to this one."""
        self.offered += other.offered
        self.kept += other.kept
        self.late += other.late
        self.future += other.future
        self.parked += other.parked
        self.sampled_out += other.sampled_out
        self.malformed.update(other.malformed)
        self.unsupported.update(other.unsupported)
        self.dropped.update(other.dropped)
        if other.behind is not None:
            self.behind = Tally() if self.behind is None else self.behind
            self.behind.add(other.behind)

    def check(self) -> None:
        """Raise AssertionError if the counts do not add up: a broken invariant of ours, never the input's fault."""
        parts = self.kept + self.late + self.future + self.parked + self.sampled_out
        parts += sum(self.malformed.values()) + sum(self.unsupported.values()) + sum(self.dropped.values())
        if self.offered != parts:
            raise AssertionError(f"tally does not add up: offered {self.offered}, accounted for {parts}: {self!r}")
        if self.behind is not None:
            self.behind.check()

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON: reasons and places sorted by name; ``behind`` where there is such an account."""
        behind = {} if self.behind is None else {"behind": self.behind.as_dict()}
        return {
            "offered": self.offered,
            "kept": self.kept,
            "late": self.late,
            "future": self.future,
            "parked": self.parked,
            "sampled_out": self.sampled_out,
            "malformed": dict(sorted(self.malformed.items())),
            "unsupported": dict(sorted(self.unsupported.items())),
            "dropped": dict(sorted(self.dropped.items())),
        } | behind

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The tally that `as_dict` wrote; raises TypeError or KeyError on anything else."""
        counters = {name: Counter(values[name]) for name in ("malformed", "unsupported", "dropped")}
        behind = None if values.get("behind") is None else cls.from_dict(values["behind"])
        return cls(**(values | counters | {"behind": behind}))
