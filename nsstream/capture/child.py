"""ChildSource: a capture tool as a child process that writes pcap or pcapng on its standard output.

Promises: what the tool says it lost is in the tally, by place, when the source has ended or was closed: ``ring`` (the
kernel's buffer), ``nic``, ``tool`` (its own queue); what it had captured and nobody took is ``channel``. The tool and
every process it started in its group are gone when `close` returns. A tool that is missing, refuses, or fails is
reported with its own words.

The child reads nothing: its standard input is /dev/null. If this process is killed, the child ends with its next write.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from nsstream.capture.pipe import PipeSource
from nsstream.capture.source import IDLE_S
from nsstream.capture.tool_messages import ToolMessages
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import PacketBatch

DEFAULT_SNAPLEN: Final = 256  # link layer with tags, IPv6 with extension headers, transport header: no payload is kept
DEFAULT_BUFFER_KIB: Final = 32 * 1024  # tcpdump's own 2 MiB lost 37 % of a burst of 1 million packets

_START_S: Final = 2.0  # how long `open` waits for the first octet or a refusal
_GRACE_S: Final = 3.0  # from SIGTERM to SIGKILL


def tcpdump_command(
    interface: str, *, filter_text: str = "", snaplen: int = DEFAULT_SNAPLEN, buffer_kib: int = DEFAULT_BUFFER_KIB
) -> list[str]:
    """The arguments of a tcpdump that writes the packets of an interface to its standard output as they come."""
    command = ["tcpdump", "-i", interface, "-n", "-U", "-s", str(snaplen), "-B", str(buffer_kib), "-w", "-"]
    return [*command, "--", filter_text] if filter_text else command


def dumpcap_command(
    interface: str, *, filter_text: str = "", snaplen: int = DEFAULT_SNAPLEN, buffer_kib: int = DEFAULT_BUFFER_KIB
) -> list[str]:
    """The arguments of a dumpcap that writes the packets of an interface to its standard output as they come."""
    buffer_mib = max(1, buffer_kib // 1024)
    command = ["dumpcap", "-q", "-i", interface, "-s", str(snaplen), "-B", str(buffer_mib), "-w", "-"]
    return [*command, "-f", filter_text] if filter_text else command


class ChildSource:
    """Reads what a capture tool writes.

    Args:
        command: the tool and its arguments, such as `tcpdump_command` and `dumpcap_command` make; never a shell's.
        buffer_bytes: as of `PipeSource`.
    """

    def __init__(self, command: Sequence[str], *, buffer_bytes: int = 1 << 20) -> None:
        if not command:
            raise ValueError("command must name a tool, got nothing")
        self.tally = Tally()
        self._command = list(command)
        self._name = os.path.basename(command[0])  # noqa: PTH119 - a word of a command, not a path that we use
        self._buffer_bytes = buffer_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe = PipeSource(-1)
        self._messages = ToolMessages()
        self._has_ended = False

    def open(self) -> None:
        """Start the tool, and wait a moment for its first octet or its refusal.

        Raises InputError if it is missing, may not be run, or refuses at once.
        """
        self.close()
        self._messages = ToolMessages()
        try:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env=os.environ | {"LC_ALL": "C"},
            )
        except FileNotFoundError as err:
            raise InputError(f"{self._name} is not installed, or not in PATH") from err
        except OSError as err:
            raise InputError(f"{self._name} cannot be started: {err.strerror}") from err
        self._has_ended = False
        stdout, stderr = _pipes(self._child)
        os.set_blocking(stderr, False)
        self._pipe = PipeSource(stdout, buffer_bytes=self._buffer_bytes)
        self._pipe.open()
        self.tally = self._pipe.tally
        if not self._has_said_something():
            status = self._end(is_asked=False)
            raise InputError(self._obituary(status))

    def read_batch(self) -> PacketBatch | None:
        """The next packets; none where none came for `IDLE_S`; None when the tool has ended well.

        Raises InputError if it failed, or what it writes is no capture.
        """
        if self._has_ended:
            return None
        if self._child is None:
            raise RuntimeError("read_batch before open")
        self._listen()
        try:
            batch = self._pipe.read_batch()
        except InputError as err:
            has_exited = self._pipe.is_at_end
            status = self._end(is_asked=not has_exited)
            is_its_fault = has_exited and status
            raise InputError(self._obituary(status) if is_its_fault else f"{self._name}: {_cause(err)}") from err
        if batch is None:
            status = self._end(is_asked=False)
            if status:
                raise InputError(self._obituary(status))
        return batch

    def close(self) -> None:
        """End the tool and its group; what it had captured and nobody took is counted as dropped."""
        if self._child is not None:
            self._end(is_asked=True)

    def _has_said_something(self) -> bool:
        """Whether an octet of a capture came; also true where nothing at all happened for `_START_S`."""
        assert self._child is not None
        stdout, stderr = _pipes(self._child)
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        poll.register(stderr, select.POLLIN)
        until_s = time.monotonic() + _START_S
        while (left_s := until_s - time.monotonic()) > 0:
            events = dict(poll.poll(1000 * left_s))
            if stderr in events and not self._listen():
                poll.unregister(stderr)
            if events.get(stdout, 0) & select.POLLIN:
                return True
            if stdout in events:  # closed without an octet
                return False
        return True

    def _listen(self) -> bool:
        """Take what the tool has said since; False when it will say no more."""
        assert self._child is not None
        _, stderr = _pipes(self._child)
        while True:
            try:
                octets = os.read(stderr, 1 << 16)
            except BlockingIOError:
                return True
            if not octets:
                return False
            self._messages.feed(octets)

    def _end(self, *, is_asked: bool) -> int:
        """End the tool, account for what it leaves, and give its exit status."""
        assert self._child is not None
        child = self._child
        if is_asked:
            _signal_group(child, signal.SIGTERM)
        until_s = time.monotonic() + _GRACE_S
        while not self._pipe.has_ended and time.monotonic() < until_s:
            self._listen()
            self._drop_a_batch()
        while self._listen() and time.monotonic() < until_s:
            select.select([_pipes(child)[1]], [], [], IDLE_S)
        _wait_for_exit(child, until_s)
        _signal_group(child, signal.SIGKILL)  # before the child is reaped: until then its group is nobody else's
        status = child.wait()
        self._messages.finish()
        self._child = None
        self._has_ended = True
        self._pipe.close()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        self._account()
        return status

    def _drop_a_batch(self) -> None:
        """Count what was captured and not taken."""
        try:
            batch = self._pipe.read_batch()
        except InputError:
            return  # nothing whole was left
        if batch is not None and len(batch):
            self.tally.kept -= len(batch)
            self.tally.dropped["channel"] += len(batch)

    def _account(self) -> None:
        """Put the tool's sums in the tally; its pcapng told the same packets before as lost by the tool."""
        told = self.tally.dropped.pop("tool", 0)
        self.tally.offered -= told
        for place, count in self._messages.dropped.items():
            self.tally.drop(place, count)
        self.tally.drop("tool", max(0, told - sum(self._messages.dropped.values())))

    def _obituary(self, status: int) -> str:
        manner = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        manner += "" if self.tally.offered else " before its first packet"
        reason = self._messages.reason.removeprefix(f"{self._name}: ")
        return f"{self._name} {manner}" + (f": {reason}" if reason else "")


def _pipes(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    assert child.stdout is not None
    assert child.stderr is not None
    return child.stdout.fileno(), child.stderr.fileno()


def _wait_for_exit(child: subprocess.Popen[bytes], until_s: float) -> None:
    """Wait until the child has exited, but not for ever; it is not reaped."""
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < until_s:
        time.sleep(0.01)


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return  # all gone


def _cause(err: InputError) -> str:
    """The complaint without the name of the pipe, which means nothing to the reader."""
    return str(err).partition(": ")[2]
