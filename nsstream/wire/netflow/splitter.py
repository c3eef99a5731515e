"""MessageSplitter: the octets of an IPFIX stream in, whole messages out. TCP (RFC 7011 10.4), files (RFC 5655).

Rules: (1) octets come in by `feed`, cut anywhere; each call gives the messages that became whole with it; (2) where the
stream turns out to be no IPFIX, the messages before that place are given first, and the call after raises; (3) `finish`
must be called at the end. It holds less than one message, 65,535 octets, beside what it is fed.
"""

from __future__ import annotations

from typing import Final

from nsstream.errors import WireError

_HEADER_BYTES: Final = 16
_VERSION: Final = 10


class MessageSplitter:
    """One stream, from its first octet to its last."""

    def __init__(self) -> None:
        self._rest = b""
        self._offset = 0  # of the rest, in the stream
        self._complaint = ""

    def feed(self, octets: bytes) -> list[bytes]:
        """Take the next octets of the stream; the messages that are whole now, in order.

        Raises WireError where the stream is no IPFIX, for good.
        """
        self._check()
        octets = self._rest + octets
        messages = []
        at = 0
        while len(octets) - at >= 2:
            version = int.from_bytes(octets[at : at + 2], "big")
            if version != _VERSION:
                self._complaint = f"version {version} where an IPFIX message should start, which is version {_VERSION}"
                break
            if len(octets) - at < 4:
                break
            length = int.from_bytes(octets[at + 2 : at + 4], "big")
            if length < _HEADER_BYTES:
                self._complaint = f"an IPFIX message of {length} octets, less than its header of {_HEADER_BYTES}"
                break
            if len(octets) - at < length:
                break
            messages.append(octets[at : at + length])
            at += length
        self._rest = octets[at:] if not self._complaint else b""
        self._offset += at
        if not messages:
            self._check()
        return messages

    def finish(self) -> None:
        """Say that the stream has ended; raises WireError if it did in the middle of a message, or was no IPFIX."""
        self._check()
        if self._rest:
            self._complaint = f"cut: the stream ends {len(self._rest)} octets into a message"
            self._check()

    def _check(self) -> None:
        if self._complaint:
            raise WireError(f"not IPFIX at octet {self._offset} of the stream: {self._complaint}")
