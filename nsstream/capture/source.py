"""Source: the protocol of everything that packets or flows come from.

Rules for a source:

- It is inert until `open`, which acquires what is read; what cannot be acquired or used raises InputError, one sentence
  that names the input and says what to do.
- `read_batch` gives rows in the order of observation, and None at the end, for good. A source of what happens now (an
  interface, a socket, a pipe, a spool) gives an empty batch where nothing came for `IDLE_S` or so, so that its caller
  can look at the clock and stop; it ends when its feeder does, or never. A file gives no empty batch, unless metered.
- `tally` adds up after every call (`Tally.check`) and tells what was read so far; it stays after `close`.
- Rows may come later than their time says, after rows of later times: by `DEFAULT_LATENESS_S` at most, or by
  `lateness_s`, an attribute that a source may have. A flow ends long before its record comes.
- Rows that are made of other records (flows of packets) may have an account of those in ``tally.behind``. A source that
  holds rows back until they are complete has `flush`, which gives them and ends it: for who stops before its end. If
  it reads a file, rows of what was complete by its end alone may be others when the file has grown: then it has
  `resume`, too.
- `close` may be called at any time, also twice, also unopened. It ends only what `open` started.
- A source that must know more than its input says, to go on where another one of it stopped, is a `HandsOver` as well.
  `handover` is called after each batch and after `close`, and belongs to the rows and the tally so far; it is cheap,
  the same object as long as there is nothing new. It holds plain values, for JSON. `take_over` may be called once,
  before `open`, and believes nothing: what it cannot use raises InputError, one sentence, and is as if it never came.

`tests/contract` holds every source of ours to them; third parties add theirs by the entry-point group
``nsstream.capture`` and may run the same tests.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from nsstream.counters import Tally
from nsstream.trace import FlowTable, PacketBatch

IDLE_S: Final = 0.2
DEFAULT_LATENESS_S: Final = 5.0
EXPORT_LATENESS_S: Final = 120.0  # an exporter waits for its idle timeout (15 to 60 s are common), and fills a datagram
SENSOR_LATENESS_S: Final = 660.0  # Suricata tells of a silent TCP flow after 600 s, Zeek after 300 s
COLLECTOR_LATENESS_S: Final = 3600.0  # a collector keeps what came to it, of exporters with an active timeout, too
UNORDERED_S: Final = 1e9  # rows come in any order

Rows = PacketBatch | FlowTable
RowsT_co = TypeVar("RowsT_co", PacketBatch, FlowTable, covariant=True)


class Source(Protocol[RowsT_co]):
    """Where packets (`Source[PacketBatch]`) or flows (`Source[FlowTable]`) come from."""

    tally: Tally

    def open(self) -> None:
        """Acquire what is read: a file, a socket, a child process."""

    def read_batch(self) -> RowsT_co | None:
        """The next rows; no rows where nothing came for a while; None at the end."""

    def close(self) -> None:
        """Release what `open` acquired."""


@runtime_checkable
class HandsOver(Protocol):
    """What a source is, too, that tells its successor what it knew."""

    def handover(self) -> dict[str, Any] | None:
        """What a successor has to know now; None where that is nothing."""

    def take_over(self, handover: object) -> None:
        """Know what a predecessor knew."""


def rows_held_by(source: Source[Any]) -> Rows | None:
    """What a source holds back, which is thereby at its end; None where it holds nothing back."""
    flush = getattr(source, "flush", None)
    rows: Rows | None = None if flush is None else flush()
    return rows


def can_resume(source: Source[Any], known: Tally) -> bool:
    """Whether a source, not open yet, will go on behind what it gave to a process before, by its tally then.

    Else it gives that again, row for row, and first.
    """
    resume = getattr(source, "resume", None)
    return resume is not None and bool(resume(known))


def lateness_s_of(source: Source[Any]) -> float:
    """How much later than its time a row of a source may come, in seconds."""
    return float(getattr(source, "lateness_s", DEFAULT_LATENESS_S))
