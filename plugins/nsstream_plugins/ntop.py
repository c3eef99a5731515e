"""NtopSource: the flows that nProbe (or netflow2ng, or our own sink `ntop`) publishes over ZeroMQ.

Promises: all four headers, JSON and TLV, zlib or not; every record is a row or counted by reason, and what was
published and did not come is counted, too, by the messages' numbers (see `NtopDecoder`). A publisher may come later,
go, and come back. It is not proved to be who it says, nor is anything encrypted: connect over loopback, or through a
tunnel.
"""

from __future__ import annotations

from typing import Final

import zmq

from nsstream.capture.ntop_flows import NtopDecoder
from nsstream.capture.source import EXPORT_LATENESS_S
from nsstream.counters import Tally
from nsstream.trace import FlowTable
from nsstream_plugins.zmq_inlet import ZmqInlet


class NtopSource:
    """Subscribes to publishers.

    Args:
        endpoint: ``tcp://127.0.0.1:5556``, ``ipc:///run/nprobe.sock``; several with commas in between.
        bind: whether publishers connect to us, as nProbe does for ``ntopng -i tcp://*:5556c``.
    """

    lateness_s: Final = EXPORT_LATENESS_S

    def __init__(self, endpoint: str, *, bind: bool = False) -> None:
        self.tally = Tally()
        self._inlet = ZmqInlet(zmq.SUB, endpoint, is_bound=bind)
        self._decoder = NtopDecoder()
        self._is_open = self._has_ended = False

    @property
    def endpoint(self) -> str:
        """Where the open source is bound or connected."""
        return self._inlet.endpoint

    def open(self) -> None:
        """Subscribe; raises InputError if the endpoint is none, or cannot be listened at."""
        self.close()
        self._decoder = NtopDecoder()
        self.tally = self._decoder.tally
        self._inlet.open()
        self._is_open, self._has_ended = True, False

    def read_batch(self) -> FlowTable | None:
        """The flows of the next messages; none where none came for `IDLE_S`, or they held none; None once closed."""
        if self._has_ended:
            return None
        if not self._is_open:
            raise RuntimeError("read_batch before open")
        return self._decoder.decode(self._inlet.receive())

    def close(self) -> None:
        """Unsubscribe; messages that had come and were not read count as 1 each."""
        if self._is_open:
            self.tally.drop("socket", self._inlet.close())
            self._is_open, self._has_ended = False, True
