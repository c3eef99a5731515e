"""DrawnAhead: a stream that is read ahead, in a thread of its own, into a buffer that is bounded.

`Effort` says how much care is taken: where the buffer runs empty, less, and where it is full, more.

Promises: blocks come in their order, none lost, none twice; the buffer holds at most one block more than its bounds in
packets, octets and time of the twin; what `read` has to wait for, after its first block, is counted as an underrun. A
seek throws away what was read ahead. An error comes where the stream raised it, behind the blocks before it.

Theory: the reading thread alone touches the stream, but for its checks, which change nothing. Others leave a wish (to
seek, for passes, to end) under the lock, and the thread looks for wishes between blocks. A block that was being made
when a seek was wished for is thrown away.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from nsstream.clock import Clock
from nsstream.replay.stream import Block

WAIT_S: Final = 0.02  # how soon a stop is seen that somebody else says


class PlainStream(Protocol):
    """A stream of one thread; `check_*` may be called from any."""

    def read(self) -> Block | None:
        """The next block, None at the end; after `seek` or `set_loop` there may be more."""
        ...

    def check_seek(self, twin_time_ns: int) -> None:
        """Raise InputError if the stream has no such time."""
        ...

    def seek(self, twin_time_ns: int) -> None:
        """Go on at this time."""
        ...

    def check_loop(self) -> None:
        """Raise InputError if the stream has no passes."""
        ...

    def set_loop(self, passes: int | None) -> None:
        """End after so many passes in all."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True, slots=True)
class AheadLimits:
    """How much is read ahead: until one of these is reached."""

    packets: int = 1 << 20
    octets: int = 1 << 28
    twin_ns: int = 120 * 10**9


class Effort(Protocol):
    """How much work goes into a block; called under the buffer's lock."""

    def less(self) -> None:
        """Whoever reads has to wait."""
        ...

    def more(self) -> None:
        """There is time to spare."""
        ...


