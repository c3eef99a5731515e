"""ingest: a source into the rolling chunks of a state directory, until it ends or is asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from nsstream.pipeline.ingest_loop import IngestStatus

PLAIN_INTERVAL_S: Final = 10.0


def ingest(
    source: Annotated[
        str, typer.Argument(help="A capture file or FIFO, - for standard input, or NAME:TARGET of a source.")
    ],
    state: Annotated[Path, typer.Option(help="State directory; a second run on it goes on where the first stopped.")],
    chunk: Annotated[str, typer.Option(help="Length of a chunk: whole seconds, such as 60s or 1h.")] = "60s",
    lateness: Annotated[
        str | None,
        typer.Option(help="How long a chunk waits for stragglers; 5s of packets, more of flows, which come late."),
    ] = None,
    future: Annotated[str, typer.Option(help="How far ahead of the clock, or of the rest, a row may be.")] = "1h",
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of one chunk; beyond, conversations are sampled.")] = 4
    << 20,
    max_memory: Annotated[
        str, typer.Option(help="Of the rows of all open chunks, most of which wait in files: 768M, 4G.")
    ] = "768M",
    apart_rows: Annotated[
        int, typer.Option(min=0, help="Late rows, and future rows, that are stored apart from a chunk; 0: none.")
    ] = 1 << 16,
    queue_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows that may wait for the disk; 65536, of what comes live 262144.")
    ] = None,
    keep_for: Annotated[str | None, typer.Option(help="Age at which stored chunks expire, such as 7d.")] = None,
    keep_size: Annotated[
        str | None, typer.Option(help="Total size above which the oldest expire, such as 50G.")
    ] = None,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Whether rows come as they happen: then idle chunks close on the clock, and what the disk is too slow "
            "for is dropped, unless it waits in a file that is followed; by default that is so but for files that are "
            "not followed, folders and pipes.",
        ),
    ] = None,
    flows: Annotated[bool, typer.Option("--flows", help="Meter packets into flow records, and keep those.")] = False,
    active_timeout: Annotated[str, typer.Option(help="Of --flows: how long a record may last.")] = "30m",
    idle_timeout: Annotated[str, typer.Option(help="Of --flows: how long a flow may be silent.")] = "15s",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-O", help="NAME=VALUE, of the source's own; may be repeated.")
    ] = None,
) -> None:
    """Ingest a source into chunks; Ctrl-C ends it cleanly."""
    from pydantic import ValidationError
    from rich.console import Console

    from nsstream.clock import SystemClock
    from nsstream.errors import InputError, OutputError
    from nsstream.pipeline.ingest_plan import IngestPlan
    from nsstream.pipeline.service_config import ChunksSection, SourceSection, complaints

    timeouts_s = _timeouts_s(active_timeout, idle_timeout)
    try:
        plan = IngestPlan(
            SourceSection(
                input=source,
                options=_options_of(option or []),
                live=live,
                flows=flows,
                active_timeout_s=timeouts_s[0],
                idle_timeout_s=timeouts_s[1],
            ),
            ChunksSection(
                length_s=_whole_seconds(chunk),
                lateness_s=None if lateness is None else _seconds(lateness),
                future_s=_seconds(future),
                max_rows=max_rows,
                max_memory_octets=parse_octets(max_memory, "--max-memory"),
                apart_rows=apart_rows,
                queue_rows=queue_rows,
                keep_for_s=None if keep_for is None else _seconds(keep_for),
                keep_octets=None if keep_size is None else parse_octets(keep_size, "--keep-size"),
            ),
        )
    except ValidationError as err:
        raise InputError("; ".join(complaints(err))) from err
    clock = SystemClock()
    opened = plan.new_source(clock)
    intake = plan.new_intake(state, opened, clock)
    try:
        with _View(Console(stderr=True)) as view:
            loop = plan.new_loop(opened, intake, clock, view)
            with _signals(loop.stop):
                tally = loop.run()
        if tally.behind is not None:
            _print_account(Console(), {"packets": ""}, tally.behind.as_dict())
        counts = {"recovered": intake.recovered.row_count, "stored apart": intake.apart_rows}
        _print_account(
            Console(),
            {"chunks": intake.chunk_count} | {name: f"{count:,}" for name, count in counts.items() if count},
            replace(tally, behind=None).as_dict(),
        )
        if lost := tally.dropped["disk"]:
            raise OutputError(f"{lost:,} rows were lost: no room in {state}, or a spool's file was deleted unread")
    finally:
        intake.close()


def _timeouts_s(active_timeout: str, idle_timeout: str) -> tuple[float, float]:
    from nsstream.errors import InputError

    active_s, idle_s = _seconds(active_timeout), _seconds(idle_timeout)
    if not 1 <= idle_s <= active_s:
        raise InputError(f"--idle-timeout must be from 1s to --active-timeout ({active_timeout}), got {idle_timeout}")
    return active_s, idle_s


def parse_octets(text: str, option: str) -> int:
    """Octets of an option's size; raises InputError that names the option."""
    from nsstream.errors import InputError
    from nsstream.pipeline import plan

    try:
        return plan.parse_octets(text)
    except InputError as err:
        raise InputError(f"{option} {err}") from err


