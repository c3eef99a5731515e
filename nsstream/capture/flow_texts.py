"""What the texts of a table's columns mean: TCP flags, protocols, Zeek's history, Argus's states, labels.

All of them have few different values, so each is read once a batch however many rows have it.
"""

from __future__ import annotations

from string import hexdigits
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.capture.flow_cells import Cells
from nsstream.capture.flow_mapping import FlagsColumn, LabelColumn
from nsstream.capture.protocol_names import NAMELESS, NOT_IP, NUMBER_OF_NAME
from nsstream.trace.fields import ACK, FIN, PSH, RST, SYN

URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80

BAD_PROTOCOL: Final = -1
NON_IP: Final = -2
UNKNOWN_PROTOCOL: Final = -3

MAX_LABELS: Final = 4096
MAX_LABEL_CHARACTERS: Final = 128
OTHER_LABELS: Final = "(other labels)"

_BIT_OF_LETTER: Final = {"F": FIN, "S": SYN, "R": RST, "P": PSH, "A": ACK, "U": URG, "E": ECE, "C": CWR, "W": CWR}
# Zeek: what a letter of the history says of the packets of its direction; upper case is the originator.
_BITS_OF_HISTORY: Final = {"s": SYN, "h": SYN | ACK, "a": ACK, "d": ACK, "f": FIN, "r": RST, "w": ACK, "q": SYN | FIN}


def protocol_numbers(cells: Cells, prefix: str) -> NDArray[np.int64]:
    """The protocol of each row by its number or name; or one of `BAD_PROTOCOL`, `NON_IP`, `UNKNOWN_PROTOCOL`."""
    texts, which = cells.distinct()
    return np.array([_protocol(text.removeprefix(prefix).lower()) for text in texts] or [0], np.int64)[which]


def tcp_flags(cells: Cells, column: FlagsColumn) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.bool_]]:
    """Flags of each row, those of the reverse direction (where the form tells them), and whether they could be read."""
    texts, which = cells.distinct()
    read = {"flags": _flags, "hexadecimal": _hexadecimal, "zeek_history": _history, "argus_state": _state}[column.form]
    pairs = [read(text) for text in texts] or [(0, 0)]
    is_read = np.array([pair is not None for pair in pairs], np.bool_)[which]
    both = np.array([pair or (0, 0) for pair in pairs], np.uint16)[which].reshape(-1, 2)
    return both[:, 0], both[:, 1], is_read


class LabelCodes:
    """Codes of labels in the order of their first use, the same in all batches of a source."""

    def __init__(self) -> None:
        self._code_of: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What the codes from 1 stand for."""
        return tuple(self._code_of)

    def codes(self, columns: list[Cells], mapping: LabelColumn, missing: tuple[str, ...]) -> NDArray[np.uint16]:
        """The code of each row, 0 where it has no label."""
        combined = np.zeros(len(columns[0]), np.int64)
        texts = [""]
        for cells in columns:
            parts, which = cells.distinct()
            parts = ["" if part in missing or part in mapping.none else part for part in parts]
            pairs, combined = np.unique(combined * (len(parts) + 1) + which, return_inverse=True)
            texts = [
                " ".join(filter(None, (texts[pair // (len(parts) + 1)], parts[pair % (len(parts) + 1)])))
                for pair in pairs.tolist()
            ]
        first_use = np.full(len(texts), len(combined))
        np.minimum.at(first_use, combined, np.arange(len(combined)))
        codes = np.zeros(max(1, len(texts)), np.uint16)
        for at in np.argsort(first_use, kind="stable"):
            codes[at] = self._code(texts[at])
        return codes[combined]

    def _code(self, text: str) -> int:
        text = text[:MAX_LABEL_CHARACTERS]
        if not text:
            return 0
        if text not in self._code_of and len(self._code_of) >= MAX_LABELS - 1:
            text = OTHER_LABELS
        return self._code_of.setdefault(text, len(self._code_of) + 1)


def _protocol(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= 3 and int(text) <= 255 else BAD_PROTOCOL
    if text in NOT_IP:
        return NON_IP
    if text in NAMELESS:
        return UNKNOWN_PROTOCOL
    return NUMBER_OF_NAME.get(text, BAD_PROTOCOL)


def _flags(text: str) -> tuple[int, int] | None:
    if text[:1].isdigit():
        try:
            number = int(float(text)) if "." in text else int(text, 16 if text[:2] in ("0x", "0X") else 10)
        except (ValueError, OverflowError):
            return None
        return (number, 0) if 0 <= number <= 0xFFFF else None
    bits = 0
    for letter in text:
        if letter not in ".-_ ":
            if letter not in _BIT_OF_LETTER:
                return None
            bits |= _BIT_OF_LETTER[letter]
    return bits, 0


def _hexadecimal(text: str) -> tuple[int, int] | None:
    if len(text) > 4 or not set(text) <= set(hexdigits):
        return None
    return int(text or "0", 16), 0


def _history(text: str) -> tuple[int, int]:
    forward = reverse = 0
    for letter in text:
        bits = _BITS_OF_HISTORY.get(letter.lower(), 0)
        if letter.isupper():
            forward |= bits
        else:
            reverse |= bits
    return forward, reverse


def _state(text: str) -> tuple[int, int]:
    """Argus writes the flags of both sides only for TCP; of another protocol the state is a word of its own."""
    source, underscore, destination = text.partition("_")
    if not underscore or not set(source + destination) <= set(_BIT_OF_LETTER):
        return 0, 0
    forward, reverse = _flags(source), _flags(destination)
    return (forward or (0, 0))[0], (reverse or (0, 0))[0]
