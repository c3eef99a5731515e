"""JournalHandler: log records as entries of the journal that have fields, by its native protocol.

A message is an event and what it is about, ``chunk_stored id=%s rows=%d``: the entry has it as its MESSAGE, and beside
that NSSTREAM_EVENT=chunk_stored, NSSTREAM_CHUNK=... (an ``id`` is named after the event's first word) and
NSSTREAM_ROWS=..., with PRIORITY, CODE_FILE, CODE_LINE, CODE_FUNC, LOGGER and THREAD_NAME. So
``journalctl NSSTREAM_EVENT=job_failed`` finds what it names, and values are whole whatever stands in them.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/, systemd.journal-fields(7).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import Final

from nsstream_daemon.log_format import PRIORITY, JournalFormatter

SOCKET: Final = "/run/systemd/journal/socket"
PREFIX: Final = "NSSTREAM_"
IDENTIFIER: Final = "nsstream"
MOST_OCTETS: Final = 1 << 15  # of a value: a datagram with several of them is taken by every kernel's default
SEND_TIMEOUT_S: Final = 1.0  # a journal that does not read must not stop the capture

_KEY: Final = re.compile(r"(?:^|\s)([a-z][a-z0-9_]*)=")


def is_journal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether a descriptor is what the service manager connected to the journal (JOURNAL_STREAM of systemd.exec(5))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def log_handler(environ: Mapping[str, str]) -> logging.Handler:
    """What logs to the journal where standard error is that, and lines with a time to standard error elsewhere."""
    if is_journal(environ):
        return JournalHandler()
    handler = logging.StreamHandler()
    handler.setFormatter(JournalFormatter(is_journal=False))
    return handler


class JournalHandler(logging.Handler):
    """Sends records to the journal's socket; what it does not take goes to standard error, as a line."""

    def __init__(self, path: str = SOCKET) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_TIMEOUT_S)
        self._fallback = logging.StreamHandler()
        self._fallback.setFormatter(JournalFormatter(is_journal=True))

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            self._socket.sendto(datagram(fields_of(record, self.format(record))), self._path)
        except OSError:
            self._fallback.handle(record)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
        super().close()


def fields_of(record: logging.LogRecord, message: str) -> dict[str, str]:
    """The fields of a record's entry, with this as its MESSAGE."""
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(PRIORITY.get(record.levelno, 5)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
        "THREAD_NAME": record.threadName or "",
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
    }
    if record.exc_info and record.exc_info[0] is not None:
        fields[PREFIX + "EXCEPTION"] = record.exc_info[0].__name__
    return fields | _own_fields(record)


def datagram(fields: Mapping[str, str]) -> bytes:
    """The fields as the journal's socket takes them; a value of several lines is preceded by its length."""
    octets = bytearray()
    for name, text in fields.items():
        value = text.encode(errors="replace")[:MOST_OCTETS]
        if b"\n" in value:
            octets += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            octets += name.encode() + b"=" + value + b"\n"
    return bytes(octets)


def _own_fields(record: logging.LogRecord) -> dict[str, str]:
    """The event and its keys, each value made from its own part of the template: blanks in it divide nothing."""
    template = record.msg if isinstance(record.msg, str) else ""
    given = record.args if isinstance(record.args, tuple) else ()
    keys = list(_KEY.finditer(template))
    bounds = [*(key.start() for key in keys), len(template)]
    try:
        event, used = _filled(template[: bounds[0]], given)
        event = "_".join(event.split())
        fields = {PREFIX + "EVENT": event}
        for key, end in zip(keys, bounds[1:], strict=True):
            value, count = _filled(template[key.end() : end], given[used:])
            used += count
            name = event.partition("_")[0] if key[1] == "id" else key[1]
            fields[PREFIX + name.upper()] = value
    except (TypeError, ValueError):  # a message of another kind, of somebody else's code
        return {}
    return fields if event else {}


def _filled(part: str, given: tuple[object, ...]) -> tuple[str, int]:
    """A part of a template, with its arguments, and how many those are."""
    count = part.replace("%%", "").count("%")
    return (part % given[:count] if given else part), count
