"""Finding: one thing that is not as it should be in a state directory, and what a repair does about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Code(StrEnum):
    """What is wrong."""

    OWNER = "owner"
    MODE = "mode"
    KEY = "key"
    LEDGER = "ledger"
    LEDGER_NEWER = "ledger_newer"
    SPENDING = "spending"
    CHUNK = "chunk"
    MODEL = "model"
    MODEL_ORPHAN = "model_orphan"
    MODEL_MISSING = "model_missing"
    MARK = "mark"
    JOURNAL = "journal"
    HANDOVER = "handover"
    LEFT_OVER = "left_over"
    ROOM = "room"


REMEDIES = {
    Code.OWNER: "give it to the owner of the state directory",
    Code.MODE: "take the others' rights away",
    Code.LEDGER: "move it to quarantine, and begin another one from the models that stand there",
    Code.CHUNK: "move it to quarantine; a job that waits for it is skipped",
    Code.MODEL: "move it to quarantine; where it was promoted, the one before it is",
    Code.MODEL_ORPHAN: "move it to quarantine",
    Code.MODEL_MISSING: "say so in the ledger; where it was promoted, the one before it is",
    Code.MARK: "let it name what the ledger says",
    Code.JOURNAL: "move it to quarantine; the rows of chunks that were open are lost",
    Code.HANDOVER: "move it to quarantine",
    Code.LEFT_OVER: "move it to quarantine",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    `paths` are what it is about, `says` is a clause with no full stop.
    """

    code: Code
    paths: tuple[Path, ...]
    says: str

    @property
    def remedy(self) -> str | None:
        """What a repair does, None where only an operator can help."""
        return REMEDIES.get(self.code)
