"""The rules of `replay.sink` as checks that anybody can run on a sink of theirs, with or without a test framework.

A `SinkCase` says how to make the sink and what must come out of it; `check_sink_case` holds it to every rule::

    def test_card_sink(tmp_path):
        case = SinkCase(fields=lambda directory: {"kind": "card"}, frames=..., received=..., expected=...)
        check_sink_case(case, tmp_path)

or one test a rule: ``pytest.mark.parametrize("rule", RULES)``. A broken rule raises AssertionError, which says what was
expected and what came. It stands in the library, for whoever installs nsstream; it imports no test framework.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from nsstream.assemble.frames import Frames
from nsstream.capture.contract import expect, held, holds_no_more
from nsstream.errors import InputError, OutputError
from nsstream.replay.registry import check_sink, make_sink
from nsstream.replay.sink import Sink, SinkContext, Ticks, check_counters

STOP_S: Final = 5.0  # within which a sink must see a stop: generous, since a test's machine may be busy


@dataclass(frozen=True)
class SinkCase:
    """A sink with what must come out of it.

    Args:
        fields: of the sink's specification, given an empty directory for its files.
        frames: what is written.
        received: what came out, given the directory, once the sink is closed and its reader has ended; anything that
            can be compared.
        expected: what that must be.
        reader: what must run while the sink is open: a collector, the reader of a FIFO; entered before `open`, left
            after `close`.
        context: of the sink.
        is_undone: whether an abort leaves nothing in the directory but what `reader` put there.
        waits: whether the sink waits for its reader: without one, a stop must end the waiting.
    """

    fields: Callable[[Path], Mapping[str, object]]
    frames: Frames
    received: Callable[[Path], Any]
    expected: Any
    reader: Callable[[Path], AbstractContextManager[object]] = lambda directory: nullcontext()
    context: SinkContext = field(default_factory=SinkContext)
    is_undone: bool = False
    waits: bool = False

    def make(self, directory: Path) -> Sink:
        """A new sink."""
        return make_sink(self.fields(directory), self.context)


def check_sink_case(case: SinkCase, directory: Path) -> None:
    """Hold a sink to every rule; `directory` is an empty one for its files."""
    for rule in RULES:
        place = directory / rule.__name__
        place.mkdir()
        rule(case, place)


def is_inert_until_open(case: SinkCase, directory: Path) -> None:
    """Making a sink acquires nothing and counts nothing; it may be aborted unopened, and twice."""
    with case.reader(directory):
        before, names = held(), _names(directory)
        sink = case.make(directory)
        after = held()
        expect(holds_no_more(after, before), f"a new sink holds nothing open, got {after} after {before}")
        expect(_names(directory) == names, f"a new sink makes no file, got {_names(directory)}")
        expect(not any(sink.counters.values()), f"a new sink has counted nothing, got {dict(sink.counters)}")
        sink.abort()
        sink.abort()
        expect(_names(directory) == names, f"an abort makes no file, got {_names(directory)}")


def gives_what_was_written(case: SinkCase, directory: Path) -> None:
    """What comes out is what was expected."""
    came = _play(case, directory, len(case.frames))
    expect(came == case.expected, f"{case.expected!r:.500} expected, got {came!r:.500}")


def gives_the_same_however_it_is_cut(case: SinkCase, directory: Path) -> None:
    """One frame at a time, and a few, with nothing in between, make no difference."""
    for size in (1, 7):
        place = directory / str(size)
        place.mkdir()
        came = _play(case, place, size)
        expect(came == case.expected, f"{size} at a time: {case.expected!r:.500} expected, got {came!r:.500}")


def gives_the_same_when_told_the_time(case: SinkCase, directory: Path) -> None:
    """Ticks between frames make no difference to what comes out, and the counters add up behind each."""
    given = 0

    def tick(sink: Sink, frames: Frames) -> None:
        nonlocal given
        given += len(frames)
        if isinstance(sink, Ticks):
            sink.tick(int(frames.observation_time_ns[-1]))
            if given < len(case.frames):
                sink.tick(int(case.frames.observation_time_ns[given]) - 1)
            _check(sink, given)

    came = _play(case, directory, 1, tick)
    expect(came == case.expected, f"with ticks {case.expected!r:.500} expected, got {came!r:.500}")


def accounts_for_every_frame(case: SinkCase, directory: Path) -> None:
    """The counters add up after every call, and have counted what was given; they stay behind `close`."""
    given = 0

    def count(sink: Sink, frames: Frames) -> None:
        nonlocal given
        given += len(frames)
        _check(sink, given)

    _play(case, directory, 5, count)


def may_be_aborted_in_the_middle(case: SinkCase, directory: Path) -> None:
    """An abort leaves nothing open, and where it can be undone no file; it may be repeated, and the counters add up."""
    half = len(case.frames) // 2
    for turn in "first", "second":  # the first use of a sink may load what stays
        place = directory / turn
        place.mkdir()
        before = held()
        with case.reader(place):
            names = _names(place)
            sink = case.make(place)
            sink.open()
            try:
                sink.write(case.frames.slice(0, half))
            finally:
                sink.abort()
            sink.abort()
            _check(sink, half)
            if case.is_undone:
                expect(_names(place) == names, f"nothing left of it, got {_names(place)}")
        after = held()
    expect(holds_no_more(after, before), f"nothing left open, got {after} after {before}")


def leaves_nothing_open(case: SinkCase, directory: Path) -> None:
    """What `open` acquired is gone when `close` returns: descriptors, threads, child processes."""
    for turn in "first", "second":
        place = directory / turn
        place.mkdir()
        before = held()
        _play(case, place, len(case.frames))
        after = held()
    expect(holds_no_more(after, before), f"nothing left open, got {after} after {before}")


def takes_no_frames_at_all(case: SinkCase, directory: Path) -> None:
    """A run without a frame is one, too; so is a write of none."""
    with case.reader(directory):
        sink = case.make(directory)
        sink.open()
        try:
            sink.write(case.frames.slice(0, 0))
            sink.close()
        except BaseException:
            sink.abort()
            raise
        _check(sink, 0)


def sees_a_stop(case: SinkCase, directory: Path) -> None:
    """Where the run is stopped, a sink that waits raises OutputError in time; one that does not may go on."""
    stopped = threading.Event()
    sink = replace(case, context=replace(case.context, is_stopped=stopped.is_set)).make(directory)
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            sink.open()
            sink.write(case.frames)
        except OutputError as err:
            ended.append(err)
        else:
            ended.append(None)
        sink.abort()

    thread = threading.Thread(target=run)
    thread.start()
    stopped.set()
    thread.join(STOP_S)
    expect(not thread.is_alive(), f"still busy {STOP_S:g} s after a stop")
    if case.waits:
        expect(isinstance(ended[0], OutputError), f"OutputError of a sink that waits, got {ended[0]!r}")
        expect("\n" not in str(ended[0]), f"one sentence expected, got {str(ended[0])!r}")


def refuses_what_it_does_not_know(case: SinkCase, directory: Path) -> None:
    """A field that is unknown, or of another type, is InputError with its path; the specification is frozen."""
    with case.reader(directory):
        fields = dict(case.fields(directory))
    spec = check_sink(fields)
    expect(spec.kind == fields["kind"], f"kind {fields['kind']!r} expected, got {spec.kind!r}")
    for name in ("no_such_field", *type(spec).model_fields):
        try:
            check_sink({**fields, name: {"a": []}})
        except InputError as err:
            expect(str(err).startswith(f"sink.{name}"), f"a sentence that begins with sink.{name}, got {str(err)!r}")
            expect("\n" not in str(err), f"one sentence expected, got {str(err)!r}")
        else:
            raise AssertionError(f"a map was taken for {name}")
    try:
        setattr(spec, "kind", "other")  # noqa: B010 - what a type checker would not let pass is what is tried
    except ValueError:
        pass
    else:
        raise AssertionError("a specification is frozen")


RULES: Final = (
    is_inert_until_open,
    gives_what_was_written,
    gives_the_same_however_it_is_cut,
    gives_the_same_when_told_the_time,
    accounts_for_every_frame,
    may_be_aborted_in_the_middle,
    leaves_nothing_open,
    takes_no_frames_at_all,
    sees_a_stop,
    refuses_what_it_does_not_know,
)


def _play(
    case: SinkCase, directory: Path, size: int, on_write: Callable[[Sink, Frames], None] = lambda sink, frames: None
) -> Any:
    """Write all frames, `size` at a time; what came out."""
    with case.reader(directory):
        sink = case.make(directory)
        sink.open()
        try:
            for start in range(0, len(case.frames), size):
                block = case.frames.slice(start, start + size)
                sink.write(block)
                on_write(sink, block)
            sink.close()
        except BaseException:
            sink.abort()
            raise
        _check(sink, len(case.frames))
    return case.received(directory)


def _check(sink: Sink, given: int) -> None:
    counters = sink.counters
    check_counters(counters)
    expect(counters.get("frames") == given, f"{given} frames were given, the counters say {dict(counters)}")
    expect(
        any(name.startswith("frames_") for name in counters), f"frames by fate expected, got the names {list(counters)}"
    )


def _names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
