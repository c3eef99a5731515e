"""The rules of `capture.source` as checks that anybody can run on a source of theirs, with or without a test framework.

A `SourceCase` says how to make the source and which rows it must give; `check_source` holds it to every rule::

    def test_card_source(tmp_path):
        check_source(SourceCase(make=lambda directory: CardSource("0"), expected={"ip_ttl": ...}), tmp_path)

or one test a rule: ``pytest.mark.parametrize("rule", RULES)``. A broken rule raises AssertionError, which says what was
expected and what came. `check_any_split` is the law of readers of a stream: how it is cut makes no difference.

It stands in the library, beside the protocol, so that whoever installs nsstream has it; it imports no test framework.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsstream.capture.source import HandsOver, Source
from nsstream.counters import Tally
from nsstream.errors import InputError

DEADLINE_S: Final = 60.0  # for all rows of a case to come; a source that never gives them must not hang its test
JUNK: Final = (b"\0", b"\xff" * 3, b"\xff" * 64, bytes(range(256)), b"\n" * 40, bytes(100))

Rows = Any  # PacketBatch or FlowTable
AnySource = Source[Any]
Columns = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class SourceCase:
    """A source with the rows that it must give.

    Args:
        make: a new source, not opened; it is handed an empty directory for files that the source needs.
        expected: the columns that are compared, by name, in the order of rows; all of one length.
        feed: makes the input come once the source is open (packets on a wire, octets in a FIFO), given the source and
            its directory. Without it the input is there before.
        is_live: whether the source tells what happens now: it may give empty batches.
        ends: whether it ends by itself behind the last row.
    """

    make: Callable[[Path], AnySource]
    expected: Columns
    feed: Callable[[AnySource, Path], None] | None = None
    is_live: bool = False
    ends: bool = True

    @property
    def row_count(self) -> int:
        """How many rows must come."""
        return len(next(iter(self.expected.values())))


def check_source(case: SourceCase, directory: Path) -> None:
    """Hold a source to every rule; `directory` is an empty one for its files."""
    for rule in RULES:
        place = directory / rule.__name__
        place.mkdir()
        rule(case, place)


def is_inert_until_open(case: SourceCase, directory: Path) -> None:
    """Making a source acquires nothing and counts nothing; it may be closed unopened, and twice."""
    before = held()
    source = case.make(directory)
    expect(source.tally.offered == 0, f"a new source has counted nothing, got {source.tally}")
    after = held()
    expect(holds_no_more(after, before), f"a new source holds nothing open, got {after} after {before}")
    source.close()
    source.close()


def gives_every_row_in_order(case: SourceCase, directory: Path) -> None:
    """The rows are those expected; only a live source gives a batch without rows."""
    source = case.make(directory)
    source.open()
    try:
        batches = _read(case, source, directory)
    finally:
        source.close()
    for name, column in case.expected.items():
        came = np.concatenate([getattr(batch, name) for batch in batches]) if batches else column[:0]
        expect(len(came) == len(column), f"{len(column)} rows expected, {len(came)} came")
        wrong = np.flatnonzero((came != column).reshape(len(column), -1).any(axis=1))
        if len(wrong):
            row = int(wrong[0])
            raise AssertionError(f"row {row}: {name} must be {column[row]}, got {came[row]}")


def ends_for_good(case: SourceCase, directory: Path) -> None:
    """Behind the end there is nothing but the end, also when the source is closed; one that never ends is idle."""
    source = case.make(directory)
    source.open()
    try:
        _read(case, source, directory)
        for _ in range(3):
            batch = source.read_batch()
            if case.ends:
                expect(batch is None, f"None behind the end, got {batch!r}")
            else:
                expect(batch is not None and not len(batch), f"an idle batch behind the last row, got {batch!r}")
    finally:
        source.close()
    batch = source.read_batch()
    expect(batch is None, f"None of a closed source, got {batch!r}")


def accounts_for_every_record(case: SourceCase, directory: Path) -> None:
    """The tally adds up after every call and has counted as kept what was given; it stays behind `close`.

    A source that is not live may have read ahead of what it gave.
    """
    source = case.make(directory)
    source.open()
    kept = 0

    def count(batch: Rows) -> None:
        nonlocal kept
        kept += len(batch)
        source.tally.check()
        expect(source.tally.kept == kept, f"{kept} rows were given, the tally says {source.tally.kept}")

    try:
        _read(case, source, directory, count)
    finally:
        source.close()
    source.tally.check()
    expect(source.tally.kept == kept, f"{kept} rows were given, the tally says {source.tally.kept} when closed")


def may_be_closed_in_the_middle(case: SourceCase, directory: Path) -> None:
    """A source may be closed at any time and twice; its tally adds up and has no less in it."""
    source = case.make(directory)
    source.open()
    try:
        if case.feed is not None:
            case.feed(source, directory)
        batch = source.read_batch()
        given = 0 if batch is None else len(batch)
        offered = source.tally.offered
    finally:
        source.close()
        source.close()
    source.tally.check()
    expect(source.tally.kept == given, f"{given} rows were given, the tally says {source.tally.kept}")
    expect(source.tally.offered >= offered, f"at least {offered} records offered, got {source.tally.offered}")


def leaves_nothing_behind(case: SourceCase, directory: Path) -> None:
    """What `open` started is gone when `close` returns: descriptors, threads, child processes."""
    for turn in "first", "second":  # the first use of a source may load what stays
        place = directory / turn
        place.mkdir()
        before = held()
        source = case.make(place)
        source.open()
        try:
            _read(case, source, place)
        finally:
            source.close()
        after = held()
    expect(holds_no_more(after, before), f"nothing left open, got {after} after {before}")


def is_idle_without_input(case: SourceCase, directory: Path) -> None:
    """A live source to which nothing comes gives empty batches, so that its caller can stop it."""
    if not case.is_live or case.feed is None:
        return
    source = case.make(directory)
    source.open()
    try:
        for _ in range(2):
            batch = source.read_batch()
            expect(batch is not None and not len(batch), f"an empty batch where nothing came, got {batch!r}")
            source.tally.check()
    finally:
        source.close()


def tells_its_successor(case: SourceCase, directory: Path) -> None:
    """What a source hands over is JSON, the same object while nothing is new, taken over by the next, never trusted."""
    source = case.make(_made(directory / "first"))
    if not isinstance(source, HandsOver):
        return
    source.open()
    try:
        _read(case, source, directory / "first")
        expect(source.handover() is source.handover(), "the same handover twice where nothing was read between")
    finally:
        source.close()
    last = source.handover()
    heir = case.make(_made(directory / "second"))
    if last is not None and isinstance(heir, HandsOver):
        heir.take_over(json.loads(json.dumps(last)))
    try:
        heir.open()
        heir.tally.check()
    finally:
        heir.close()
    strange: tuple[object, ...] = (None, [], "handover", 1, {}, {"format": "of somebody else"})
    for number, foreign in enumerate(strange):
        stranger = case.make(_made(directory / f"stranger{number}"))
        assert isinstance(stranger, HandsOver)
        try:
            stranger.take_over(foreign)
        except InputError as err:
            expect("\n" not in str(err), f"one sentence expected, got {str(err)!r}")
        else:
            raise AssertionError(f"take_over of {foreign!r} raised no InputError")
        expect(stranger.tally.offered == 0, f"what was refused is not counted, got {stranger.tally}")


RULES: Final = (
    is_inert_until_open,
    gives_every_row_in_order,
    ends_for_good,
    accounts_for_every_record,
    may_be_closed_in_the_middle,
    leaves_nothing_behind,
    is_idle_without_input,
    tells_its_successor,
)


def check_refusal(make: Callable[[Path], AnySource], directory: Path, mention: str) -> None:
    """Hold a source whose input cannot be used to its rule: `open` raises InputError, one sentence that mentions it."""
    source = make(directory)
    try:
        source.open()
    except InputError as err:
        expect("\n" not in str(err), f"one sentence expected, got {str(err)!r}")
        expect(mention in str(err), f"a sentence about {mention!r} expected, got {str(err)!r}")
    else:
        raise AssertionError("open raised no InputError")
    finally:
        source.close()
    source.tally.check()


@dataclass
class StreamOutcome:
    """What a reader made of a stream: its rows by column, what it counted, and what it complained of."""

    columns: dict[str, NDArray[np.generic]]
    tally: Tally = field(default_factory=Tally)
    error: str = ""


def check_any_split(read: Callable[[Sequence[bytes]], StreamOutcome], octets: bytes, seed: int = 0) -> None:
    """Hold a reader of a stream to its law: the same result for the whole, octet by octet, and cut at random.

    The same for the stream with junk behind it, whose rows must begin with those of the stream alone.

    Args:
        read: feeds the pieces to a new reader, one by one, and says what came of it.
        octets: a stream that the reader reads to its end.
        seed: of the random cuts.
    """
    chance = random.Random(seed)
    alone = read([octets])
    expect(not alone.error, f"a stream without fault expected, got {alone.error!r}")
    for junk in (b"", *JUNK):
        stream = octets + junk
        whole = read([stream])
        whole.tally.check()
        for name, column in alone.columns.items():
            came = whole.columns[name][: len(column)]
            expect(np.array_equal(came, column), f"{name}: the rows before {len(junk)} octets of junk changed")
        cuts = [sorted(chance.sample(range(len(stream) + 1), min(7, len(stream)))) for _ in range(4)]
        for edges in (list(range(1, len(stream))), *cuts):
            pieces = [stream[a:b] for a, b in pairwise([0, *edges, len(stream)])]
            _compare(whole, read(pieces), f"{len(pieces)} pieces, {len(junk)} octets of junk")


def _compare(whole: StreamOutcome, cut: StreamOutcome, how: str) -> None:
    cut.tally.check()
    for name, column in whole.columns.items():
        expect(np.array_equal(cut.columns[name], column), f"{how}: {name} differs from that of the whole")
    expect(cut.tally == whole.tally, f"{how}: {whole.tally} expected, got {cut.tally}")
    expect(cut.error == whole.error, f"{how}: {whole.error!r} expected, got {cut.error!r}")


def _read(
    case: SourceCase, source: AnySource, directory: Path, on_batch: Callable[[Rows], None] = lambda _: None
) -> list[Rows]:
    """Feed an open source and read it to its end, or to the last row where it has none."""
    if case.feed is not None:
        case.feed(source, directory)
    batches: list[Rows] = []
    until_s = time.monotonic() + DEADLINE_S
    count = 0
    while case.ends or count < case.row_count:
        expect(time.monotonic() < until_s, f"{count} of {case.row_count} rows and no end within {DEADLINE_S:g} s")
        batch = source.read_batch()
        if batch is None:
            break
        expect(case.is_live or len(batch) > 0, "a batch of a source that is not live has rows, got an empty one")
        on_batch(batch)
        batches.append(batch)
        count += len(batch)
    return batches


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def held() -> dict[str, int]:
    """How many descriptors, threads and children this process has."""
    tasks = Path("/proc/self/task")
    children = sum(
        len((task / "children").read_text().split()) for task in tasks.iterdir() if (task / "children").exists()
    )
    return {
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
        "children": children,
    }


def holds_no_more(after: Mapping[str, int], before: Mapping[str, int]) -> bool:
    """Whether nothing was acquired; what others held, and let go of meanwhile, may be gone."""
    return all(after[what] <= count for what, count in before.items())


def expect(is_so: bool, otherwise: str) -> None:
    """Raise AssertionError, with what was expected and what came, if it is not so."""
    if not is_so:
        raise AssertionError(otherwise)