def _seconds(text: str) -> float:
    from nsstream.pipeline.plan import parse_duration_s

    return parse_duration_s(text)


def _whole_seconds(text: str) -> int:
    from nsstream.errors import InputError

    seconds = _seconds(text)
    if seconds < 1 or seconds != int(seconds):
        raise InputError(f"--chunk must be whole seconds, got {text}")
    return int(seconds)


def _options_of(texts: list[str]) -> dict[str, Any]:
    """Options by name; numbers, true and false are what they look like."""
    from nsstream.errors import InputError

    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--option {text!r} is not NAME=VALUE")
        options[name] = {"true": True, "false": False}.get(value, value)
        for number in (float, int):
            with suppress(ValueError):
                options[name] = number(value)
    return options


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a clean end, the second one interrupts."""
    asked: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _View:
    """Reports as one live line on a terminal, elsewhere as a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Any = None
        self._last: tuple[float, int] | None = None
        self._printed_s = 0.0

    def __enter__(self) -> _View:
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status:
            self._status.stop()

    def __call__(self, status: IngestStatus) -> None:
        if not self._status and not status.is_done and status.elapsed_s - self._printed_s < PLAIN_INTERVAL_S:
            return
        elapsed_s, offered = self._last or (0.0, 0)
        rate = (status.tally.offered - offered) / max(status.elapsed_s - elapsed_s, 1e-9)
        self._last = status.elapsed_s, status.tally.offered
        self._printed_s = status.elapsed_s
        words = describe(status, rate)
        if self._status:
            self._status.update(words)
        else:
            self._console.print(f"{status.elapsed_s:6.1f} s  {words}", highlight=False, soft_wrap=True)


def describe(status: IngestStatus, rows_per_s: float) -> str:
    """Where an ingest stands, in one line."""
    tally = status.tally
    parts = [f"{tally.kept:,} rows kept", f"{rows_per_s:,.0f} rows/s", f"{status.chunk_count} chunks"]
    if status.latest_ns >= 0:
        parts.append(f"at {datetime.fromtimestamp(status.latest_ns // 10**9, tz=UTC):%Y-%m-%d %H:%M:%S}Z")
    parts.append(f"{status.open_rows:,} open")
    if status.waiting_rows:
        parts.append(f"{status.waiting_rows:,} waiting")
    lost = {"late": tally.late, "future": tally.future, "sampled out": tally.sampled_out}
    lost |= {f"dropped by {place}": count for place, count in sorted(tally.dropped.items())}
    if tally.behind is not None:
        lost |= {f"packets dropped by {place}": count for place, count in sorted(tally.behind.dropped.items())}
    lost |= {"unprotected": status.unprotected_rows, "recovered": status.recovered_rows}
    parts += [f"{count:,} {name}" for name, count in lost.items() if count]
    if status.expired_count:
        parts.append(f"{status.expired_count} chunks expired")
    parts.append(f"{_resident_octets() >> 20} MB")
    return ", ".join(parts)


def _resident_octets() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def _print_account(console: Console, rows: dict[str, object], fates: dict[str, object]) -> None:
    for name, fate in fates.items():
        if isinstance(fate, dict):
            rows |= {f"{name} {reason}": f"{count:,}" for reason, count in fate.items()}
        elif fate or name in ("offered", "kept"):
            rows[name.replace("_", " ")] = f"{fate:,}"
    width = max(map(len, rows))
    for name, value in rows.items():
        console.print(f"{name:<{width}}  {value}", highlight=False, soft_wrap=True)
