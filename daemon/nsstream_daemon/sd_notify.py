"""sd_notify: what the service manager is told, over the socket that it names (sd_notify(3)), where it names one.

Own code, because it is this short. The watchdog is fed by the capture loop's own progress, through `beat`.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

FEEDS_A_LIMIT: Final = 4  # how often the watchdog is fed within its limit, at most


class Notifier:
    """Speaks to the service manager; from any thread."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        limit = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._feed_every_s = int(limit) * 1e-6 / FEEDS_A_LIMIT if limit.isdecimal() and is_ours else None
        self._fed_s = -math.inf  # a monotonic clock begins with the machine: 0 may be just now

    def ready(self) -> None:
        """Everything works from here on."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """An orderly stop has begun."""
        self._tell("STOPPING=1")

    def reloading(self) -> None:
        """The configuration is read again; `ready` says that it is done."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, line: str) -> None:
        """What `systemctl status` shows."""
        self._tell("STATUS=" + line.replace("\n", " "))

    def beat(self) -> None:
        """The capture loop went on: feed the watchdog, if it is time."""
        now_s = time.monotonic()
        if self._feed_every_s is not None and now_s - self._fed_s >= self._feed_every_s:
            self._fed_s = now_s
            self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
            try:
                end.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
            except OSError:
                return  # the manager is gone or busy: it is told again
