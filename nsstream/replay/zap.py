"""ZAP: who is let in, asked by libzmq for every CURVE handshake (ZeroMQ RFC 27). Sans-IO; the server has the socket.

Promises: whoever has no listed key gets 400, and so does every request that is not of our domain and mechanism; any
request gets an answer, or None where it is not of ZAP 1.0 at all, which libzmq takes for a no.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

ENDPOINT: Final = "inproc://zeromq.zap.01"
DOMAIN: Final = "nsstream"  # a socket of another domain, or of none, is not asked for here, and lets nobody in
VERSION: Final = b"1.0"
CURVE_KEY_BYTES: Final = 32


@dataclass(slots=True)
class Door:
    """Answers requests; `name_of` gives the name of the client with a key (Z85), None for one that is not let in."""

    name_of: Callable[[bytes], str | None]
    allowed_count: int = 0
    refused_count: int = 0

    def answer(self, request: Sequence[bytes]) -> list[bytes] | None:
        """The reply to a request: version, id, domain, address, identity, mechanism, and the credentials."""
        if len(request) < 6 or request[0] != VERSION:
            self.refused_count += 1
            return None
        _, request_id, domain, _, _, mechanism, *credentials = request
        name = None
        is_ours = domain == DOMAIN.encode() and mechanism == b"CURVE"
        if is_ours and len(credentials) == 1 and len(credentials[0]) == CURVE_KEY_BYTES:
            import zmq.utils.z85

            name = self.name_of(zmq.utils.z85.encode(credentials[0]))
        if name is None:
            self.refused_count += 1
            return [VERSION, request_id, b"400", b"this key is not listed", b"", b""]
        self.allowed_count += 1
        return [VERSION, request_id, b"200", b"OK", name.encode(), b""]
