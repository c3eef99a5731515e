"""What a benchmark asks of a daemon that runs: its status, whether it came to something, and where its packets went."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nsstream_daemon.control_server import ask

from bars.runs import RunFailedError
from nsstream.errors import NsstreamError


def status_of(state: Path) -> dict[str, Any] | None:
    """The status of the daemon of a state directory; None where it does not answer."""
    try:
        told: dict[str, Any] = ask(state / "control.sock", {"command": "status"})
    except NsstreamError:
        return None
    return told


def wait_for(holds: Callable[[], object], seconds: float, daemon: subprocess.Popen[bytes]) -> None:
    """Until it holds; raises RunFailedError where it does not in time, or the daemon ends."""
    deadline_s = time.monotonic() + seconds
    while not holds():
        if daemon.poll() is not None or time.monotonic() > deadline_s:
            raise RunFailedError(f"the daemon did not come to it; exit status {daemon.poll()}")
        time.sleep(0.1)


def in_a_fate(tally: dict[str, Any]) -> int:
    """Packets of all fates, of a status's tally."""
    parts = [tally[name] for name in ("unsupported", "malformed", "dropped")]
    singly = ("kept", "late", "future", "parked", "sampled_out")
    return sum(sum(part.values()) for part in parts) + sum(int(tally[name]) for name in singly)


def differences(found: Sequence[int], wanted: Sequence[int]) -> int:
    """How many are in one of both alone, or twice in the first."""
    return len(set(found) ^ set(wanted)) + len(found) - len(set(found))
