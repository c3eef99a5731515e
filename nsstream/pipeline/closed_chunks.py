"""ClosedChunks: chunks that are closed get their place in the store; what the disk refuses waits, or is lost by name.

Rules: (1) a chunk is made durable out of sight, committed, and then appears (`chunk.journal`); (2) where chunks may
wait, they do so in order and all together, and nothing is committed meanwhile, since no journal has their last rows: so
a process that is killed on a full disk goes on from before them, and a source that can gives them again; (3) of a live
source so many rows may wait, and the oldest chunk is dropped for more; another source is not read meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from nsstream.chunk import Chunk, ChunkStore, Fate
from nsstream.chunk.retention import Expiry, Retention, expire
from nsstream.clock import Clock
from nsstream.errors import OutputError

_log = logging.getLogger(__name__)


class ClosedChunks:
    """The stores of one state directory, and what waits for them.

    Args:
        state: holds ``chunks`` and ``apart``.
        retention: may be set anew, from any thread.
        most_rows: that may wait, of a live source; 0: nothing waits, what the disk refuses is lost at once.
        is_live: whether the source cannot wait.
        clock: for the age of chunks.
        commit: tells the journal of chunks that are about to appear; whether the disk took it.
        lose: counts a chunk that is lost.
        on_chunk: told of every chunk that is stored, not of rows apart.
    """

    def __init__(
        self,
        state: Path,
        retention: Retention,
        most_rows: int,
        clock: Clock,
        *,
        is_live: bool,
        commit: Callable[[Sequence[Chunk]], bool],
        lose: Callable[[Chunk], None],
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        self.store = ChunkStore(state / "chunks")
        self.apart = ChunkStore(state / "apart")
        self.retention = retention
        self._most_rows, self._is_live, self._clock = most_rows, is_live, clock
        self._commit, self._lose, self._on_chunk = commit, lose, on_chunk
        self._waiting: list[Chunk] = []
        self.chunk_count = 0  # stored
        self.apart_rows = 0  # of the late and future ones, those that were stored
        self.expired_count = 0

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for the disk, those apart among them."""
        return _rows_of(self._waiting)

    def waiting_of(self, start_ns: int) -> int:
        """How many chunks of an interval wait."""
        return sum(chunk.start_ns == start_ns for chunk in self._waiting)

    def put_away(self, chunks: list[Chunk]) -> list[Chunk]:
        """Store chunks, behind those that wait; gives those that need no journal any more: they are stored, or lost."""
        new, chunks = chunks, self._waiting + chunks
        self._waiting = []
        if not chunks:
            return []
        parts = [*chunks, *(rows for chunk in chunks for rows in chunk.apart)]
        refused = {part.id: err for part in parts if (err := self.prepare(part)) is not None}
        if refused and self._most_rows:
            return self._wait(chunks, new, next(iter(refused.values())))
        for part in parts:
            if part.id in refused:
                self._drop(part, refused[part.id])
        prepared = [part for part in parts if part.id not in refused]
        if not self._commit(prepared) and self._most_rows:
            return self._wait(chunks, new, OutputError("the journal cannot be written"))
        published: set[str] = set(refused)
        try:
            for part in prepared:
                self._appear(part)
                published.add(part.id)
        except OutputError as err:
            if not self._most_rows:
                raise
            left = [chunk for chunk in chunks if not {chunk.id, *(part.id for part in chunk.apart)} <= published]
            return [chunk for chunk in chunks if chunk not in left] + self._wait(left, new, err)
        if self.retention != Retention():
            self.expire()
        return chunks

    def prepare(self, chunk: Chunk) -> OutputError | None:
        """Make a chunk durable, out of sight; why not, where the disk refuses."""
        store = self.store if chunk.fate is Fate.KEPT else self.apart
        try:
            try:
                store.prepare(chunk)
            except OutputError:
                if not self.expire().expired:
                    raise
                store.prepare(chunk)
        except OutputError as err:
            return err
        return None

    def publish(self, chunk_id: str) -> bool:
        """Let a prepared chunk appear; whether there was one."""
        return self.store.publish(chunk_id) or self.apart.publish(chunk_id)

    def expire(self) -> Expiry:
        """Remove what is over the bounds."""
        if self.retention == Retention():
            return Expiry()
        try:
            done = expire(self.store, self.retention, self._clock.wall_ns(), apart=self.apart)
        except OutputError as err:
            _log.warning("chunks_not_expired error=%s", err)
            return Expiry()
        self.expired_count += len(done.expired)
        for judged in done.expired:
            _log.info("chunk_expired id=%s octets=%d reason=%s", judged.id, judged.octets, judged.reason)
        for judged in done.spared:
            _log.info("chunk_spared id=%s octets=%d reason=%s", judged.id, judged.octets, judged.reason)
        return done

    def _appear(self, part: Chunk) -> None:
        self.publish(part.id)
        _log.info("chunk_stored id=%s rows=%d", part.id, len(part.table))
        if part.fate is Fate.KEPT:
            self.chunk_count += 1
            self._on_chunk(part)
        else:
            self.apart_rows += len(part.table)

    def _wait(self, chunks: list[Chunk], new: list[Chunk], err: OutputError) -> list[Chunk]:
        """Keep chunks until the disk takes them, as far as there is room; gives those that are lost."""
        for chunk in new:
            _log.warning("chunk_waits id=%s rows=%d error=%s", chunk.id, len(chunk.table), err)
        lost = []
        while self._is_live and _rows_of(chunks) > self._most_rows:
            lost.append(chunks[0])
            for part in (chunks[0], *chunks[0].apart):
                self._drop(part, err)
            chunks = chunks[1:]
        self._waiting = chunks
        return lost

    def _drop(self, part: Chunk, err: OutputError) -> None:
        _log.warning("chunk_dropped id=%s rows=%d error=%s", part.id, len(part.table), err)
        self._lose(part)


def _rows_of(chunks: Sequence[Chunk]) -> int:
    return sum(len(part.table) for chunk in chunks for part in (chunk, *chunk.apart))
