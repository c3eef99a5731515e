"""Findings: what each attack on a twin found, as values and in plain words.

A finding says what an outsider could learn, how sure that is and what it means; the verdict is one of three. What could
not be looked at is said by name, never left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a finding comes to."""

    CLEAR = "nothing found"  # no more than real traffic gives away by itself
    LEAK = "leak"
    OPEN = "not judged"


@dataclass(frozen=True, slots=True)
class Finding:
    """One attack's outcome."""

    name: str
    verdict: Verdict
    words: str  # a few sentences
    figures: dict[str, object]  # plain values for JSON

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON."""
        return {"verdict": self.verdict.value, "words": self.words, "figures": self.figures}


@dataclass(frozen=True, slots=True)
class Privacy:
    """All findings on one twin, and what none of them can see."""

    findings: tuple[Finding, ...]
    looked_at: str  # how much of each trace
    unseen: tuple[str, ...]

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """The findings that are leaks."""
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.LEAK)

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON."""
        return {
            "leaks": [finding.name for finding in self.leaks],
            "findings": {finding.name: finding.as_dict() for finding in self.findings},
            "looked_at": self.looked_at,
            "unseen": list(self.unseen),
        }


UNSEEN = (
    "What the models themselves give away: whoever has a model can ask it for the likelihood of any flow, which tells "
    "more than a twin does (bench/membership.py).",
    "Payload: it is neither learned nor compared.",
    "An outsider who knows more than the capture: other captures of the same people, or how the address map was keyed.",
    "What many twins of the same network give away together: each is looked at alone.",
    "Whether there is a guarantee: attacks that fail prove none. Only a model trained in private mode has one, with "
    "its epsilon and delta.",
)
