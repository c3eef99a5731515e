"""SpoolReading: one file of a spool, read from where an earlier reading of it came to."""

from __future__ import annotations

from dataclasses import replace

from nsstream.capture.source import Source
from nsstream.capture.spool_ledger import Entry, tally_of
from nsstream.counters import Tally
from nsstream.trace import FlowTable, PacketBatch

Rows = PacketBatch | FlowTable
FileSource = Source[PacketBatch] | Source[FlowTable]


class SpoolReading:
    """Rows and counts of a file that were not given before.

    Args:
        source: of the file, not opened yet.
        entry: of the file as it is now.
        before: of the records that earlier readings gave; none of them is given or counted again.
    """

    def __init__(self, source: FileSource, entry: Entry, before: Tally) -> None:
        self._source = source
        self._entry = entry
        self._before = before
        self._rows_to_skip = before.kept
        self._taken = Tally()  # what of the source's tally was taken

    def open(self) -> None:
        """Open the file; raises InputError if it cannot be."""
        self._source.open()

    def read_batch(self) -> Rows | None:
        """The next rows, none where all were given before; None at the end. Raises InputError as the file's source."""
        batch = self._source.read_batch()
        if batch is None:
            return None
        skipped = min(self._rows_to_skip, len(batch))
        self._rows_to_skip -= skipped
        return batch.take(slice(skipped, None)) if skipped else batch

    def take_tally(self) -> Tally:
        """What was counted since the last call; also to be asked for after an error."""
        fresh = _less(self._source.tally, self._before)
        added = _less(fresh, self._taken)
        self._taken = fresh
        return added

    def entry(self, *, is_done: bool) -> Entry:
        """How far the file was read, for the ledger."""
        tally = self._source.tally
        if tally.kept < self._before.kept:
            tally = self._before  # still among what was given before
        elif not is_done:
            tally = _more(tally, self._before)  # what follows its last row may be still to come
        return replace(self._entry, is_done=is_done, tally=tally)

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def _less(tally: Tally, known: Tally) -> Tally:
    """What a tally counts beyond another one, count by count, never below zero."""
    return tally_of(
        max(0, tally.kept - known.kept),
        tally.malformed - known.malformed,  # drops what is not positive
        tally.unsupported - known.unsupported,
        tally.dropped - known.dropped,
    )


def _more(tally: Tally, known: Tally) -> Tally:
    """The greater one of each count of two tallies."""
    return tally_of(
        max(tally.kept, known.kept),
        tally.malformed | known.malformed,
        tally.unsupported | known.unsupported,
        tally.dropped | known.dropped,
    )
