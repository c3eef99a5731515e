"""TableSocketSource: lines of JSON that tools send to a Unix socket, such as Suricata's eve log, as flows.

Promises: no sender holds up another, their number is bounded, and so is what each may have half sent. Every line is a
row or counted by reason; one that a sender ends in the middle of is ``cut_record``, a datagram longer than the kernel
handed over ``cut_datagram``; what was sent and not read when the source was closed is ``dropped["socket"]``.
What a sender could not send, as nobody listened or the socket was full, only the sender knows: Suricata counts it.
"""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsstream.capture.flow_csv import CUT_RECORD, LONG_LINE
from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_presets import PRESETS, chosen_mapping
from nsstream.capture.line_splitter import LineSplitter
from nsstream.capture.netflow_udp import CUT_DATAGRAM
from nsstream.capture.source import IDLE_S, SENSOR_LATENESS_S
from nsstream.capture.table_header import TableHeader
from nsstream.capture.table_rows import TableRows
from nsstream.capture.unix_listener import UnixListener
from nsstream.errors import InputError
from nsstream.trace import FlowTable

_DEFAULT: Final = "eve"
_KINDS: Final = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}
_READ_BYTES: Final = 1 << 18  # a datagram is no longer: net.core.wmem_default is 212,992
_BATCH_BYTES: Final = 1 << 20
_LEFT_READS: Final = 64  # of each sender at close: whoever goes on sending is not waited for


@dataclass(slots=True)
class _Sender:
    socket: socket.socket
    splitter: LineSplitter


class TableSocketSource:
    """Listens at a path.

    Args:
        path: of the socket, made by `open` and removed by `close`; one that nobody listens at any more is replaced.
        preset: a name of `flow_presets.PRESETS` whose rows are JSON; eve where there is no mapping either.
        mapping: of the user's own, or the path of a file with it.
        kind: "stream" or "dgram"; Suricata's ``unix_stream`` and ``unix_dgram``.
        mode: of the socket, so that the sender's user may write to it.
        most_senders: at a time, of a stream; one more is closed at once.
        gather_s: how long a batch may wait for more once its first octets have come.
    """

    lateness_s: Final = SENSOR_LATENESS_S

    def __init__(
        self,
        path: Path | str,
        *,
        preset: str | None = None,
        mapping: TableMapping | Path | str | None = None,
        kind: str = "stream",
        mode: int = 0o660,
        most_senders: int = 64,
        gather_s: float = 0.05,
    ) -> None:
        if kind not in _KINDS:
            raise ValueError(f"kind must be stream or dgram, got {kind!r}")
        asked = chosen_mapping(preset, mapping)
        self._mapping = PRESETS[_DEFAULT] if asked is None else asked
        if self._mapping.layout != "json":
            raise InputError(f"only lines of JSON come through a socket, and {self._mapping.name!r} is none of those")
        self.refused_senders = 0  # there were `most_senders` already
        self._path = Path(path)
        self._kind = _KINDS[kind]
        self._mode = mode
        self._most_senders = most_senders
        self._gather_s = gather_s
        self._rows = TableRows()
        self.tally = self._rows.tally
        self._listener: UnixListener | None = None
        self._selector: selectors.BaseSelector | None = None
        self._senders: dict[int, _Sender] = {}
        self._has_ended = False

    def open(self) -> None:
        """Make the socket; raises InputError if the path is taken or cannot be had."""
        self.close()
        self._rows = TableRows()
        self._rows.begin(TableHeader(self._mapping, (), b""))
        self.tally = self._rows.tally
        self._listener = UnixListener(self._path, self._kind, self._mode)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.socket, selectors.EVENT_READ)
        self._has_ended = False

    def read_batch(self) -> FlowTable | None:
        """The flows of the lines that came; none where none came for `IDLE_S`, or they held none; None once closed."""
        if self._has_ended:
            return None
        if self._listener is None or self._selector is None:
            raise RuntimeError("read_batch before open")
        lines: list[bytes] = []
        size = 0
        until_s = time.monotonic() + IDLE_S
        while size < _BATCH_BYTES and (left_s := until_s - time.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                if key.fileobj is not self._listener.socket:
                    lines.append(self._read(self._senders[key.fd], self._selector))
                elif self._kind == socket.SOCK_STREAM:
                    self._accept(self._listener.socket, self._selector)
                else:
                    lines.append(self._receive(self._listener.socket))
                if lines and not size:
                    until_s = min(until_s, time.monotonic() + self._gather_s)
                size = sum(map(len, lines))
        return self._rows.flows(b"".join(lines)) or FlowTable.empty()

    def close(self) -> None:
        """Close all senders and remove the socket; the tally stays."""
        if self._listener is None or self._selector is None:
            return
        for sender in list(self._senders.values()):
            for _ in range(_LEFT_READS):
                self._drop(self._read(sender, self._selector))
                if sender.socket.fileno() < 0:
                    break
            else:
                self._end(sender, self._selector)
        if self._kind == socket.SOCK_DGRAM:
            for _ in range(_LEFT_READS):
                self._drop(self._receive(self._listener.socket))
        self._selector.close()
        self._listener.close()
        self._listener = self._selector = None
        self._has_ended = True

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as err:
            raise InputError(f"{self._path}: a sender cannot be accepted: {err.strerror}") from err
        if len(self._senders) >= self._most_senders:
            accepted.close()
            self.refused_senders += 1
            return
        accepted.setblocking(False)
        self._senders[accepted.fileno()] = _Sender(accepted, LineSplitter())
        selector.register(accepted, selectors.EVENT_READ)

    def _read(self, sender: _Sender, selector: selectors.BaseSelector) -> bytes:
        try:
            octets = sender.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            octets = b""
        if not octets:
            self._end(sender, selector)
            return b""
        lines = sender.splitter.feed(octets)
        self._rows.refuse(LONG_LINE, sender.splitter.long_line_count)
        sender.splitter.long_line_count = 0
        return lines

    def _receive(self, listener: socket.socket) -> bytes:
        """The lines of one datagram, the last of which needs no end."""
        try:
            octets, _, flags, _ = listener.recvmsg(_READ_BYTES)
        except OSError:
            return b""
        if flags & socket.MSG_TRUNC:
            self._rows.refuse(CUT_DATAGRAM)
            return b""
        splitter = LineSplitter()
        lines = splitter.feed(octets if octets.endswith(b"\n") else octets + b"\n")
        self._rows.refuse(LONG_LINE, splitter.long_line_count)
        return lines

    def _end(self, sender: _Sender, selector: selectors.BaseSelector) -> None:
        self._rows.refuse(CUT_RECORD, int(sender.splitter.finish()))
        selector.unregister(sender.socket)
        del self._senders[sender.socket.fileno()]
        sender.socket.close()

    def _drop(self, lines: bytes) -> None:
        self.tally.drop("socket", lines.count(b"\n"))
