"""NetflowUdpSource: NetFlow v5, v9 and IPFIX exports as they come to a UDP port, as flows.

Promises: every datagram that the kernel queued is decoded, and what it could not queue is counted as
``dropped["socket"]``. Nobody can know how many records such a datagram held: each counts as 1, as does one that was
cut, ``malformed["cut_datagram"]``. A socket that was passed in stays open at `close`, and what is queued in it is the
successor's; in one of our own, what is left is counted as dropped. Templates, options and the count of drops go to the
successor by `handover`, at most a second after they changed, and with `close`; what is parked with `close` only.

Exports carry no proof of who sent them. Whoever reaches the port decides what is learned, so the default is loopback;
for exporters elsewhere name the address that they reach, and keep others from it by a firewall.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from nsstream.capture.datagrams import LARGEST_DATAGRAM_BYTES, DatagramReceiver
from nsstream.capture.sockets import SocketMark, bind_socket, duplicate_socket, grow_receive_buffer
from nsstream.capture.source import EXPORT_LATENESS_S, IDLE_S
from nsstream.clock import Clock, SystemClock
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder

NETFLOW_PORT: Final = 2055  # by custom; nfcapd's is 9995
IPFIX_PORT: Final = 4739  # IANA's
CUT_DATAGRAM: Final = "cut_datagram"

# While datagrams come in quickly it is cheaper to let some queue than to wake up for each. A pause is no longer than
# it takes a million datagrams a second (2304 octets of buffer each, for those of an Ethernet frame) to half fill it.
_LONGEST_PAUSE_S: Final = 0.002
_PAUSE_S_PER_BYTE: Final = 0.5 / (1_000_000 * 2304)

_HANDOVER_FORMAT: Final = "nsstream-netflow-udp"
_HANDOVER_VERSION: Final = 1
_REMEMBER_NS: Final = 1_000_000_000  # between two looks at what exporters told
_REMEMBER_AGES_NS: Final = 60_000_000_000  # where they told nothing but what was known


class NetflowUdpSource:
    """Listens on one UDP socket, of IPv4, of IPv6, or (address ``::``) of both.

    Args:
        address: numeric; what of this machine to listen on.
        port: 0 lets the kernel choose; see `listens_on`.
        passed: a bound socket to receive from in place of one of our own: `sockets.passed_sockets`.
        since: the `mark` of the predecessor on a socket that was passed, so that no drop is counted twice or never.
        receive_buffer_bytes: to ask the kernel for, which takes memory only while datagrams wait; what it gave is in
            the attribute of that name. 128 MiB are some 58,000 datagrams of an Ethernet frame each.
        most_datagrams: in a batch.
        gather_s: how long a batch may wait for more once its first datagram has come.
        datagram_bytes: the longest that is read.
        make_decoder: of the decoder, whose templates and tally live from one `open` to the next.
    """

    lateness_s: Final = EXPORT_LATENESS_S

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = NETFLOW_PORT,
        *,
        passed: socket.socket | None = None,
        since: SocketMark | None = None,
        receive_buffer_bytes: int = 128 << 20,
        most_datagrams: int = 512,
        gather_s: float = 0.05,
        datagram_bytes: int = LARGEST_DATAGRAM_BYTES,
        make_decoder: Callable[[], ExportDecoder] = ExportDecoder,
        clock: Clock | None = None,
    ) -> None:
        self.tally = Tally()
        self.receive_buffer_bytes = 0  # as the kernel says; 0 before `open`
        self.mark = since  # where the count of the socket's drops stands
        self._told_mark = since
        self._address = address
        self._port = port
        self._passed = passed
        self._wanted_buffer_bytes = receive_buffer_bytes
        self._most_datagrams = most_datagrams
        self._gather_s = gather_s
        self._datagram_bytes = datagram_bytes
        self._make_decoder = make_decoder
        self._clock = clock or SystemClock()
        self._decoder = make_decoder()
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._pause_s = 0.0
        self._has_ended = False
        self._inherited: object = None  # of the decoder, until `open`
        self._exporters: object = None  # what the decoder last handed over, and of when
        self._exporters_revision = -1
        self._exporters_ns = 0
        self._handover: dict[str, Any] | None = None

    @property
    def listens_on(self) -> tuple[str, int]:
        """Address and port of the open socket."""
        name = self._open_socket().getsockname()
        return str(name[0]), int(name[1])

    @property
    def decoder(self) -> ExportDecoder:
        """What decodes, with its statistics of each exporter."""
        return self._decoder

    def open(self) -> None:
        """Bind the port, or begin to read the socket that was passed.

        Raises InputError if the address or port cannot be had, or what was passed is no UDP socket.
        """
        self.close()
        if self._passed is None:
            self._socket = bind_socket(self._address, self._port, socket.SOCK_DGRAM)
        else:
            self._socket = duplicate_socket(self._passed, socket.SOCK_DGRAM)
        self.receive_buffer_bytes = grow_receive_buffer(self._socket, self._wanted_buffer_bytes)
        self._pause_s = min(_LONGEST_PAUSE_S, self.receive_buffer_bytes * _PAUSE_S_PER_BYTE)
        self._receiver = DatagramReceiver(
            self._socket,
            self._clock,
            most_datagrams=self._most_datagrams,
            most_bytes=4 << 20,
            datagram_bytes=self._datagram_bytes,
        )
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._decoder = self._make_decoder()
        if self._inherited is not None:
            self._decoder.take_over(self._inherited, self._clock.wall_ns())
            self._inherited = None
        self.tally = self._decoder.tally
        self._count_drops(self._socket)
        self._has_ended = False

    def read_batch(self) -> FlowTable | None:
        """The flows of the next exports; none where none came for `IDLE_S`, or what came held none; None once closed.

        Raises InputError if the socket breaks.
        """
        if self._has_ended:
            return None
        sock = self._open_socket()
        self._gather()
        self._count_drops(sock)
        flows = FlowTable.empty()
        if len(self._receiver):
            datagrams = self._receiver.take()
            flows = self._decoder.decode(
                datagrams.octets, datagrams.offset, datagrams.sender, datagrams.receive_time_ns
            )
        self._remember()
        return flows

    def close(self) -> None:
        """Stop listening; the tally and `mark` stay. What a passed socket has queued stays in it."""
        if self._socket is None:
            return
        self._count_drops(self._socket)
        lost_count = len(self._receiver)
        if self._passed is None:
            lost_count += _left_behind(self._socket, self.receive_buffer_bytes)
        self.tally.drop("socket", lost_count)
        self._socket.close()
        self._socket = None
        self._has_ended = True
        self._remember(is_final=True)

    def handover(self) -> dict[str, Any] | None:
        """Templates, options and the count of drops, for a successor on this socket or another one."""
        return self._handover

    def take_over(self, handover: object) -> None:
        """Know what a predecessor knew, from `open` on; raises InputError where that is not what one hands over."""
        if not isinstance(handover, dict):
            raise InputError(f"what was handed over must be a mapping, got {handover!r:.60}")
        if (handover.get("format"), handover.get("version")) != (_HANDOVER_FORMAT, _HANDOVER_VERSION):
            raise InputError(
                f"what was handed over is {handover.get('format')!r:.60} version {handover.get('version')!r:.60}"
            )
        mark = SocketMark.from_dict(handover["mark"]) if handover.get("mark") is not None else None
        self._make_decoder().take_over(handover.get("exporters"), self._clock.wall_ns())
        self._inherited = handover["exporters"]
        self._handover = handover
        self.mark = mark or self.mark

    def _remember(self, *, is_final: bool = False) -> None:
        """Have `handover` tell what is new, but look at what exporters told only now and then."""
        revision, now_ns = self._decoder.revision, self._clock.monotonic_ns()
        wait_ns = _REMEMBER_NS if revision != self._exporters_revision else _REMEMBER_AGES_NS
        is_due = self._exporters is None or now_ns - self._exporters_ns >= wait_ns
        if is_due or is_final:
            self._exporters = self._decoder.handover(is_final=is_final)
            self._exporters_revision, self._exporters_ns = revision, now_ns
        elif self._handover is not None and self.mark == self._told_mark:
            return
        self._told_mark = self.mark
        self._handover = {
            "format": _HANDOVER_FORMAT,
            "version": _HANDOVER_VERSION,
            "mark": self.mark and self.mark.as_dict(),
            "exporters": self._exporters,
        }

    def _gather(self) -> None:
        """Receive until the batch is full, or its time is over, or nothing has come for a while."""
        if not self._poll.poll(1000 * IDLE_S):
            return
        until_ns = self._clock.monotonic_ns() + round(self._gather_s * 1e9)
        while not self._receiver.is_full:
            may_be_more = self._receiver.fill()
            left_ns = until_ns - self._clock.monotonic_ns()
            if left_ns <= 0:
                return
            if not may_be_more:
                if not self._poll.poll(left_ns / 1e6):
                    return
                time.sleep(min(self._pause_s, left_ns / 1e9))

    def _count_drops(self, sock: socket.socket) -> None:
        mark = SocketMark.of(sock)
        self.tally.drop("socket", mark.drops_since(self.mark))
        self.mark = mark
        cut_count, self._receiver.cut_count = self._receiver.cut_count, 0
        if cut_count:
            self.tally.offered += cut_count
            self.tally.malformed[CUT_DATAGRAM] += cut_count

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise RuntimeError("not open")
        return self._socket


def _left_behind(sock: socket.socket, receive_buffer_bytes: int) -> int:
    """How many datagrams the socket has queued, no more than fit into its buffer whoever goes on sending."""
    for count in range(receive_buffer_bytes // 512):
        try:
            sock.recv(1, socket.MSG_DONTWAIT)
        except OSError:
            return count
    return receive_buffer_bytes // 512
