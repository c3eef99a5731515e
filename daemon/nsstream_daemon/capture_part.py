"""CapturePart: the source, into chunks, in a thread of its own; opened again where that is what its end asks for.

States: ``starting``, ``running`` (the source is open), ``waiting`` (for the next try), ``ended`` (the source has, and
nothing more comes), ``failed`` (it cannot be used, and nobody tries again), ``stopped``. What became of records is
added up over all tries.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nsstream.chunk.retention import Retention
from nsstream.clock import Clock
from nsstream.counters import Tally
from nsstream.errors import NsstreamError
from nsstream.pipeline.ingest_loop import IngestLoop, IngestStatus
from nsstream.pipeline.ingest_plan import IngestPlan
from nsstream.pipeline.intake import Intake

_log = logging.getLogger(__name__)

LEAST_BACKOFF_S: Final = 1.0
MOST_BACKOFF_S: Final = 5.0
WELL_S: Final = 60.0  # a source that ran for so long was well
BEAT_S: Final = 0.25
SILENT_S: Final = 5.0  # of a live source, which by its contract gives a batch, if of no rows, many times a second


class CapturePart:
    """Captures into a state directory.

    Args:
        plan: of the source and its chunks.
        state: the directory.
        clock: for the chunks.
        on_chunk: called when a chunk was stored.
        beat: called a few times a second, as long as the capture loop goes on, and a live source gives batches.
        on_death: told where the thread ends by a defect.
    """

    def __init__(
        self,
        plan: IngestPlan,
        state: Path,
        clock: Clock,
        *,
        on_chunk: Callable[[], None],
        beat: Callable[[], None],
        on_death: Callable[[str, BaseException], None],
    ) -> None:
        self._plan, self._state, self._clock = plan, state, clock
        self._on_chunk, self._beat, self._on_death = on_chunk, beat, on_death
        self._retention = plan.retention
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._guarded, name="capture", daemon=True)
        self._loop: IngestLoop | None = None
        self._intake: Intake | None = None
        self._status: IngestStatus | None = None
        self._past, self._past_chunks, self._past_expired = Tally(), 0, 0
        self._phase, self._error, self._restarts = "starting", "", 0
        self._beat_ns = clock.monotonic_ns()
        self._rate, self._rated = 0.0, (0, 0)  # rows a second; when, and how many were offered

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the source, let what was read become chunks, and wait for that."""
        self._stop.set()
        with self._lock:
            if self._loop is not None:
                self._loop.stop()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def phase(self) -> str:
        """Where it stands."""
        return self._phase

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._phase in ("ended", "failed", "stopped")

    @property
    def silent_s(self) -> float:
        """Seconds since the loop last went on; 0 where it is over."""
        return 0.0 if self.is_over else (self._clock.monotonic_ns() - self._beat_ns) * 1e-9

    @property
    def unprotected_rows(self) -> int:
        """Rows that the disk refuses at this moment."""
        with self._lock:
            return 0 if self._status is None else self._status.unprotected_rows

    def flush(self, timeout_s: float) -> bool:
        """Close what is open as partial chunks; whether it was done."""
        with self._lock:
            loop = self._loop
        return loop is not None and loop.flush(timeout_s)

    def retain(self, retention: Retention) -> None:
        """Let chunks expire by other bounds from now on."""
        self._retention = retention
        with self._lock:
            if self._intake is not None:
                self._intake.retain(retention)

    def status(self) -> dict[str, Any]:
        """Where the capture stands, as plain values."""
        with self._lock:
            now, tally = self._status, Tally()
            tally.add(self._past)
            chunks, expired = self._past_chunks, self._past_expired
            if now is not None:
                tally.add(now.tally)
                chunks, expired = chunks + now.chunk_count, expired + now.expired_count
            return {
                "source": self._plan.source.input,
                "state": self._phase,
                "error": self._error or None,
                "restarts": self._restarts,
                "rows_per_s": self._rate,
                "latest_ns": None if now is None or now.latest_ns < 0 else now.latest_ns,
                "open_rows": 0 if now is None else now.open_rows,
                "waiting_rows": 0 if now is None else now.waiting_rows,
                "unprotected_rows": 0 if now is None else now.unprotected_rows,
                "recovered_rows": 0 if now is None else now.recovered_rows,
                "chunks": chunks,
                "expired": expired,
                "tally": tally.as_dict(),
            }

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as err:  # the boundary of the thread
            _log.exception("thread_died name=capture")
            self._phase, self._error = "failed", f"{type(err).__name__}: {err}"
            self._on_death("capture", err)

    def _run(self) -> None:
        wait_s = LEAST_BACKOFF_S
        while not self._stop.is_set():
            began_ns = self._clock.monotonic_ns()
            is_ended = self._try()
            if self._stop.is_set():
                break
            at_end = self._plan.source.at_end or ("restart" if self._plan.is_live else "stay")
            if at_end != "restart":
                self._phase = "ended" if is_ended else "failed"
                return
            ran_s = (self._clock.monotonic_ns() - began_ns) * 1e-9
            wait_s = LEAST_BACKOFF_S if ran_s > WELL_S else wait_s
            _log.warning("source_restarts in_s=%.0f error=%s", wait_s, self._error or "none, it ended")
            self._wait(wait_s)
            wait_s = min(2 * wait_s, MOST_BACKOFF_S)
            self._restarts += 1
        self._phase = "stopped"

    def _try(self) -> bool:
        """Run the source until it ends or fails; whether it ended well."""
        try:
            source = self._plan.new_source(self._clock)
            intake = self._plan.new_intake(
                self._state, source, self._clock, lambda chunk: self._on_chunk(), waits_for_disk=True
            )
        except NsstreamError as err:
            self._error = str(err)
            return False
        try:
            loop = self._plan.new_loop(source, intake, self._clock, self._listen)
            with self._lock:
                self._loop, self._intake = loop, intake
                intake.retain(self._retention)
                if self._stop.is_set():
                    loop.stop()
            loop.run()
        except NsstreamError as err:
            self._error = str(err)
            return False
        else:
            self._error = ""
            return True
        finally:
            with self._lock:
                self._past.add(intake.tally)
                self._past_chunks += intake.chunk_count
                self._past_expired += intake.expired_count
                self._loop = self._intake = self._status = None
            intake.close()

    def _listen(self, status: IngestStatus) -> None:
        with self._lock:
            self._status = status
            if status.is_open:
                self._phase = "running"
            now_ns = self._clock.monotonic_ns()
            then_ns, offered = self._rated
            if now_ns - then_ns >= 2 * 10**9:
                self._rate = max(0, status.tally.offered - offered) * 1e9 / (now_ns - then_ns) if then_ns else 0.0
                self._rated = now_ns, status.tally.offered
        if not (self._plan.is_live and status.source_silent_s > SILENT_S):
            self._go_on()

    def _go_on(self) -> None:
        self._beat_ns = self._clock.monotonic_ns()
        self._beat()

    def _wait(self, seconds: float) -> None:
        self._phase = "waiting"
        until_ns = self._clock.monotonic_ns() + round(seconds * 1e9)
        while self._clock.monotonic_ns() < until_ns and not self._stop.wait(BEAT_S):
            self._go_on()
