"""PmacctTeeSource: NetFlow and IPFIX that pmacct's tee plugin hands on over ZeroMQ, beside the collector it also feeds.

nfacctd binds a PUSH socket for each ``zmq_address`` of its list of receivers, and sends each datagram as one frame: an
IP and a UDP header of its making, with the exporter's address, and the payload. Nobody has to touch the port of the
collector, or to be there: what nfacctd cannot hand over, it drops, and says so in its log; the collector gets it still.

Promises: every datagram that came is decoded, or counted as ``malformed["not_tee"]``. What nfacctd dropped shows as
gaps in the exporters' sequences (`decoder.exporters`). What exporters told of themselves is handed over to a successor.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import zmq

from nsstream.capture.source import EXPORT_LATENESS_S
from nsstream.clock import Clock, SystemClock
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder
from nsstream_plugins.zmq_inlet import ZmqInlet

NOT_TEE: Final = "not_tee"

_UDP: Final = 17
_UDP_HEADER: Final = 8
_HANDOVER_FORMAT: Final = "nsstream-pmacct-tee"
_REMEMBER_NS: Final = 1_000_000_000  # between two looks at what exporters told


class PmacctTeeSource:
    """Pulls from one tee or several.

    Args:
        endpoint: ``tcp://127.0.0.1:50001``, as in the list of receivers; several with commas in between.
        clock: of the time of receipt.
    """

    lateness_s: Final = EXPORT_LATENESS_S

    def __init__(self, endpoint: str, *, clock: Clock | None = None) -> None:
        self.tally = Tally()
        self._inlet = ZmqInlet(zmq.PULL, endpoint, is_bound=False)
        self._clock = clock or SystemClock()
        self._decoder = ExportDecoder()
        self._is_open = self._has_ended = False
        self._inherited: object = None
        self._handover: dict[str, Any] | None = None
        self._told_revision, self._told_ns = -1, 0

    @property
    def endpoint(self) -> str:
        """What the open source is connected to."""
        return self._inlet.endpoint

    @property
    def decoder(self) -> ExportDecoder:
        """What decodes, with its statistics of each exporter."""
        return self._decoder

    def open(self) -> None:
        """Begin to connect; raises InputError if the endpoint is none."""
        self.close()
        self._decoder = ExportDecoder()
        self.tally = self._decoder.tally
        if self._inherited is not None:
            self._decoder.take_over(self._inherited, self._clock.wall_ns())
            self._inherited = None
        self._inlet.open()
        self._is_open, self._has_ended = True, False

    def read_batch(self) -> FlowTable | None:
        """The flows of the next datagrams; none where none came for `IDLE_S`, or they held none; None once closed."""
        if self._has_ended:
            return None
        if not self._is_open:
            raise RuntimeError("read_batch before open")
        flows = self._decode(self._inlet.receive())
        self._remember()
        return flows

    def close(self) -> None:
        """Let go of the tee; datagrams that had come and were not read count as 1 each."""
        if self._is_open:
            self.tally.drop("socket", self._inlet.close())
            self._is_open, self._has_ended = False, True
            self._remember(is_final=True)

    def handover(self) -> dict[str, Any] | None:
        """Templates and options of the exporters."""
        return self._handover

    def take_over(self, handover: object) -> None:
        """Know what a predecessor knew, from `open` on; raises InputError where that is not what one hands over."""
        if not isinstance(handover, dict) or handover.get("format") != _HANDOVER_FORMAT:
            raise InputError(f"what was handed over is not of a tee: {handover!r:.60}")
        ExportDecoder().take_over(handover.get("exporters"), self._clock.wall_ns())
        self._inherited = handover["exporters"]
        self._handover = handover

    def _remember(self, *, is_final: bool = False) -> None:
        revision, now_ns = self._decoder.revision, self._clock.monotonic_ns()
        is_due = revision != self._told_revision and now_ns - self._told_ns >= _REMEMBER_NS
        if is_final or is_due or self._handover is None:
            self._told_revision, self._told_ns = revision, now_ns
            self._handover = {"format": _HANDOVER_FORMAT, "exporters": self._decoder.handover(is_final=is_final)}

    def _decode(self, messages: list[list[bytes]]) -> FlowTable:
        datagrams = [found for frames in messages if (found := _datagram(frames)) is not None]
        if refused := len(messages) - len(datagrams):
            self.tally.offered += refused
            self.tally.malformed[NOT_TEE] += refused
        if not datagrams:
            return FlowTable.empty()
        senders, payloads = zip(*datagrams, strict=True)
        offset = np.zeros(len(payloads) + 1, np.int64)
        np.cumsum([len(payload) for payload in payloads], out=offset[1:])
        return self._decoder.decode(
            np.frombuffer(b"".join(payloads), np.uint8),
            offset,
            np.frombuffer(b"".join(senders), np.uint8).reshape(-1, 16),
            np.full(len(payloads), self._clock.wall_ns(), np.int64),
        )


def _datagram(frames: list[bytes]) -> tuple[bytes, bytes] | None:
    """The exporter's address, in 16 octets, and the payload; None where the message is no datagram of a tee."""
    if len(frames) != 1:
        return None
    (frame,) = frames
    version = frame[0] >> 4 if frame else 0
    if version == 4 and len(frame) > 20:
        start, protocol, sender = 4 * (frame[0] & 0x0F), frame[9], bytes(10) + b"\xff\xff" + frame[12:16]
    elif version == 6 and len(frame) > 40:
        start, protocol, sender = 40, frame[6], frame[8:24]
    else:
        return None
    if start < 20 or protocol != _UDP or len(frame) <= start + _UDP_HEADER:
        return None
    return sender, frame[start + _UDP_HEADER :]
