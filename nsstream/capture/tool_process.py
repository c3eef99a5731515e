"""Tool processes: a tool started in a group of its own, ended with all it started, its complaints heard.

Promises: `ToolProcess.end` leaves no process of the group behind, and tells how the tool itself ended; nothing waits
longer than it was asked to. If this process is killed, a `ToolGuard` kills the group. A tool that cannot be started
raises InputError.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence

from nsstream.capture.source import IDLE_S
from nsstream.capture.tool_guard import ToolGuard
from nsstream.capture.tool_messages import ToolMessages
from nsstream.errors import InputError


class ToolProcess:
    """One run of a tool: `stdin` and `stdout` are descriptors (-1: it is not fed), `messages` what it says."""

    def __init__(self, command: Sequence[str], *, is_fed: bool = False) -> None:
        """Start the tool; its standard input is /dev/null, or a pipe whose other end is `stdin`, if it is fed."""
        self.name = os.path.basename(command[0])  # noqa: PTH119 - a word of a command, not a path that we use
        self.messages = ToolMessages()
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if is_fed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env=os.environ | {"LC_ALL": "C"},
            )
        except FileNotFoundError as err:
            raise InputError(f"{self.name} is not installed, or not in PATH") from err
        except OSError as err:
            raise InputError(f"{self.name} cannot be started: {err.strerror}") from err
        try:
            self._guard = ToolGuard(self._child.pid)
        except OSError as err:
            with self._child:  # closes its pipes, and waits
                self._signal(signal.SIGKILL)
            raise InputError(f"{self.name} cannot be watched over: /bin/sh: {err.strerror}") from err
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self.stdout = self._child.stdout.fileno()
        self.stderr = self._child.stderr.fileno()
        self.stdin = -1 if self._child.stdin is None else self._child.stdin.fileno()
        os.set_blocking(self.stderr, False)

    def listen(self) -> bool:
        """Take what the tool has said since; False when it will say no more."""
        while True:
            try:
                octets = os.read(self.stderr, 1 << 16)
            except BlockingIOError:
                return True
            if not octets:
                return False
            self.messages.feed(octets)

    def feed_no_more(self) -> None:
        """Let the tool see the end of its standard input; may be repeated."""
        if self._child.stdin is not None:
            self._child.stdin.close()

    def ask_to_end(self) -> None:
        """Send SIGTERM to the group."""
        self._signal(signal.SIGTERM)

    def end(self, until_s: float) -> int:
        """Wait for the tool until then (of `time.monotonic`), kill what is left of its group; its exit status."""
        while self.listen() and time.monotonic() < until_s:
            wait_readable(self.stderr, IDLE_S)
        while self._is_running() and time.monotonic() < until_s:
            time.sleep(0.01)
        self._signal(signal.SIGKILL)  # before the child is reaped: until then its group is nobody else's
        self._guard.dismiss()
        status = self._child.wait()
        self.listen()
        self.messages.finish()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()
        return status

    def obituary(self, status: int) -> str:
        """How the tool ended, and why as far as it said."""
        manner = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        reason = self.messages.reason.removeprefix(f"{self.name}: ")
        return f"{self.name} {manner}" + (f": {reason}" if reason else "")

    def _is_running(self) -> bool:
        return os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return  # all gone


def wait_readable(descriptor: int, wait_s: float) -> bool:
    """Whether there is something to read, or the end, within so long."""
    poll = select.poll()  # select(2) knows no descriptor beyond 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * wait_s))
