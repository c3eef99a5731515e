"""ProgressView: a run's reports on a terminal as live bars, elsewhere as plain lines, on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from nsstream.pipeline import Progress, Stage

PLAIN_INTERVAL_S: Final = 10.0
_NAMES: Final = {
    Stage.IMPORT: "import",
    Stage.SEED: "seed model",
    Stage.FINE_TUNE: "fine-tune",
    Stage.REPLAY: "replay",
    Stage.VERIFY: "verify",
    Stage.SCORE: "score",
}
_Key = tuple[Stage, int | None]


class ProgressView:
    """A listener and context manager: bars while it is open."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        if console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description:<16}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[details]}"),
                console=console,
            )
        self._tasks: dict[_Key, TaskID] = {}
        self._began_s: dict[_Key, float] = {}
        self._printed_s: dict[_Key, float] = {}

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Draw one report."""
        # A replay is one bar for all its chunks; training is a bar each.
        key = progress.stage, (None if progress.stage is Stage.REPLAY else progress.chunk)
        began_s = self._began_s.setdefault(key, progress.elapsed_s)
        details = _details(progress, progress.elapsed_s - began_s)
        if self._bars:
            self._draw(self._bars, key, progress, details, began_s)
        elif (
            progress.is_done
            or progress.note
            or progress.elapsed_s - self._printed_s.get(key, -PLAIN_INTERVAL_S) >= PLAIN_INTERVAL_S
        ):
            self._printed_s[key] = progress.elapsed_s
            self._console.print(f"{progress.elapsed_s:6.1f} s  {_title(progress)}: {details}", highlight=False)

    def _draw(self, bars: Bars, key: _Key, progress: Progress, details: str, began_s: float) -> None:
        if key not in self._tasks:
            self._tasks[key] = bars.add_task(_title(progress), total=None, details="")
        if progress.note:
            bars.console.print(progress.note, highlight=False)
        share = _share(progress, progress.elapsed_s - began_s)
        bars.update(self._tasks[key], total=None if share is None else 1.0, completed=share or 0.0, details=details)


def _title(progress: Progress) -> str:
    if progress.stage is Stage.FINE_TUNE and progress.chunk:
        return f"{_NAMES[progress.stage]} {progress.chunk}/{progress.chunk_count}"
    return _NAMES[progress.stage]


def _details(progress: Progress, spent_s: float) -> str:
    parts = []
    if progress.is_done:
        parts.append("done")
    if progress.phase:
        parts.append(progress.phase)
    if progress.step is not None:
        parts.append(f"step {progress.step:,}" + (f"/{progress.steps:,}" if progress.steps else ""))
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.stage is Stage.REPLAY and progress.chunk:
        parts.append(f"chunk {progress.chunk}/{progress.chunk_count}")
    elif progress.stage is Stage.IMPORT and progress.chunk_count:
        parts.append(f"{progress.chunk_count} chunks")
    if progress.packet_count is not None:
        parts.append(f"{progress.packet_count:,} packets")
    if spent_s >= 1:
        parts.append(f"{spent_s:.0f} s")
    if progress.left_s is not None:
        parts.append(f"{progress.left_s:.0f} s left")
    if progress.note:
        parts.append(progress.note)
    return ", ".join(parts) or "started"


def _share(progress: Progress, spent_s: float) -> float | None:
    """How much of the task is done, None where nobody knows."""
    if progress.is_done:
        return 1.0
    if progress.step is not None and progress.steps:
        return progress.step / progress.steps
    if progress.left_s is not None:
        return spent_s / max(spent_s + progress.left_s, 1e-9)
    if progress.chunk and progress.chunk_count and progress.stage is Stage.REPLAY:
        return (progress.chunk - 1) / progress.chunk_count
    return None
