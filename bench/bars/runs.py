"""Runs of the real command line, and what they cost; and the end of a benchmark that is told to stop.

A run's cost is wall time, processor time and peak memory of `nsstream` and of every process that it started and waited
for, as the kernel counts them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from nsstream.errors import NsstreamError


@dataclass(frozen=True, slots=True)
class Cost:
    elapsed_s: float
    cpu_s: float
    peak_bytes: int  # of the largest single process


class RunFailedError(NsstreamError):
    """A run of nsstream, or of a judge, ended with an error; it has said why."""


def run_nsstream(*arguments: object) -> Cost:
    """Run `nsstream` with these arguments, its output shown; raises RunFailedError."""
    return run_command([sys.executable, "-m", "nsstream_daemon", *map(str, arguments)])


def run_command(command: list[str], *, is_quiet: bool = False) -> Cost:
    """Run a command, its output shown unless it `is_quiet`; raises RunFailedError."""
    began_s = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL if is_quiet else None)
    try:
        _, status, used = os.wait4(child.pid, 0)
    except BaseException:
        child.terminate()  # Ctrl-C has reached it too; SIGTERM has not
        child.wait()
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RunFailedError(f"exit status {child.returncode} of: {' '.join(command)}")
    return Cost(time.perf_counter() - began_s, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def run_main(main: Callable[[], int]) -> int:
    """Run a benchmark; an error is a sentence and status 2, SIGTERM cleans up as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return main()
    except NsstreamError as err:
        print(f"{Path(sys.argv[0]).stem}: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
