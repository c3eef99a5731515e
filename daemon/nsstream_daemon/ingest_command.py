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
    from nsstream.trace.metering import FlowMeter

PLAIN_INTERVAL_S: Final = 10.0
QUEUE_ROWS: Final = 1 << 16
LIVE_QUEUE_ROWS: Final = 1 << 18  # what the disk is too slow for is lost
_UNITS: Final = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


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
            "for is dropped; by default that is so but for files, folders and pipes.",
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
    from rich.console import Console

    from nsstream.capture import MeteredSource, open_source
    from nsstream.capture.source import UNORDERED_S, lateness_s_of
    from nsstream.chunk import ChunkLimits
    from nsstream.chunk.retention import Retention
    from nsstream.clock import SystemClock
    from nsstream.errors import OutputError
    from nsstream.pipeline.channel import WhenFull
    from nsstream.pipeline.ingest_loop import IngestLoop
    from nsstream.pipeline.intake import Intake, IntakeConfig

    open_octets = parse_octets(max_memory, "--max-memory")
    place = _place_of(source)
    is_live = place is None if live is None else live
    clock = SystemClock()
    opened = open_source(source, **_options_of(option or []))
    if flows:
        opened = MeteredSource(opened, _meter(active_timeout, idle_timeout), clock=clock)
    waits_s = lateness_s_of(opened) if lateness is None else _seconds(lateness)
    config = IntakeConfig(
        length_s=_whole_seconds(chunk),
        allowed_lateness_s=waits_s,
        allowed_future_s=None if waits_s >= UNORDERED_S else _seconds(future),
        limits=ChunkLimits(
            max_rows, open_octets, max(max_rows, 3 * max_rows // 2), open_octets, apart_rows, open_octets // 32
        ),
        is_live=is_live,
        retention=Retention(
            None if keep_for is None else round(_seconds(keep_for) * 1e9),
            None if keep_size is None else parse_octets(keep_size, "--keep-size"),
        ),
    )
    identity = _identity_of(source, place)
    if flows:  # with other timeouts, other records: there is nothing to go on from
        identity += f" metered {_seconds(active_timeout):g} {_seconds(idle_timeout):g}"
    intake = Intake(state, identity, config, clock=clock)
    try:
        with _View(Console(stderr=True)) as view:
            loop = IngestLoop(
                opened,
                intake,
                when_full=WhenFull.DROP_NEWEST if is_live else WhenFull.BLOCK,
                capacity_rows=queue_rows or (LIVE_QUEUE_ROWS if is_live else QUEUE_ROWS),
                clock=clock,
                skips_known=place is not None and place.is_file(),
                listen=view,
            )
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


def _meter(active_timeout: str, idle_timeout: str) -> FlowMeter:
    from nsstream.errors import InputError
    from nsstream.trace.metering import FlowMeter

    active_s, idle_s = _seconds(active_timeout), _seconds(idle_timeout)
    if not 1 <= idle_s <= active_s:
        raise InputError(f"--idle-timeout must be from 1s to --active-timeout ({active_timeout}), got {idle_timeout}")
    return FlowMeter(active_timeout_s=active_s, idle_timeout_s=idle_s)


def parse_octets(text: str, option: str) -> int:
    """Octets of a size such as ``512M``, ``1.5G`` or ``1000``; raises InputError otherwise."""
    from nsstream.errors import InputError

    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS and text else (text, "")
    if not number.replace(".", "", 1).isdecimal() or not number.isascii():
        raise InputError(f"{option} {text!r} is not a size; write it as 512M, 1.5G or 2T")
    return max(1, round(float(number) * _UNITS[unit]))


def _seconds(text: str) -> float:
    from nsstream.pipeline.plan import parse_duration_s

    return parse_duration_s(text)


def _whole_seconds(text: str) -> int:
    from nsstream.errors import InputError

    seconds = _seconds(text)
    if seconds < 1 or seconds != int(seconds):
        raise InputError(f"--chunk must be whole seconds, got {text}")
    return int(seconds)


def _place_of(source: str) -> Path | None:
    """The file, folder or pipe that a source reads, None where it reads none."""
    if source == "-":
        return Path("/dev/stdin")
    for text in (source, source.partition(":")[2]):
        if text and Path(text).exists():
            return Path(text)
    return None


def _identity_of(source: str, place: Path | None) -> str:
    """What makes a source the same after a restart: of a file its inode, of a folder its path, of all else its name."""
    if place is not None and place.is_dir():
        return f"{source.partition(':')[0]}:{place.resolve()}"
    if place is None or not place.is_file():
        return source
    status = place.stat()
    return f"file {status.st_dev}:{status.st_ino}"


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
