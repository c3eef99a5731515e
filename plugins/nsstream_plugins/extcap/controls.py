"""Messages of a Wireshark interface toolbar: octets to messages and back. Sans-IO.

A message is ``T``, a length of three octets (big-endian; of what follows it), the number of the control, a command, and
text. Source: Wireshark, doc/README.extcap, "Messages".
"""

from __future__ import annotations

from typing import Final, NamedTuple

INITIALIZED: Final = 0
SET: Final = 1
STATUS_BAR: Final = 6
WARNING: Final = 8
ERROR: Final = 9
NO_CONTROL: Final = 255
MAX_LENGTH: Final = 1 << 16  # of a message; Wireshark's own are tens of octets


class Message(NamedTuple):
    """One message."""

    control: int
    command: int
    text: str


class MessageReader:
    """Takes octets in any pieces; raises ValueError for what is no message, and is then of no use any more."""

    def __init__(self) -> None:
        self._coming = bytearray()

    def feed(self, octets: bytes) -> list[Message]:
        """The messages that are whole now."""
        self._coming += octets
        found: list[Message] = []
        while len(self._coming) >= 6:
            length = int.from_bytes(self._coming[1:4], "big")
            if self._coming[:1] != b"T" or not 2 <= length <= MAX_LENGTH:
                raise ValueError(f"no message of a toolbar: {bytes(self._coming[:6]).hex(' ')}")
            if len(self._coming) < 4 + length:
                break
            text = self._coming[6 : 4 + length].decode(errors="replace")
            found.append(Message(self._coming[4], self._coming[5], text))
            del self._coming[: 4 + length]
        return found


def encode(message: Message) -> bytes:
    """The octets of a message."""
    text = message.text.encode()[: MAX_LENGTH - 2]
    return b"T" + (len(text) + 2).to_bytes(3, "big") + bytes([message.control, message.command]) + text
