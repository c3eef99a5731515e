"""One capture: the main thread owns FIFOs and the end, a feed in another thread loads the library and writes packets.

Promises: the file header is written as soon as there is a reader, long before the library is loaded. The process ends
at once on SIGTERM (whose default action needs no Python to run), when the reader closes the FIFO (poll(2) tells of that
also where nothing is to be written), and when who started it is gone. That is exit status 0; a feed that fails says why
in one line on standard error, and in the toolbar, and the status is 1. Nothing is printed on standard output.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import struct
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn, Protocol

from nsstream.errors import NsstreamError
from nsstream_plugins.extcap import grammar
from nsstream_plugins.extcap.controls import ERROR, NO_CONTROL, STATUS_BAR, Message, MessageReader, encode

# As `wire.pcap_header` has it, which would load numpy: nanoseconds, version 2.4, Ethernet.
HEADER: Final = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
POLL_MS: Final = 100  # how soon it is seen that the parent is gone
OPEN_MS: Final = 10  # between two tries to open a FIFO that nobody reads yet
MOST_TRIES: Final = 1000  # 10 s: then whoever started us has gone before we could see it


class Feed(Protocol):
    """Where the packets come from; of a thread of its own, but for `control`."""

    def run(self, descriptor: int, show: Callable[[str], None]) -> None:
        """Write records until there are no more; raises NsstreamError. The header is written.

        show: puts a sentence into the status bar, "" clears it.
        """
        ...

    def control(self, message: Message) -> None:
        """Take a message of the toolbar; may come before `run`. Raises NsstreamError where it cannot be done."""
        ...


def capture(program: str, arguments: Sequence[str]) -> int:
    """Run a capture as Wireshark asked; gives an exit status only where it was not asked rightly, else it exits."""
    asked, _ = _parser().parse_known_args(arguments, Namespace(program=program))
    if not asked.fifo:
        print(f"{asked.program}: --capture needs --fifo", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(2, 1)  # whatever a library prints
    _Capture(asked).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in (
        "--fifo", "--extcap-capture-filter", "--extcap-control-in", "--extcap-control-out", "--log-file", "--trace",
        "--config",
    ):  # fmt: skip
        parser.add_argument(option)
    for option in ("--services", "--hosts"):
        parser.add_argument(option, default="")
    parser.add_argument("--model", default=grammar.LAB)
    parser.add_argument("--rate", default=grammar.DEFAULT_RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--state", default=grammar.DEFAULT_STATE)
    parser.add_argument("--addresses", choices=("twin", "real"), default="twin")
    return parser


class _Capture:
    def __init__(self, asked: Namespace) -> None:
        self._asked = asked
        self._parent = asked.parent or os.getppid()  # of whom the launcher knew before Python was there
        self._ended_read, self._ended_write = os.pipe()
        self._error: str | None = None
        self._descriptor = -1
        self._has_header = threading.Event()
        self._feed: Feed | None = None
        self._early: list[Message] = []  # said by the toolbar before there was a feed
        self._lock = threading.Lock()
        self._toolbar = -1
        self._status: str | None = None  # what was shown last

    def run(self) -> NoReturn:
        threading.Thread(target=self._run_feed, name="feed", daemon=True).start()
        try:
            self._descriptor = self._open(self._asked.fifo)
            os.write(self._descriptor, HEADER)
        except OSError as err:
            if err.errno == errno.EPIPE:
                self._exit(None)
            self._exit(f"{self._asked.fifo}: {(err.strerror or str(err)).lower()}")
        self._has_header.set()
        reader, controls = MessageReader(), -1
        poll = select.poll()
        poll.register(self._descriptor, 0)  # POLLERR comes unasked: the reader is gone
        poll.register(self._ended_read, select.POLLIN)
        with suppress(OSError):
            if self._asked.extcap_control_in:
                controls = os.open(self._asked.extcap_control_in, os.O_RDONLY | os.O_NONBLOCK)
                poll.register(controls, select.POLLIN)
        while True:
            for descriptor, events in poll.poll(POLL_MS):
                if descriptor == self._descriptor and events & (select.POLLERR | select.POLLHUP):
                    self._exit(None)
                elif descriptor == self._ended_read:
                    self._exit(None if self._is_unread() else self._error)
                elif descriptor == controls and not self._listen(controls, reader):
                    poll.unregister(controls)
            if os.getppid() != self._parent:
                self._exit(None)
            if self._toolbar < 0 and self._asked.extcap_control_out:
                with suppress(OSError):  # nobody reads it yet
                    toolbar = os.open(self._asked.extcap_control_out, os.O_WRONLY | os.O_NONBLOCK)
                    with self._lock:
                        self._toolbar = toolbar
                        self._put(STATUS_BAR, self._status)

    def _is_unread(self) -> bool:
        """Whether the reader is gone: then a feed that cannot write has not failed."""
        poll = select.poll()
        poll.register(self._descriptor, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))

    def _open(self, path: str) -> int:
        """Wait for a reader; raises OSError."""
        poll = select.poll()
        poll.register(self._ended_read, select.POLLIN)
        for _ in range(MOST_TRIES):
            try:
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as err:
                if err.errno != errno.ENXIO:
                    raise
            if poll.poll(OPEN_MS):
                self._exit(self._error)
            if os.getppid() != self._parent:
                self._exit(None)
        raise OSError(errno.ENXIO, "nobody reads it")

    def _listen(self, controls: int, reader: MessageReader) -> bool:
        """Take what the toolbar says; False once it says no more."""
        try:
            octets = os.read(controls, 4096)
            messages = reader.feed(octets)
        except BlockingIOError:
            return True
        except (OSError, ValueError):
            return False
        for message in messages:
            with self._lock:
                feed = self._feed
                if feed is None:
                    self._early.append(message)
                    continue
            self._obey(feed, message)
        return bool(octets)

    def _obey(self, feed: Feed, message: Message) -> None:
        try:
            feed.control(message)
        except NsstreamError as err:
            self._tell(str(err))

    def _tell(self, sentence: str) -> None:
        """Show an error in the toolbar."""
        self._put(ERROR, sentence)

    def _show(self, sentence: str) -> None:
        """Show in the status bar how far it is, or once somebody looks."""
        with self._lock:
            self._status = sentence
            self._put(STATUS_BAR, sentence)

    def _put(self, command: int, sentence: str | None) -> None:
        with suppress(OSError):
            if self._toolbar >= 0 and sentence is not None:
                os.write(self._toolbar, encode(Message(NO_CONTROL, command, sentence)))

    def _run_feed(self) -> None:
        try:
            self._log()
            feed = _make_feed(self._asked)
            with self._lock:
                self._feed, early = feed, self._early
            for message in early:
                self._obey(feed, message)
            self._has_header.wait()
            feed.run(self._descriptor, self._show)
        except NsstreamError as err:
            self._error = str(err)
        except BaseException as err:  # the thread's boundary: the process ends, and says so
            self._error = f"an error inside nsstream: {type(err).__name__}: {err}"
        os.write(self._ended_write, b"\0")

    def _log(self) -> None:
        """Log to the file that Wireshark or NSSTREAM_EXTCAP_LOG names, or nowhere."""
        import logging

        path = self._asked.log_file or os.environ.get("NSSTREAM_EXTCAP_LOG")
        if path:
            with suppress(OSError):
                logging.basicConfig(filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        else:
            logging.lastResort = None

    def _exit(self, error: str | None) -> NoReturn:
        """End the process without waiting for a thread that draws or loads."""
        if error is not None:
            self._tell(error)
            with suppress(OSError):
                os.write(2, f"{self._asked.program}: {error}\n".encode())
        os._exit(0 if error is None else 1)


def _make_feed(asked: Namespace) -> Feed:
    made: Callable[[Namespace], Feed]
    if asked.program == "nsstream-synth":
        from nsstream_plugins.extcap.synth import Synth as made  # noqa: N813
    else:
        from nsstream_plugins.extcap.tap import Tap as made  # noqa: N813
    return made(asked)
