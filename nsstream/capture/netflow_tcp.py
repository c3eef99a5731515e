"""NetflowTcpSource: IPFIX over TCP (RFC 7011 section 10.4), several exporters at once, as flows.

Promises: no session holds up another: each is read in turn, a little at a time, and none is waited for. Their number is
bounded, and what each may have half sent. One that sends what is no IPFIX is closed and counted,
``malformed["not_ipfix"]``; one that ends in the middle of a message too, ``malformed["cut_session"]``; each as 1, since
nobody can know how many records there were. Templates live as long as their session. What the kernel had acknowledged
but nobody had read when the source was closed is counted by messages as ``dropped["socket"]``. As for UDP, exporters
are not proved to be who they say; for TLS put stunnel before it.
"""

from __future__ import annotations

import errno
import ipaddress
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from nsstream.capture.netflow_udp import IPFIX_PORT
from nsstream.capture.sockets import bind_socket, duplicate_socket
from nsstream.capture.source import EXPORT_LATENESS_S, IDLE_S
from nsstream.clock import Clock, SystemClock
from nsstream.counters import Tally
from nsstream.errors import InputError, WireError
from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder, MessageSplitter

NOT_IPFIX: Final = "not_ipfix"
CUT_SESSION: Final = "cut_session"

_READ_BYTES: Final = 1 << 16
_BATCH_BYTES: Final = 4 << 20
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(slots=True)
class SessionCounts:
    """What became of the connections that exporters made."""

    opened: int = 0
    refused: int = 0  # there were `most_sessions` already
    ended: int = 0  # by the exporter
    idle: int = 0  # closed for want of a whole message
    broken: int = 0  # closed for what they sent


@dataclass(slots=True)
class _Session:
    socket: socket.socket
    sender: bytes  # 16 octets
    sender_port: int
    splitter: MessageSplitter
    last_message_ns: int


