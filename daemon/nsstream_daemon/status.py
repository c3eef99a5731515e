"""Status: everything that is to be seen of a daemon, as plain values: of the screen, the metrics and the manager."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nsstream import __version__
from nsstream.clock import Clock
from nsstream.errors import NsstreamError
from nsstream.pipeline.child import resident_octets
from nsstream.pipeline.scheduler import Scheduler
from nsstream_daemon.capture_part import CapturePart

MEASURE_EVERY_NS: Final = 10 * 10**9  # what folders hold


class Status:
    """Asks the components; from any thread."""

    def __init__(
        self,
        state: Path,
        capture: CapturePart,
        scheduler: Scheduler,
        facts: Callable[[], dict[str, Any]],
        clock: Clock,
    ) -> None:
        self._state, self._capture, self._scheduler = state, capture, scheduler
        self._facts, self._clock = facts, clock
        self._lock = threading.Lock()
        self._disk: dict[str, int] = {}
        self._measured_ns: int | None = None

    def snapshot(self) -> dict[str, Any]:
        """Where everything stands; raises OutputError where the ledger cannot be read now."""
        capture = self._capture.status()
        latest_ns = capture["latest_ns"]
        capture["lag_s"] = None if latest_ns is None else (self._clock.wall_ns() - latest_ns) * 1e-9
        return {
            "version": __version__,
            **self._facts(),
            "memory_octets": resident_octets(os.getpid()),
            "capture": capture,
            "training": self._scheduler.status(),
            "disk": self._measure(),
        }

    def health(self) -> dict[str, Any]:
        """What the daemon says of itself alone; needs no ledger."""
        return self._facts()

    def chunks(self, limit: int) -> list[dict[str, Any]]:
        """The newest chunks that were seen, the newest first, with what became of them."""
        return self._scheduler.seen_chunks(limit)

    def _measure(self) -> dict[str, int]:
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            if self._measured_ns is None or now_ns - self._measured_ns > MEASURE_EVERY_NS:
                self._measured_ns = now_ns
                self._disk = {f"{name}_octets": _octets_in(self._state / name) for name in ("chunks", "models")}
                try:
                    room = os.statvfs(self._state)
                    self._disk["free_octets"] = room.f_bavail * room.f_frsize
                except OSError:
                    self._disk["free_octets"] = 0
            return dict(self._disk)


def status_line(status: dict[str, Any]) -> str:
    """All of it in one line, as `systemctl status` shows it."""
    capture, training = status["capture"], status["training"]
    dropped = sum(capture["tally"]["dropped"].values())
    waiting = training["jobs"]["pending"] + training["jobs"]["failed"]
    parts = [
        f"{capture['state']}, {capture['chunks']} chunks",
        f"{capture['rows_per_s']:,.0f} rows/s",
        f"{dropped:,} dropped",
        f"{waiting} jobs wait",
        "no model yet" if training["promoted"] is None else f"model {training['promoted']['id'][:8]}",
    ]
    return " · ".join([*status["problems"], *parts])


def _octets_in(folder: Path) -> int:
    total, folders = 0, [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:  # one that was removed meanwhile has none
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def snapshot_or_none(status: Status) -> dict[str, Any] | None:
    """A snapshot, None where the ledger cannot be read now."""
    try:
        return status.snapshot()
    except NsstreamError:
        return None
