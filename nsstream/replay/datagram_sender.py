"""DatagramSender: datagrams to one UDP address, no faster than a limit, so that a burst does not overrun its reader.

A reader that is not there is no error: what comes back of it (ECONNREFUSED) is counted, as UDP tells it of a datagram
before, and the sending goes on. What the system refuses to send is counted as failed, and goes on as well.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nsstream.clock import Clock
from nsstream.errors import OutputError
from nsstream.replay.sink import POLL_INTERVAL_S

if TYPE_CHECKING:
    from nsstream.wire.netflow.export import Datagrams

BURST: Final = 32  # datagrams at once: a third of what a socket of default size holds
_TRIES: Final = 3
_OF_THE_SOCKET: Final = (errno.EBADF, errno.ENOTSOCK, errno.EMSGSIZE, errno.EINVAL)  # never heals by itself


class DatagramSender:
    """A connected UDP socket.

    Args:
        address: IPv4 or IPv6, as text.
        port: of the reader.
        source: the local address to send from, or None.
        datagrams_per_s: the limit.
        is_stopped: asked while it waits; once it says yes, `send` raises OutputError.
        clock: for the limit.
    """

    def __init__(
        self,
        address: str,
        port: int,
        source: str | None,
        datagrams_per_s: float,
        is_stopped: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._to = (address, port)
        self._source = source
        self._interval_ns = max(1, round(1e9 / datagrams_per_s))
        self._is_stopped = is_stopped
        self._clock = clock
        self._next_ns = 0  # when the next datagram is due, were there no bursts; a burst behind the clock at most
        self._socket: socket.socket | None = None
        self.sent_count = 0
        self.flow_count = 0  # in datagrams that were sent
        self.failed_count = 0
        self.failed_flow_count = 0
        self.refused_count = 0  # answers that nobody listens there
        self.octet_count = 0
        self.last_failure = ""

    def open(self) -> None:
        """Make the socket; raises OutputError."""
        family = socket.AF_INET6 if ipaddress.ip_address(self._to[0]).version == 6 else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            if self._source is not None:
                made.bind((self._source, 0))
            with suppress(ConnectionRefusedError):
                made.connect(self._to)
        except OSError as err:
            made.close()
            raise OutputError(f"{self.name}: cannot send there: {(err.strerror or str(err)).lower()}") from err
        self._socket = made

    @property
    def name(self) -> str:
        """The reader, for messages."""
        address, port = self._to
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def send(self, datagrams: Datagrams) -> None:
        """Send datagrams, waiting as the limit asks.

        Raises OutputError once the run is stopped, and where no datagram can ever be sent; what was not sent then has
        been counted as failed.
        """
        view, edges, counts = datagrams.octets.data, datagrams.offset.tolist(), datagrams.flow_count.tolist()
        at = 0
        while at < len(counts):
            try:
                stop = min(at + self._wait_for_turn(), len(counts))
                for i in range(at, stop):
                    is_sent = self._send_one(view[edges[i] : edges[i + 1]])
                    at = i + 1
                    if is_sent:
                        self.flow_count += counts[i]
                        self.sent_count += 1
                        self.octet_count += edges[at] - edges[i]
                    else:
                        self.failed_count += 1
                        self.failed_flow_count += counts[i]
                    self._next_ns += self._interval_ns
            except OutputError:
                self.failed_count += len(counts) - at
                self.failed_flow_count += sum(counts[at:])
                raise

    def close(self) -> None:
        """Let go of the socket; may be repeated."""
        if self._socket is not None:
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED:
                self.refused_count += 1
            self._socket.close()
            self._socket = None

    def _wait_for_turn(self) -> int:
        """How many datagrams may go now: 1 to BURST. What was not used of a quiet time is good for one burst."""
        while True:
            now_ns = self._clock.monotonic_ns()
            self._next_ns = max(self._next_ns, now_ns - BURST * self._interval_ns)
            if (count := (now_ns - self._next_ns) // self._interval_ns) > 0:
                return int(count)
            if self._is_stopped():
                raise OutputError(f"{self.name}: stopped before everything was sent")
            # Half a burst at once: a wait for each datagram would cost more than the datagram.
            wait_ns = min(self._next_ns - now_ns + BURST // 2 * self._interval_ns, int(POLL_INTERVAL_S * 1e9))
            select.select([], [], [], wait_ns * 1e-9)

    def _send_one(self, octets: memoryview) -> bool:
        if self._socket is None:
            raise ValueError("datagrams are sent between open and close")
        refusals = 0
        while refusals < _TRIES:
            try:
                self._socket.send(octets)
            except ConnectionRefusedError:  # tells of one before; this one was not sent yet
                self.refused_count += 1
                refusals += 1
            except BlockingIOError:
                if self._is_stopped():
                    raise OutputError(f"{self.name}: stopped before everything was sent") from None
                poll = select.poll()  # select(2) knows no descriptor beyond 1023
                poll.register(self._socket, select.POLLOUT)
                poll.poll(int(POLL_INTERVAL_S * 1000))
            except OSError as err:
                self.last_failure = (err.strerror or str(err)).lower()
                if err.errno in _OF_THE_SOCKET:
                    raise OutputError(f"{self.name}: cannot send {len(octets)} octets: {self.last_failure}") from err
                return False
            else:
                return True
        self.last_failure = "connection refused"
        return False