class NetflowTcpSource:
    """Listens on one TCP port, of IPv4, of IPv6, or (address ``::``) of both.

    Args:
        address: numeric; what of this machine to listen on.
        port: 0 lets the kernel choose; see `listens_on`.
        passed: a listening socket to accept from in place of one of our own: `sockets.passed_sockets`.
        most_sessions: at a time; one more is closed at once.
        idle_timeout_s: without a whole message, after which a session is closed; an exporter may connect anew.
        gather_s: how long a batch may wait for more once its first octets have come.
        make_decoder: of the decoder, whose templates and tally live from one `open` to the next.
    """

    lateness_s: Final = EXPORT_LATENESS_S

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = IPFIX_PORT,
        *,
        passed: socket.socket | None = None,
        most_sessions: int = 64,
        idle_timeout_s: float = 1800.0,
        gather_s: float = 0.05,
        make_decoder: Callable[[], ExportDecoder] = ExportDecoder,
        clock: Clock | None = None,
    ) -> None:
        if most_sessions < 1:
            raise ValueError(f"most_sessions must be at least 1, got {most_sessions}")
        self.tally = Tally()
        self.sessions = SessionCounts()
        self._address = address
        self._port = port
        self._passed = passed
        self._most_sessions = most_sessions
        self._idle_timeout_ns = round(idle_timeout_s * 1e9)
        self._gather_s = gather_s
        self._make_decoder = make_decoder
        self._clock = clock or SystemClock()
        self._decoder = make_decoder()
        self._listener: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._open_sessions: dict[int, _Session] = {}
        self._ended: list[_Session] = []  # whose last messages are in the batch
        self._has_ended = False
        self._start_batch()

    @property
    def listens_on(self) -> tuple[str, int]:
        """Address and port of the open socket."""
        name = self._opened()[0].getsockname()
        return str(name[0]), int(name[1])

    @property
    def session_count(self) -> int:
        """Sessions that are open now."""
        return len(self._open_sessions)

    @property
    def decoder(self) -> ExportDecoder:
        """What decodes, with its statistics of each exporter."""
        return self._decoder

    def open(self) -> None:
        """Listen on the port, or begin to accept from the socket that was passed.

        Raises InputError if the address or port cannot be had, or what was passed is no TCP socket that listens.
        """
        self.close()
        if self._passed is None:
            self._listener = bind_socket(self._address, self._port, socket.SOCK_STREAM)
        else:
            self._listener = duplicate_socket(self._passed, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._decoder = self._make_decoder()
        self.tally = self._decoder.tally
        self.sessions = SessionCounts()
        self._has_ended = False

    def read_batch(self) -> FlowTable | None:
        """The flows of the next messages; none where none came for `IDLE_S`, or what came held none; None once closed.

        Raises InputError if there are no descriptors left for a session.
        """
        if self._has_ended:
            return None
        listener, selector = self._opened()
        self._close_idle(selector)
        until_ns = self._clock.monotonic_ns() + round(IDLE_S * 1e9)
        while (left_ns := until_ns - self._clock.monotonic_ns()) > 0 and self._batch_bytes < _BATCH_BYTES:
            was_empty = not self._messages
            events = selector.select(left_ns / 1e9)
            if not events:
                break
            for key, _ in events:
                if key.fileobj is listener:
                    self._accept(listener, selector)
                else:
                    self._read(self._open_sessions[key.fd], selector)
            if was_empty and self._messages:
                until_ns = min(until_ns, self._clock.monotonic_ns() + round(self._gather_s * 1e9))
        return self._decode_batch()

    def close(self) -> None:
        """Close all sessions and stop listening; the tally stays."""
        if self._listener is None or self._selector is None:
            return
        for session in list(self._open_sessions.values()):
            while session.socket.fileno() >= 0 and self._read(session, self._selector):
                if self._batch_bytes >= _BATCH_BYTES:  # whoever goes on sending is not waited for
                    break
            if session.socket.fileno() >= 0:
                self._end(session, self._selector)
            self.tally.drop("socket", len(self._messages))
            self._start_batch()
        self._decode_batch()
        self._selector.close()
        self._listener.close()
        self._listener = self._selector = None
        self._has_ended = True

    def _start_batch(self) -> None:
        self._messages: list[bytes] = []
        self._senders: list[bytes] = []
        self._sender_ports: list[int] = []
        self._times_ns: list[int] = []
        self._batch_bytes = 0

    def _decode_batch(self) -> FlowTable:
        ended, self._ended = self._ended, []
        flows = self._decode_messages() if self._messages else FlowTable.empty()
        for session in ended:  # not before its last messages are decoded
            self._decoder.end_connection(session.sender, session.sender_port)
        return flows

    def _decode_messages(self) -> FlowTable:
        octets = np.frombuffer(b"".join(self._messages), np.uint8)
        offset = np.zeros(len(self._messages) + 1, np.int64)
        np.cumsum([len(message) for message in self._messages], out=offset[1:])
        sender = np.frombuffer(b"".join(self._senders), np.uint8).reshape(-1, 16)
        times_ns, ports = np.array(self._times_ns, np.int64), np.array(self._sender_ports, np.uint16)
        self._start_batch()
        return self._decoder.decode(octets, offset, sender, times_ns, ports)

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        """Accept one session; the next round accepts the next, so that none waits for a crowd."""
        try:
            sock, name = listener.accept()
        except OSError as err:
            if err.errno in _OUT_OF_DESCRIPTORS:
                raise InputError(
                    f"no descriptor is left for an IPFIX session ({err.strerror}): raise LimitNOFILE= or `ulimit -n`"
                ) from err
            return  # the exporter has gone again
        if len(self._open_sessions) >= self._most_sessions:
            sock.close()
            self.sessions.refused += 1
            return
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._open_sessions[sock.fileno()] = _Session(
            sock, _v4_mapped(str(name[0])), int(name[1]), MessageSplitter(), self._clock.monotonic_ns()
        )
        selector.register(sock, selectors.EVENT_READ)
        self.sessions.opened += 1

    def _read(self, session: _Session, selector: selectors.BaseSelector) -> bool:
        """Read once from a session; whether there may be more."""
        try:
            octets = session.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # reset, or timed out
            octets = b""
        if not octets:
            self.sessions.ended += 1
            self._end(session, selector)
            return False
        messages: list[bytes] = []
        is_broken = False
        try:
            messages = session.splitter.feed(octets)
            session.splitter.feed(b"")  # raises at once for what is behind the messages
        except WireError:
            is_broken = True
        if messages:
            session.last_message_ns = self._clock.monotonic_ns()
            self._messages += messages
            self._senders += [session.sender] * len(messages)
            self._sender_ports += [session.sender_port] * len(messages)
            self._times_ns += [self._clock.wall_ns()] * len(messages)
            self._batch_bytes += sum(map(len, messages))
        if is_broken:
            self.sessions.broken += 1
            self._count_malformed(NOT_IPFIX)
            self._forget(session, selector)
        return not is_broken

    def _close_idle(self, selector: selectors.BaseSelector) -> None:
        now_ns = self._clock.monotonic_ns()
        for session in list(self._open_sessions.values()):
            if now_ns - session.last_message_ns >= self._idle_timeout_ns:
                self.sessions.idle += 1
                self._end(session, selector)

    def _end(self, session: _Session, selector: selectors.BaseSelector) -> None:
        """Close a session whose stream ends here."""
        try:
            session.splitter.finish()
        except WireError:
            self._count_malformed(CUT_SESSION)
        self._forget(session, selector)

    def _forget(self, session: _Session, selector: selectors.BaseSelector) -> None:
        selector.unregister(session.socket)
        del self._open_sessions[session.socket.fileno()]
        session.socket.close()
        self._ended.append(session)

    def _count_malformed(self, reason: str) -> None:
        self.tally.offered += 1
        self.tally.malformed[reason] += 1

    def _opened(self) -> tuple[socket.socket, selectors.BaseSelector]:
        if self._listener is None or self._selector is None:
            raise RuntimeError("not open")
        return self._listener, self._selector


def _v4_mapped(address: str) -> bytes:
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
