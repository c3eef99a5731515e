"""ChildSource: a capture tool as a child process that writes pcap or pcapng on its standard output.

Promises: what the tool says it lost is in the tally, by place, when the source has ended or was closed: ``ring`` (the
kernel's buffer), ``nic``, ``tool`` (its own queue); what it had captured and nobody took is ``channel``. The tool and
every process it started in its group are gone when `close` returns. A tool that is missing, refuses, or fails is
reported with its own words.

The child reads nothing: its standard input is /dev/null. If this process is killed, so is the child's group.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Final

from nsstream.capture.pipe import PipeSource
from nsstream.capture.tool_process import ToolProcess
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import PacketBatch

DEFAULT_SNAPLEN: Final = 192  # link layer with tags, IPv6 with extension headers, transport header: no payload is kept
DEFAULT_BUFFER_KIB: Final = 32 * 1024  # tcpdump's own 2 MiB lost 37 % of a burst of 1 million packets

_START_S: Final = 2.0  # how long `open` waits for the first octet or a refusal
_GRACE_S: Final = 3.0  # from SIGTERM to SIGKILL


def tcpdump_command(
    interface: str, *, capture_filter: str = "", snaplen: int = DEFAULT_SNAPLEN, buffer_kib: int = DEFAULT_BUFFER_KIB
) -> list[str]:
    """The arguments of a tcpdump that writes the packets of an interface to its standard output as they come."""
    command = ["tcpdump", "-i", interface, "-n", "-U", "-s", str(snaplen), "-B", str(buffer_kib), "-w", "-"]
    return [*command, "--", capture_filter] if capture_filter else command


def dumpcap_command(
    interface: str, *, capture_filter: str = "", snaplen: int = DEFAULT_SNAPLEN, buffer_kib: int = DEFAULT_BUFFER_KIB
) -> list[str]:
    """The arguments of a dumpcap that writes the packets of an interface to its standard output as they come."""
    buffer_mib = max(1, buffer_kib // 1024)
    command = ["dumpcap", "-q", "-i", interface, "-s", str(snaplen), "-B", str(buffer_mib), "-w", "-"]
    return [*command, "-f", capture_filter] if capture_filter else command


def tcpdump_source(
    interface: str,
    *,
    capture_filter: str = "",
    snaplen: int = DEFAULT_SNAPLEN,
    buffer_kib: int = DEFAULT_BUFFER_KIB,
) -> ChildSource:
    """What tcpdump captures on an interface."""
    command = tcpdump_command(interface, capture_filter=capture_filter, snaplen=snaplen, buffer_kib=buffer_kib)
    return ChildSource(command)


def dumpcap_source(
    interface: str,
    *,
    capture_filter: str = "",
    snaplen: int = DEFAULT_SNAPLEN,
    buffer_kib: int = DEFAULT_BUFFER_KIB,
) -> ChildSource:
    """What dumpcap captures on an interface."""
    command = dumpcap_command(interface, capture_filter=capture_filter, snaplen=snaplen, buffer_kib=buffer_kib)
    return ChildSource(command)


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
        self._buffer_bytes = buffer_bytes
        self._tool: ToolProcess | None = None
        self._pipe = PipeSource(-1)
        self._has_ended = False

    def open(self) -> None:
        """Start the tool, and wait a moment for its first octet or its refusal.

        Raises InputError if it is missing, may not be run, or refuses at once.
        """
        self.close()
        tool = self._tool = ToolProcess(self._command)
        self._has_ended = False
        self._pipe = PipeSource(tool.stdout, buffer_bytes=self._buffer_bytes)
        self._pipe.open()
        self.tally = self._pipe.tally
        if not _has_said_something(tool):
            status = self._end(tool)
            raise InputError(f"{tool.obituary(status)} (before its first octet)")

    def read_batch(self) -> PacketBatch | None:
        """The next packets; none where none came for `IDLE_S`; None when the tool has ended well.

        Raises InputError if it failed, or what it writes is no capture.
        """
        if self._has_ended:
            return None
        tool = self._tool
        if tool is None:
            raise RuntimeError("read_batch before open")
        tool.listen()
        try:
            batch = self._pipe.read_batch()
        except InputError as err:
            if not self._pipe.is_at_end:
                tool.ask_to_end()
                self._end(tool)
            elif status := self._end(tool):
                raise InputError(tool.obituary(status)) from err
            complaint = str(err).partition(": ")[2]  # without the name of the pipe, which means nothing to the reader
            raise InputError(f"{tool.name}: {complaint}") from err
        if batch is None and (status := self._end(tool)):
            raise InputError(tool.obituary(status))
        return batch

    def close(self) -> None:
        """End the tool and its group; what it had captured and nobody took is counted as dropped."""
        if self._tool is not None:
            self._tool.ask_to_end()
            self._end(self._tool)

    def _end(self, tool: ToolProcess) -> int:
        """See the tool's end, account for what it leaves, and give its exit status."""
        until_s = time.monotonic() + _GRACE_S
        while not self._pipe.has_ended and time.monotonic() < until_s:
            tool.listen()
            self._drop_a_batch()
        status = tool.end(until_s)
        self._tool = None
        self._has_ended = True
        self._pipe.close()
        self._account(tool.messages.dropped)
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

    def _account(self, dropped: dict[str, int]) -> None:
        """Put the tool's sums in the tally; its pcapng told the same packets before as lost by the tool."""
        told = self.tally.dropped.pop("tool", 0)
        self.tally.offered -= told
        for place, count in dropped.items():
            self.tally.drop(place, count)
        self.tally.drop("tool", max(0, told - sum(dropped.values())))


def _has_said_something(tool: ToolProcess) -> bool:
    """Whether an octet of a capture came; also true where nothing at all happened for `_START_S`."""
    poll = select.poll()
    poll.register(tool.stdout, select.POLLIN)
    poll.register(tool.stderr, select.POLLIN)
    until_s = time.monotonic() + _START_S
    while (left_s := until_s - time.monotonic()) > 0:
        events = dict(poll.poll(1000 * left_s))
        if tool.stderr in events and not tool.listen():
            poll.unregister(tool.stderr)
        if events.get(tool.stdout, 0) & select.POLLIN:
            return True
        if tool.stdout in events:  # closed without an octet
            return False
    return True
