"""Room: whether the disk of a state directory has any, so that a training would not be in vain; from any thread."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

SPARE_OCTETS: Final = 16 << 20  # below which nothing is trained


class Room:
    """Looks at one state directory; tells the log of each change."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._was_lacking = False

    def is_lacking(self) -> bool:
        """Whether the disk is full or read-only."""
        try:
            room = os.statvfs(self._state)
            lacks = room.f_bavail * room.f_frsize < SPARE_OCTETS or bool(room.f_flag & os.ST_RDONLY)
        except OSError:
            lacks = True
        with self._lock:
            is_news, self._was_lacking = lacks is not self._was_lacking, lacks
        if is_news:
            _log.warning("training_waits_for_disk state=%s" if lacks else "training_goes_on state=%s", self._state)
        return lacks
