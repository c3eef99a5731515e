"""Drawing: a run's stream in a thread of its own, read ahead into a bounded queue, and commanded meanwhile.

Promises: a seek takes effect at once for what is drawn already, which is skipped and counted, and for the stream as
soon as it can be asked; a change of the passes holds for what is drawn behind it. A stop takes effect once the block in
hand is drawn, since a draw cannot be cut short. What goes wrong in the thread is raised where blocks are taken. The
stream is closed once the run is to end, and not before, whatever became of it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol, runtime_checkable

from nsstream.errors import InputError
from nsstream.replay.stream import Block, FrameStream

AHEAD_BLOCKS: Final = 2
TICK_S: Final = 0.02  # how soon a thread that waits for the other sees a stop


class CannotError(Exception):
    """The stream cannot do what was asked of it, or not yet; the message is a refusal's sentence."""


class StoppedError(Exception):
    """The run was told to stop."""


@runtime_checkable
class Seekable(Protocol):
    """What a stream is, too, that can go to a time of its twin."""

    def check_seek(self, twin_time_ns: int) -> None:
        """Raise InputError if the stream has no such time; of any thread."""
        ...

    def seek(self, twin_time_ns: int) -> None:
        """Let the next block begin at this time, or behind it; raises NsstreamError."""
        ...


@runtime_checkable
class Loopable(Protocol):
    """What a stream is, too, whose number of passes can be changed."""

    def check_loop(self) -> None:
        """Raise InputError if the stream has no passes; of any thread."""
        ...

    def set_loop(self, loop: int | None) -> None:
        """Play so many passes in all, None for no end; one that has more behind it ends with the pass it is in."""
        ...


class _Stamp(NamedTuple):
    """How many seeks and changes of the loop were asked for."""

    seek: int
    loop: int


class Drawing:
    """The stream of one run; `take` and `skip` are for one thread, the rest for any.

    Args:
        open_stream: makes the stream; called in the drawing thread, since it may take seconds.
        stop: set once the run is to end.
    """

    def __init__(self, open_stream: Callable[[], FrameStream], stop: threading.Event) -> None:
        self._open_stream, self._stop = open_stream, stop
        self._stream: FrameStream | None = None
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # of the stream, by the drawing thread
        self._stamp = _Stamp(0, 0)  # what is asked for now; what is drawn has that of its time
        self._stamping = threading.Lock()  # held while `_stamp` and `_asked` do not agree
        self._blocks: queue.Queue[tuple[_Stamp, Block | BaseException | None]] = queue.Queue(AHEAD_BLOCKS)
        self._skipped_by_drawing = 0  # each thread has a count of its own, so that none is lost
        self._skipped_by_taking = 0
        self.drawn_count = 0  # frames, or flow records
        self._thread = threading.Thread(target=self._draw, name="draw", daemon=True)

    def start(self) -> None:
        """Start to draw."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the stream is closed, which comes of a stop."""
        self._thread.join()

    @property
    def seek_count(self) -> int:
        """How many seeks were asked for; blocks of a lower one are not wanted any more."""
        return self._stamp.seek

    @property
    def skipped(self) -> int:
        """Frames, or flow records, that were drawn and then skipped by a seek."""
        return self._skipped_by_drawing + self._skipped_by_taking

    @property
    def stream_counters(self) -> Mapping[str, int]:
        """How the stream keeps up; nothing before it is open, or where it does not say."""
        counters = getattr(self._stream, "counters", None)
        return {} if counters is None else counters()

    def seek(self, twin_time_ns: int) -> None:
        """Go on at another time; raises CannotError."""
        stream = self._get_stream()
        if not isinstance(stream, Seekable):
            raise CannotError("this stream has no times to seek: it is drawn as it goes")
        try:
            stream.check_seek(twin_time_ns)
        except InputError as err:
            raise CannotError(str(err)) from err

        def seek() -> None:
            stream.seek(twin_time_ns)

        with self._stamping:
            self._stamp = self._stamp._replace(seek=self._stamp.seek + 1)
            self._asked.put(seek)

    def set_loop(self, loop: int | None) -> None:
        """Change the number of passes; raises CannotError."""
        stream = self._get_stream()
        if not isinstance(stream, Loopable):
            raise CannotError("this stream has no passes to count")
        try:
            stream.check_loop()
        except InputError as err:
            raise CannotError(str(err)) from err

        def set_loop() -> None:
            stream.set_loop(loop)

        with self._stamping:
            self._stamp = self._stamp._replace(loop=self._stamp.loop + 1)
            self._asked.put(set_loop)

    def take(self) -> tuple[int, Block] | None:
        """The next block, and how many seeks were asked for before it; None at the end.

        Raises StoppedError once the run is to end, and what the stream raised.
        """
        while not self._stop.is_set():
            try:
                stamp, item = self._blocks.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            if not self._is_wanted(stamp, item):
                self._skipped_by_taking += 0 if item is None else len(item.rows)
            elif item is None:
                return None
            else:
                return stamp.seek, item
        raise StoppedError

    def skip(self, count: int) -> None:
        """Count what was taken, and is skipped by a seek."""
        self._skipped_by_taking += count

    def _get_stream(self) -> FrameStream:
        if self._stream is None:
            raise CannotError("the stream is still being opened; try again in a moment")
        return self._stream

    def _draw(self) -> None:
        """Fill the queue; what goes wrong is handed on to the taking thread."""
        try:
            stream = self._stream = self._open_stream()
            has_ended = False
            while not self._stop.is_set():
                with self._stamping:
                    stamp = self._stamp
                    ask = None if self._asked.empty() else self._asked.get()
                if ask is not None:
                    ask()
                    has_ended = False
                elif has_ended:
                    self._stop.wait(TICK_S)
                else:
                    block = stream.read()
                    self.drawn_count += 0 if block is None else len(block.rows)
                    self._put(stamp, block)
                    has_ended = block is None
        except BaseException as err:
            self._put(self._stamp, err)
            self._stop.wait()  # a stream may stop the run as it is closed, which would then not have failed
        finally:
            self._stop.wait()  # closing says stop, and a failure must not pass for one
            close = getattr(self._stream, "close", None)
            if close is not None:
                close()

    def _put(self, stamp: _Stamp, item: Block | BaseException | None) -> None:
        while not self._stop.is_set() and self._is_wanted(stamp, item):
            try:
                self._blocks.put((stamp, item), timeout=TICK_S)
            except queue.Full:
                continue
            return
        if item is not None and not isinstance(item, BaseException):
            self._skipped_by_drawing += len(item.rows)

    def _is_wanted(self, stamp: _Stamp, item: Block | BaseException | None) -> bool:
        """Whether what was drawn when this was asked for is what is asked for now."""
        if item is None:
            return stamp == self._stamp
        return isinstance(item, BaseException) or stamp.seek == self._stamp.seek
