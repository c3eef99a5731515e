"""IngestLoop: a source at one end, chunks on the disk at the other, for as long as the source has something.

One thread reads the source into a bounded `Channel`, the caller's thread empties it into an `Intake`: so a slow disk
never stops a live source from being read; what the channel has no room for is dropped and counted. Stop order: source,
channel, chunker (what is open is closed, marked partial), journal. A source that gives nothing again hands over what it
holds back before it is closed; what it tells the one that goes on after it (`HandsOver`) is kept by the intake, and
given to a source of the same name before it is opened.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from nsstream.capture.source import HandsOver, Source, can_resume, rows_held_by
from nsstream.chunk import Rows
from nsstream.clock import Clock
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.pipeline.channel import Channel, Delivery, WhenFull
from nsstream.pipeline.intake import Intake

_log = logging.getLogger(__name__)

POLL_S: Final = 0.1
STOP_GRACE_S: Final = 5.0  # what a source may need to come back from `read_batch`
REPORT_EVERY_NS: Final = 250_000_000
NOT_HANDED_OVER: Final = "not_handed_over"
AnySource = Source[Any]


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """Where an ingest stands."""

    elapsed_s: float
    tally: Tally
    latest_ns: int  # of the rows admitted, -1 before any
    open_rows: int
    waiting_rows: int  # in the channel
    chunk_count: int
    expired_count: int
    recovered_rows: int
    unprotected_rows: int  # not in the journal, since the disk refuses
    is_done: bool = False
    source_silent_s: float = 0.0  # since it last gave a batch, of no rows or of some; 0 before it gave any rows
    is_open: bool = True  # the source: what happens from now on is seen


class IngestLoop:
    """Runs a source into an intake.

    Args:
        source: not open yet; it is opened and closed here.
        intake: opened; stays the caller's to close.
        when_full: whether the source waits for the disk, or rows are dropped.
        capacity_rows: of the channel.
        clock: for reports.
        skips_known: the source gives from its start again what it gave to a process before, as a file does: pass over
            what that process has taken.
        listen: told how it goes, a few times a second.
    """

    def __init__(
        self,
        source: AnySource,
        intake: Intake,
        *,
        when_full: WhenFull,
        capacity_rows: int,
        clock: Clock,
        skips_known: bool = False,
        listen: Callable[[IngestStatus], None] | None = None,
    ) -> None:
        self._source = source
        self._heir: HandsOver | None = source if isinstance(source, HandsOver) else None
        self._intake = intake
        self._channel = Channel(capacity_rows, when_full)
        self._clock = clock
        self._known = intake.source_total if skips_known else {}
        self._skips_known = skips_known
        self._accounted = _tally_of(self._known)  # of the source's tally, what the intake was told
        self._listen = listen or (lambda status: None)
        self._stop = threading.Event()
        self._flush, self._flushed = threading.Event(), threading.Event()
        self._began_ns = self._reported_ns = clock.monotonic_ns()
        self._is_open = False
        self._given_ns: int | None = None  # when the source last gave a batch; its first rows wait for numba to compile

    def stop(self) -> None:
        """Ask for a clean end: what was read becomes chunks. From any thread, or a signal handler."""
        self._stop.set()

    def flush(self, timeout_s: float) -> bool:
        """Close what is open, as partial chunks, and go on; from another thread. Whether it was done in time."""
        self._flushed.clear()
        self._flush.set()
        return self._flushed.wait(timeout_s)

    def run(self) -> Tally:
        """Ingest until the source ends or `stop` is called; give the account of all records.

        Raises what the source raises, once what was read before is on the disk.
        """
        if not self._skips_known:
            self._intake.forget_waiting()
        reader = threading.Thread(target=self._read, name="ingest-source", daemon=True)
        reader.start()
        error: BaseException | None = None
        try:
            error = self._empty_channel()
        finally:
            self._stop.set()
            self._channel.abandon()
            reader.join(STOP_GRACE_S)
            self._source.close()
            self._account_for_the_rest()
            self._intake.flush()
        self._report(is_done=True)
        self._intake.tally.check()
        if error is not None:
            raise error
        return self._intake.tally

    def _empty_channel(self) -> BaseException | None:
        stopped_ns: int | None = None
        while True:
            if self._intake.is_full and not self._stop.is_set():
                self._stop.wait(POLL_S)  # the disk refuses, and the source can wait
                delivery = None
            else:
                delivery = self._channel.get(POLL_S)
            if delivery is not None:
                self._intake.take(
                    delivery.rows,
                    delivery.told,
                    parked=delivery.parked,
                    total=delivery.total,
                    handover=delivery.handover,
                )
                self._accounted = delivery.total
                if delivery.is_end:
                    return delivery.error
            self._intake.tick()
            if self._flush.is_set():
                self._flush.clear()
                self._intake.flush()
                self._flushed.set()
            self._report()
            if self._stop.is_set() and delivery is None:
                now_ns = self._clock.monotonic_ns()
                stopped_ns = now_ns if stopped_ns is None else stopped_ns
                if now_ns - stopped_ns > STOP_GRACE_S * 1e9:  # the source does not come back: a FIFO nobody writes to
                    return None

    def _account_for_the_rest(self) -> None:
        """Count what was lost by closing the source, and what it gave that nobody took."""
        total = copy_of(self._source.tally)
        if total != self._accounted and total.kept >= self._accounted.kept:
            self._intake.take(None, _rest(total, self._accounted), parked=total.parked, total=total)

    def _report(self, *, is_done: bool = False) -> None:
        now_ns = self._clock.monotonic_ns()
        if not is_done and now_ns - self._reported_ns < REPORT_EVERY_NS:
            return
        self._reported_ns = now_ns
        intake = self._intake
        self._listen(
            IngestStatus(
                elapsed_s=(now_ns - self._began_ns) * 1e-9,
                tally=intake.tally,
                latest_ns=intake.latest_ns,
                open_rows=intake.open_rows,
                waiting_rows=self._channel.row_count,
                chunk_count=intake.chunk_count,
                expired_count=intake.expired_count,
                recovered_rows=intake.recovered.row_count,
                unprotected_rows=intake.unprotected_rows,
                is_done=is_done,
                source_silent_s=0.0 if self._given_ns is None else (now_ns - self._given_ns) * 1e-9,
                is_open=self._is_open,
            )
        )

    def _batches(self) -> Iterator[Rows]:
        """What the source gives until it ends, or until a stop is asked for; then what it holds back."""
        self._source.open()
        self._is_open = True
        while not self._stop.is_set():
            rows: Rows | None = self._source.read_batch()
            if rows is None:
                return
            if len(rows) or self._given_ns is not None:
                self._given_ns = self._clock.monotonic_ns()
            yield rows
        if not self._skips_known and (held := rows_held_by(self._source)) is not None:
            yield held

    def _read(self) -> None:
        """Read the source to its end, in a thread of its own."""
        seen = _tally_of(self._known)
        to_skip = 0 if self._known and can_resume(self._source, seen) else seen.kept
        handed: dict[str, Any] | None = None
        error: BaseException | None = None
        try:
            self._take_over()
            for rows in self._batches():
                if to_skip:
                    passed = min(to_skip, len(rows))
                    to_skip -= passed
                    if passed == len(rows):
                        continue
                    rows = rows.take(slice(passed, len(rows)))
                total = copy_of(self._source.tally)
                handover = self._handover()
                if total != seen or handover is not handed:  # of rows, or of what is lost or waits
                    told, seen = difference(total, seen), total
                    news = None if handover is handed else handover
                    if self._channel.put(Delivery(rows, told, parked=total.parked, total=total, handover=news)):
                        handed = handover
        except BaseException as err:  # the boundary of the thread: it is raised again by `run`
            error = err
        try:
            self._source.close()  # what it leaves behind is counted before the last word, and its successor's
        except BaseException as err:
            error = error or err
        total = seen if to_skip else copy_of(self._source.tally)  # stopped before it came to where the last one stood
        told = Tally() if total == seen else _rest(total, seen)
        self._channel.finish(
            Delivery(None, told, parked=total.parked, total=total, error=error, handover=self._handover())
        )

    def _take_over(self) -> None:
        handover = self._intake.handover
        if handover is None or self._heir is None:
            return
        try:
            self._heir.take_over(handover)
        except InputError as err:
            _log.warning("handover_ignored source=%s error=%s", type(self._source).__name__, err)

    def _handover(self) -> dict[str, Any] | None:
        return None if self._heir is None else self._heir.handover()


def copy_of(tally: Tally) -> Tally:
    """A tally of its own."""
    return Tally.from_dict(tally.as_dict())


def _tally_of(values: Mapping[str, Any]) -> Tally:
    return Tally.from_dict(dict(values)) if values else Tally()


def _rest(total: Tally, seen: Tally) -> Tally:
    """What was counted since, where no row came of it: the source raised in place of giving it, or nobody took it."""
    told = difference(total, seen)
    if told.kept:
        told.malformed[NOT_HANDED_OVER] += told.kept
        told.kept = 0
    return told


def difference(now: Tally, before: Tally) -> Tally:
    """What was counted since; what is parked is in neither, since it is offered for good once it is decided."""

    def less(a: Counter[str], b: Counter[str]) -> Counter[str]:
        return Counter({key: count for key in a if (count := a[key] - b[key]) > 0})

    told = replace(
        Tally(),
        kept=max(0, now.kept - before.kept),
        late=max(0, now.late - before.late),
        future=max(0, now.future - before.future),
        sampled_out=max(0, now.sampled_out - before.sampled_out),
        malformed=less(now.malformed, before.malformed),
        unsupported=less(now.unsupported, before.unsupported),
        dropped=less(now.dropped, before.dropped),
        behind=None if now.behind is None else difference(now.behind, before.behind or Tally()),
    )
    parts = sum(map(sum, (c.values() for c in (told.malformed, told.unsupported, told.dropped))))
    told.offered = told.kept + told.late + told.future + told.sampled_out + parts
    return told
