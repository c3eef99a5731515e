"""Player: one run, from a stream of frames into a sink, in two threads of its own.

The drawing thread makes the stream and reads blocks ahead into a bounded queue; the playing thread opens the sink,
takes blocks, waits until frames are due, and writes them. Neither touches a socket; whoever started the player asks
for its `progress` and `outcome`, which are replaced as a whole and may be read from any thread.

Promises: the sink is closed if every frame was written and nobody said stop, and aborted otherwise; `on_end` is called
exactly once, when both threads are done with the stream and the sink. A stop takes effect at once for the sink, and for
the drawing once the chunk in hand is drawn, since a draw cannot be cut short.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final

from nsstream.clock import Clock
from nsstream.errors import NsstreamError
from nsstream.replay.pacer import PacedByClock, Pacer, Unpaced
from nsstream.replay.session import Outcome
from nsstream.replay.sink import Sink
from nsstream.replay.stream import FrameBlock, FrameStream

DRAWN_AHEAD_CHUNKS: Final = 2
TICK_S: Final = 0.02  # how soon a thread that waits for the other sees a stop

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    model_id: str | None = None
    chunk: int = 0
    packets_written: int = 0
    octets_written: int = 0
    twin_start_ns: int = 0  # time of the first frame written
    twin_end_ns: int = 0  # time of the last
    elapsed_ns: int | None = None  # of the clock; None while the run goes on
    tally: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


class _StoppedError(Exception):
    """The run was told to stop."""


class Player:
    """Plays a stream into a sink.

    Args:
        open_stream: makes the stream; called in the drawing thread, since it may take seconds.
        make_sink: given a function that says whether the run is stopped; called at once, may raise OutputError.
        rate: twin seconds a second, > 0, or None for as fast as the sink takes it.
        clock: paces, and times the run.
        on_end: called from the playing thread when `outcome` is set.
    """

    def __init__(
        self,
        open_stream: Callable[[], FrameStream],
        make_sink: Callable[[Callable[[], bool]], Sink],
        rate: float | None,
        clock: Clock,
        on_end: Callable[[], None],
    ) -> None:
        self._stop = threading.Event()
        self._open_stream = open_stream
        self._sink = make_sink(self._stop.is_set)
        self._pacer: Pacer = Unpaced() if rate is None else PacedByClock(rate, clock, self._stop.wait)
        self._clock = clock
        self._on_end = on_end
        self._started_ns = 0
        self._blocks: queue.Queue[FrameBlock | BaseException | None] = queue.Queue(DRAWN_AHEAD_CHUNKS)
        self._drawn_packet_count = 0
        self._drawing = threading.Thread(target=self._draw, name="draw", daemon=True)
        self._playing = threading.Thread(target=self._play, name="play", daemon=True)
        self.progress = Progress()
        self.outcome: Outcome | None = None

    def start(self) -> None:
        """Start both threads."""
        self._started_ns = self._clock.monotonic_ns()
        self._drawing.start()
        self._playing.start()

    def stop(self) -> None:
        """Ask the run to end; returns at once, may be repeated."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came in time."""
        self._playing.join(timeout_s)
        return not self._playing.is_alive()

    @property
    def elapsed_ns(self) -> int:
        """How long the run has been going on, or took."""
        done_ns = self.progress.elapsed_ns
        return self._clock.monotonic_ns() - self._started_ns if done_ns is None else done_ns

    @property
    def packets_drawn_ahead(self) -> int:
        """Frames that are made but not written."""
        return max(self._drawn_packet_count - self.progress.packets_written, 0)

    def _draw(self) -> None:
        """Fill the queue; what goes wrong is handed on to the playing thread."""
        try:
            with closing(self._open_stream()) as stream:
                while not self._stop.is_set():
                    block = stream.read()
                    if block is not None:
                        self._drawn_packet_count += len(block.frames)
                    if not self._put(block) or block is None:
                        return
        except BaseException as err:
            self._put(err)

    def _put(self, item: FrameBlock | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._blocks.put(item, timeout=TICK_S)
            except queue.Full:
                continue
            return True
        return False

    def _play(self) -> None:
        outcome: Outcome
        error = None
        try:
            self._write_all()
            outcome = "done"
        except _StoppedError:
            outcome = "stopped"
        except NsstreamError as err:
            outcome, error = "failed", str(err)
        except BaseException as err:  # the thread's boundary: whatever it is, the server lives on and says so
            _log.exception("run failed")
            outcome, error = "failed", f"an error inside nsstream ended the run: {type(err).__name__}: {err}"
        if outcome != "done":
            self._sink.abort()
            if self._stop.is_set():
                outcome, error = "stopped", None
        self._stop.set()
        self._drawing.join()
        self.progress = replace(self.progress, elapsed_ns=self._clock.monotonic_ns() - self._started_ns, error=error)
        self.outcome = outcome
        self._on_end()

    def _write_all(self) -> None:
        self._sink.open()
        while (block := self._take()) is not None:
            self.progress = replace(self.progress, model_id=block.model_id, chunk=block.chunk, tally=block.tally)
            self._write_block(block)
        if self._stop.is_set():
            raise _StoppedError
        self._sink.close()

    def _take(self) -> FrameBlock | None:
        while not self._stop.is_set():
            try:
                item = self._blocks.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item
        raise _StoppedError

    def _write_block(self, block: FrameBlock) -> None:
        times = block.frames.observation_time_ns
        at = 0
        while at < len(times):
            count = self._pacer.due(times[at:])
            if count == 0 or self._stop.is_set():
                raise _StoppedError
            burst = block.frames.slice(at, at + count)
            self._sink.write(burst)
            at += count
            done = self.progress
            self.progress = replace(
                done,
                packets_written=done.packets_written + count,
                octets_written=done.octets_written + len(burst.octets),
                twin_start_ns=int(burst.observation_time_ns[0]) if done.packets_written == 0 else done.twin_start_ns,
                twin_end_ns=int(burst.observation_time_ns[-1]),
            )
