"""chunk list, meter, show, export, pin, unpin: what is stored of a trace, and chunks of flows by hand."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from nsstream_daemon.bundled_command import capture_of

if TYPE_CHECKING:
    from nsstream.chunk import ChunkStore

APART: Final = "apart"  # the folder of late and future rows
chunk_app = typer.Typer(help="What is stored of a trace.", no_args_is_help=True)

StateArgument = Annotated[Path, typer.Argument(help="A state directory, or its chunks folder.")]
ApartOption = Annotated[bool, typer.Option("--apart", help="Late and future rows, which are in no chunk, instead.")]
ChunkArgument = Annotated[str, typer.Argument(help="As in chunk list.")]


@chunk_app.command("list")
def list_chunks(state: StateArgument, apart: ApartOption = False) -> None:
    """List the chunks of a state directory; with --apart the late and future rows that came as they were open."""
    store = _store_of(state, is_apart=apart)
    infos = store.list()
    widest = max((len(info.id) for info in infos), default=2)
    print(
        f"{'id':<{widest}}  {'start':<20}  {'kind':<7}  {'rows':>12}  {'late':>8}  {'lost':>8}  {'kept of':>8}  marks"
    )
    for info in infos:
        lost = sum(info.tally.dropped.values()) + info.tally.future
        counts = f"{info.row_count:>12,}  {info.tally.late:>8,}  {lost:>8,}  {_rate(info.sampling_interval):>8}"
        marks = {"partial": info.is_partial, "pinned": store.is_pinned(info.id), "recovered": info.recovered > 0}
        told = ", ".join(mark for mark, is_so in marks.items() if is_so)
        print(f"{info.id:<{widest}}  {_utc(info.start_ns)}  {info.kind:<7}  {counts}  {told}".rstrip())


@chunk_app.command("meter")
def meter(
    capture: Annotated[
        Path | None, typer.Argument(help="A capture, plain or as .gz, .xz or .zst; none: the bundled one of a lab.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of chunks; the new one is made in it.")] = Path(
        "chunks"
    ),
    active_timeout: Annotated[
        float, typer.Option(help="Seconds after which a flow goes on in another record.")
    ] = 1800.0,
    idle_timeout: Annotated[float, typer.Option(help="Seconds after a flow's last packet that it ends.")] = 15.0,
    is_biflow: Annotated[
        bool, typer.Option("--biflow", help="Both directions in one record (RFC 5103), not one each as of NetFlow.")
    ] = False,
) -> None:
    """Meter a capture into a chunk of flow records, as an exporter would: for one, to train a public seed on."""
    from nsstream.chunk import ChunkStore
    from nsstream.pipeline.meter_capture import meter_capture

    with ExitStack() as stack:
        if capture is None:
            capture = stack.enter_context(resources.as_file(capture_of("lab")))
        path, count = meter_capture(
            capture, ChunkStore(output), active_timeout_s=active_timeout, idle_timeout_s=idle_timeout,
            is_biflow=is_biflow,
        )  # fmt: skip
    print(f"chunk  {path}  ({count:,} records)")


@chunk_app.command("show")
def show_chunk(state: StateArgument, chunk_id: ChunkArgument) -> None:
    """Show what one chunk says of itself."""
    from rich.console import Console

    info = _store_with(state, chunk_id).info(chunk_id)
    rows = {
        "id": info.id,
        "file": info.path,
        "start": _utc(info.start_ns),
        "end": _utc(info.end_ns),
        "kind": str(info.kind),
        "rows": f"{info.row_count:,}",
        "fate": str(info.fate),
        "kept": f"{_rate(info.sampling_interval)} conversations",
        "partial": "yes" if info.is_partial else "no",
        "recovered": f"{info.recovered:,}" if info.recovered else "",
        "digest": info.digest,
    }
    told = [(name, value) for name, value in rows.items() if value]
    for heading, tally in (("records", info.tally), ("packets behind", info.tally.behind)):
        if tally is not None:
            fates = tally.as_dict().items()
            told += [(heading, ""), *((f"  {name}", fate) for name, fate in fates if fate and name != "behind")]
    for name, value in told:
        Console().print(f"{name:<13} {value}".rstrip(), highlight=False, soft_wrap=True)


@chunk_app.command("export")
def export_chunk(
    state: StateArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; it must not exist.")],
    apart: ApartOption = False,
    chunk_ids: Annotated[list[str] | None, typer.Argument(help="As in chunk list; none: all, by start.")] = None,
    format: Annotated[  # noqa: A002 - the word of the command line
        str, typer.Option("--format", help="parquet, csv, or pcap (packets, headers only).")
    ] = "parquet",
) -> None:
    """Export chunks to a file that other tools read."""
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress

    from nsstream.chunk.export import ExportFormat, export_chunks
    from nsstream.errors import InputError

    if format not in list(ExportFormat):
        raise InputError(f"--format must be one of {', '.join(ExportFormat)}, got {format!r}")
    store = _store_of(state, is_apart=apart)
    infos = [_store_with(state, name).info(name) for name in chunk_ids] if chunk_ids else store.list()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("export", total=sum(info.row_count for info in infos))
        row_count = export_chunks(
            [partial(store.read, info.path) for info in infos],
            output,
            ExportFormat(format),
            report=lambda done: bars.update(task, completed=done),
        )
    Console().print(f"exported  {output}  ({row_count:,} rows)", highlight=False, soft_wrap=True)


@chunk_app.command("pin")
def pin_chunk(state: StateArgument, chunk_id: ChunkArgument) -> None:
    """Never let a chunk expire."""
    _store_with(state, chunk_id).pin(chunk_id)


@chunk_app.command("unpin")
def unpin_chunk(state: StateArgument, chunk_id: ChunkArgument) -> None:
    """Let a chunk expire again."""
    _store_with(state, chunk_id).unpin(chunk_id)


def _store_of(state: Path, *, is_apart: bool = False) -> ChunkStore:
    from nsstream.chunk import ChunkStore
    from nsstream.errors import StateError

    folder = state / "chunks" if (state / "chunks").is_dir() else state
    if not folder.is_dir():
        raise StateError(f"there is no state directory {state}")
    if is_apart:
        folder = folder.parent / APART
        if not folder.is_dir():
            raise StateError(f"nothing is stored apart in {state}")
    return ChunkStore(folder)


def _store_with(state: Path, chunk_id: str) -> ChunkStore:
    """The store of rows apart if the chunk is there, else the one of chunks."""
    apart = _store_of(state).directory.parent / APART
    return _store_of(state, is_apart=(apart / f"{chunk_id}.arrow").exists())


def _rate(sampling_interval: int) -> str:
    return "all" if sampling_interval == 1 else f"1 in {sampling_interval}"


def _utc(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns // 1_000_000_000, tz=UTC):%Y-%m-%d %H:%M:%S}Z"