class DrawnAhead:
    """Reads a stream ahead from now on, until it is closed.

    Args:
        stream: belongs to this object's thread from now on.
        limits: of the buffer.
        clock: times the waiting.
        stopped: set by `close`; where somebody else sets it, a `read` that waits ends within WAIT_S.
        effort: told when a `read` has to wait, after its first block, and when the buffer is full; None: nobody is.
    """

    def __init__(
        self,
        stream: PlainStream,
        limits: AheadLimits,
        clock: Clock,
        stopped: threading.Event,
        effort: Effort | None = None,
    ) -> None:
        self._stream = stream
        self._limits = limits
        self._clock = clock
        self._stopped = stopped
        self._effort = effort
        self._changed = threading.Condition()
        self._blocks: deque[Block] = deque()
        self._packet_count = 0
        self._octet_count = 0
        self._error: BaseException | None = None
        self._has_ended = False
        self._has_given = False
        self._wish_seek: int | None = None
        self._wish_loop: tuple[int | None] | None = None
        self._seek_count = 0
        self._underrun_count = 0
        self._underrun_ns = 0
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def read(self) -> Block | None:
        """The next block, None at the end or once closed; waits where the stream is slow."""
        with self._changed:
            if not self._is_answerable():
                since_ns = self._clock.monotonic_ns()
                if self._has_given:
                    self._underrun_count += 1
                    if self._effort is not None:
                        self._effort.less()
                while not self._is_answerable():
                    self._changed.wait(WAIT_S)
                if self._has_given:
                    self._underrun_ns += self._clock.monotonic_ns() - since_ns
            if self._stopped.is_set():
                return None
            if not self._blocks:
                if self._error is not None:
                    raise self._error
                return None
            block = self._blocks.popleft()
            self._packet_count -= len(block.rows)
            self._octet_count -= int(block.rows.offset[-1])
            self._has_given = True
            self._changed.notify_all()
            return block

    def check_seek(self, twin_time_ns: int) -> None:
        """Raise InputError if the stream has no such time."""
        self._stream.check_seek(twin_time_ns)

    def check_loop(self) -> None:
        """Raise InputError if the stream has no passes."""
        self._stream.check_loop()

    def seek(self, twin_time_ns: int) -> None:
        """Go on at this time; returns at once. Raises InputError if the stream has no such time."""
        self._stream.check_seek(twin_time_ns)
        with self._changed:
            self._wish_seek = twin_time_ns
            self._seek_count += 1
            self._blocks.clear()
            self._packet_count = self._octet_count = 0
            self._has_ended = self._has_given = False
            self._changed.notify_all()

    def set_loop(self, passes: int | None) -> None:
        """End after so many passes in all; raises InputError if the stream has none."""
        self._stream.check_loop()
        with self._changed:
            self._wish_loop = (passes,)
            self._has_ended = False
            self._changed.notify_all()

    def counters(self) -> Mapping[str, int]:
        """What is read ahead (packets, octets, nanoseconds of the twin), and how often and long it was too little."""
        with self._changed:
            return {
                "drawn_ahead_packets": self._packet_count,
                "drawn_ahead_octets": self._octet_count,
                "drawn_ahead_ns": self._twin_ns(),
                "underruns": self._underrun_count,
                "underrun_ns": self._underrun_ns,
            }

    def close(self) -> None:
        """End the reading, and wait until the block in hand is made, since it cannot be cut short; may be repeated."""
        self._stopped.set()
        with self._changed:
            self._blocks.clear()
            self._packet_count = self._octet_count = 0
            self._changed.notify_all()
        self._thread.join()
        self._error = None  # whose traceback leads back here: a stream that failed is in no cycle, either

    def _is_answerable(self) -> bool:
        is_settled = self._wish_seek is None and self._wish_loop is None
        has_answer = bool(self._blocks) or (is_settled and (self._has_ended or self._error is not None))
        return has_answer or self._stopped.is_set()

    def _run(self) -> None:
        try:
            while self._make_room():
                self._obey()
                block = self._stream.read()
                with self._changed:
                    self._take(block)
                    self._changed.notify_all()
        except BaseException as err:
            with self._changed:
                self._error = err
                self._wish_seek = self._wish_loop = None
                self._changed.notify_all()
        finally:
            self._stream.close()

    def _make_room(self) -> bool:
        """Wait until there is something to do; False: it is to end."""
        with self._changed:
            if self._effort is not None and self._is_full():
                self._effort.more()
            while not self._stopped.is_set():
                is_wished = self._wish_seek is not None or self._wish_loop is not None
                if is_wished or not (self._has_ended or self._is_full()):
                    return True
                self._changed.wait(WAIT_S)
            return False

    def _obey(self) -> None:
        with self._changed:
            seek, passes = self._wish_seek, self._wish_loop
        if passes is not None:
            self._stream.set_loop(passes[0])
        if seek is not None:
            self._stream.seek(seek)
        with self._changed:
            if self._wish_loop is passes:
                self._wish_loop = None
            if self._wish_seek is seek:
                self._wish_seek = None

    def _take(self, block: Block | None) -> None:
        if self._wish_seek is not None:
            return
        if block is None:
            self._has_ended = self._wish_loop is None
            return
        if not len(block.rows):
            return
        self._blocks.append(replace(block, seek_count=self._seek_count))
        self._packet_count += len(block.rows)
        self._octet_count += int(block.rows.offset[-1])

    def _is_full(self) -> bool:
        limits = self._limits
        return bool(self._blocks) and (
            self._packet_count >= limits.packets
            or self._octet_count >= limits.octets
            or self._twin_ns() >= limits.twin_ns
        )

    def _twin_ns(self) -> int:
        if not self._blocks:
            return 0
        first, last = self._blocks[0].rows.observation_time_ns, self._blocks[-1].rows.observation_time_ns
        return max(int(last[-1]) - int(first[0]), 0)
