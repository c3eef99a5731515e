"""PdmlSplitter: tshark's PDML, as it comes, into one piece of XML a packet. Sans-IO.

Promises: any split of the stream gives the same pieces; memory is bounded by `MAX_PACKET_BYTES` and a read; each octet
is looked at once. A packet that is larger than that is given as None: its number is kept, its content is not.
"""

from __future__ import annotations

from typing import Final

MAX_PACKET_BYTES: Final = 32 << 20  # 64 KiB of payload become some 2 MiB of PDML

_START: Final = b"<packet>"
_END: Final = b"</packet>"


class PdmlSplitter:
    """One run of tshark."""

    def __init__(self, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._rest = bytearray()
        self._searched = 0  # octets of the rest that hold no end
        self._is_too_large = False

    def feed(self, octets: bytes) -> list[bytes | None]:
        """The packets that became whole with these octets."""
        self._rest += octets
        packets: list[bytes | None] = []
        while (end := self._rest.find(_END, self._searched)) >= 0:
            packets.append(self._take(end + len(_END)))
        self._searched = max(0, len(self._rest) - len(_END) + 1)
        if len(self._rest) > self._max_packet_bytes:
            self._is_too_large = True
            del self._rest[: self._searched]
            self._searched = 0
        return packets

    @property
    def is_inside_packet(self) -> bool:
        """Whether a packet has begun that has not ended."""
        return self._is_too_large or _START in self._rest

    def _take(self, size: int) -> bytes | None:
        start = self._rest.find(_START, 0, size)
        piece = None if self._is_too_large or start < 0 else bytes(self._rest[start:size])
        del self._rest[:size]
        self._searched = 0
        self._is_too_large = False
        return piece
