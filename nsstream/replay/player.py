"""Player: one run, from a stream of frames into a sink, in two threads of its own.

The thread of its `Drawing` makes the stream and reads blocks ahead; the playing thread opens the sink, takes blocks,
waits until frames are due, and writes them. Neither touches a socket; whoever started the player asks for its
`progress` and `outcome`, which are replaced as a whole and may be read from any thread.

Promises: the sink is closed if every frame was written and nobody said stop, and aborted otherwise; `on_end` is called
exactly once, when both threads are done with the stream and the sink. A stop takes effect at once for the sink, pauses,
rates and seeks at once, too; what they do to the stream is `Drawing`'s matter.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble.frames import Frames
from nsstream.clock import Clock
from nsstream.errors import NsstreamError, OutputError
from nsstream.replay.drawing import Drawing, StoppedError
from nsstream.replay.flow_rows import FlowRows
from nsstream.replay.pacer import Pacer
from nsstream.replay.rate import Rate
from nsstream.replay.session import Outcome
from nsstream.replay.sink import ChecksTime, PacesItself, Sink, TakesFlows, Ticks
from nsstream.replay.stream import Block, FrameStream

SINK_TICK_S: Final = 0.25  # how often a sink that ticks is told the time while no frame is due
AHEAD_NS: Final = 20_000_000  # how early frames go to a sink that paces itself
SKIPPED: Final = "replay_skipped_by_seek"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    model_id: str | None = None
    chunk: int = 0
    packets_written: int = 0  # of flow records, those that they count; octets, too
    octets_written: int = 0
    twin_start_ns: int = 0  # time of the first frame written
    twin_end_ns: int = 0  # time of the last
    elapsed_ns: int | None = None  # of the clock; None while the run goes on
    tally: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


class Player:
    """Plays a stream into a sink.

    Args:
        open_stream: makes the stream; called in the drawing thread, since it may take seconds.
        make_sink: given a function that says whether the run is stopped; called at once, may raise InputError and
            OutputError.
        rate: how fast to begin with.
        clock: paces, and times the run.
        on_end: called from the playing thread when `outcome` is set.
        stopped: set once the run is to end, so that a stream that waits can end its waiting; its own if None.
    """

    def __init__(
        self,
        open_stream: Callable[[], FrameStream],
        make_sink: Callable[[Callable[[], bool]], Sink],
        rate: Rate,
        clock: Clock,
        on_end: Callable[[], None],
        stopped: threading.Event | None = None,
    ) -> None:
        self._stop = stopped or threading.Event()
        self._changed = threading.Event()  # wakes the pacer's wait
        self._drawing = Drawing(open_stream, self._stop)
        self._sink = make_sink(self._stop.is_set)
        self._ticks = self._sink if isinstance(self._sink, Ticks) else None
        self._counting = threading.Lock()  # held while the next two change
        self._counted: Mapping[str, int] = {}
        self._is_sink_at_work = False
        wait = weakref.WeakMethod(self._wait)  # a player is in no cycle, and is gone when it is let go of
        self._pacer = Pacer(rate, clock, lambda seconds: (method := wait()) is None or method(seconds))
        self._clock = clock
        self._on_end = on_end
        self._started_ns = 0
        self._written_seek = 0  # the seek whose frames are being written
        self._busy_ns = 0  # when the sink was given something
        self._written_count = 0
        self._playing = threading.Thread(target=self._play, name="play", daemon=True)
        self.progress = Progress()
        self.outcome: Outcome | None = None

    def check_time(self, time_ns: int) -> None:
        """Raise OutputError if the sink cannot write a frame of this time of the twin."""
        if isinstance(self._sink, ChecksTime):
            self._sink.check_time(time_ns)

    def start(self) -> None:
        """Start both threads."""
        self._started_ns = self._clock.monotonic_ns()
        self._drawing.start()
        self._playing.start()

    def stop(self) -> None:
        """Ask the run to end; returns at once, may be repeated."""
        self._stop.set()
        self._changed.set()

    def pause(self) -> None:
        """Let nothing be due until `resume`."""
        self._pacer.pause()
        self._changed.set()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._pacer.resume()
        self._changed.set()

    def set_rate(self, rate: Rate) -> None:
        """Go on at another rate."""
        self._pacer.set_rate(rate)
        self._changed.set()

    def seek(self, twin_time_ns: int) -> None:
        """Go on at another time; raises CannotError."""
        self._drawing.seek(twin_time_ns)
        self._changed.set()

    def set_loop(self, loop: int | None) -> None:
        """Change the number of passes; raises CannotError."""
        self._drawing.set_loop(loop)

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
    def rate(self) -> Rate:
        """How fast it goes now."""
        return self._pacer.rate

    @property
    def takes_flows(self) -> bool:
        """Whether the sink takes records of flows as well."""
        return isinstance(self._sink, TakesFlows)

    @property
    def late_s(self) -> float:
        """How long the next frame has been due."""
        return self._pacer.late_s if self.outcome is None else 0.0

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of the frames in the sink; while it is at work, as it was before."""
        with self._counting:
            return self._counted if self._is_sink_at_work else dict(self._sink.counters)

    @property
    def stream_counters(self) -> Mapping[str, int]:
        """How the stream keeps up; nothing before it is open, or where it does not say."""
        return self._drawing.stream_counters

    @property
    def skipped(self) -> int:
        """Frames, or flow records, that were drawn and then skipped by a seek."""
        return self._drawing.skipped

    @property
    def packets_drawn_ahead(self) -> int:
        """Frames, or flow records, that are made but not written."""
        read = max(self._drawing.drawn_count - self._written_count - self.skipped, 0)
        return read + self.stream_counters.get("drawn_ahead_packets", 0)

    def _wait(self, seconds: float) -> bool:
        """Wait for so long, or until something has changed; whether the frames in hand are not to be written."""
        self._changed.wait(seconds if self._ticks is None else min(seconds, SINK_TICK_S))
        self._changed.clear()
        is_over = self._stop.is_set() or self._drawing.seek_count != self._written_seek
        if self._ticks is not None and not is_over:
            self._tick(self._ticks)
        return is_over

    def _tick(self, sink: Ticks) -> None:
        """Tell the sink the twin's time, unless it had something to do of late."""
        now_ns, twin_now_ns = self._clock.monotonic_ns(), self._pacer.twin_now_ns
        if twin_now_ns is None or now_ns - self._busy_ns < SINK_TICK_S * 1e9:
            return
        with self._at_work():
            sink.tick(twin_now_ns)
        self._busy_ns = now_ns

    def _play(self) -> None:
        outcome: Outcome
        error = None
        try:
            self._write_all()
            outcome = "done"
        except StoppedError:
            outcome = "stopped"
        except NsstreamError as err:
            outcome, error = "failed", str(err)
        except BaseException as err:  # the thread's boundary: whatever it is, the server lives on and says so
            _log.exception("run failed")
            outcome, error = "failed", f"an error inside nsstream ended the run: {type(err).__name__}: {err}"
        if outcome != "done":
            with self._at_work():
                self._sink.abort()
            if self._stop.is_set():
                outcome, error = "stopped", None
        self.stop()
        self._drawing.join()
        self.progress = replace(self.progress, elapsed_ns=self._clock.monotonic_ns() - self._started_ns, error=error)
        self.outcome = outcome
        self._on_end()

    def _write_all(self) -> None:
        with self._at_work():
            self._sink.open()
        while (taken := self._drawing.take()) is not None:
            seek, block = taken
            tally = {**block.tally, SKIPPED: self.skipped} if self.skipped else block.tally
            self.progress = replace(self.progress, model_id=block.model_id, chunk=block.chunk, tally=tally)
            self._write_block(block, seek)
        if self._stop.is_set():
            raise StoppedError
        with self._at_work():
            self._sink.close()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Around a call of the sink, in which its counters are not read: another thread would see half of a change."""
        with self._counting:
            self._counted, self._is_sink_at_work = dict(self._sink.counters), True
        try:
            yield
        finally:
            with self._counting:
                self._is_sink_at_work = False

    def _write_block(self, block: Block, seek: int) -> None:
        rows, sink = block.rows, self._sink
        ahead_ns = AHEAD_NS if isinstance(sink, PacesItself) else 0
        if seek != self._written_seek:
            self._pacer.restart()
            self._written_seek = seek
        at = 0
        while at < len(rows):
            due_ns = self._pacer.due(rows.observation_time_ns[at:], rows.offset[at:], ahead_ns)
            if self._stop.is_set():
                raise StoppedError
            if seek != self._drawing.seek_count:
                self._drawing.skip(len(rows) - at)
                return
            burst = rows.slice(at, at + len(due_ns))
            with self._at_work():
                _hand_over(sink, burst, due_ns)
            at += len(burst)
            self._busy_ns = self._clock.monotonic_ns()
            self._written_count += len(burst)
            packets = burst.packet_count if isinstance(burst, FlowRows) else len(burst)
            done = self.progress
            self.progress = replace(
                done,
                packets_written=done.packets_written + packets,
                octets_written=done.octets_written + int(burst.offset[-1]),
                twin_start_ns=int(burst.observation_time_ns[0]) if done.packets_written == 0 else done.twin_start_ns,
                twin_end_ns=int(burst.observation_time_ns[-1]),
            )


def _hand_over(sink: Sink, burst: Frames | FlowRows, due_ns: NDArray[np.int64]) -> None:
    """Write what is due, as the sink takes it; raises OutputError."""
    if isinstance(burst, FlowRows):
        if not isinstance(sink, TakesFlows):
            raise OutputError("this sink takes frames, and a model of flows draws none")
        sink.write_flows(burst.table)
    elif isinstance(sink, PacesItself):
        sink.write_due(burst, due_ns)
    else:
        sink.write(burst)
