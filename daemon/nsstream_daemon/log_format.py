"""How lines are logged to standard error: one an event, with the priority that the journal reads (sd-daemon(3)).

Where standard error is the journal, entries with fields go there instead (`journal`).
"""

from __future__ import annotations

import logging
import time
from typing import Final

PRIORITY: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class JournalFormatter(logging.Formatter):
    """Lines for the journal (``<6>event key=value``), or for a terminal, with a time."""

    def __init__(self, *, is_journal: bool) -> None:
        super().__init__("%(message)s" if is_journal else "%(asctime)sZ %(levelname)-7s %(message)s")
        self.converter = time.gmtime
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback's lines are of the same priority."""
        text = super().format(record)
        if not self._is_journal:
            return text
        return "\n".join(f"<{PRIORITY.get(record.levelno, 5)}>{line}" for line in text.splitlines())
