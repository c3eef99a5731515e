"""ChunkWatch: every chunk that stands in the store is taken up by the queue, once, by start.

What is seen is what stands there: a chunk that was stored a moment before a kill is seen by the next process. A file
that is no chunk is left out, by name; one that expires meanwhile is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from nsstream.chunk import ChunkStore
from nsstream.errors import StateError
from nsstream.pipeline.ingest import count_conversations
from nsstream.pipeline.training_queue import DAMAGED, EXPIRED, SeenChunk, TrainingQueue

_log = logging.getLogger(__name__)


class ChunkWatch:
    """Looks at a store for a queue; `is_stopped` ends a look early."""

    def __init__(self, store: ChunkStore, queue: TrainingQueue, is_stopped: Callable[[], bool]) -> None:
        self._store, self._queue, self._is_stopped = store, queue, is_stopped
        self._seen: set[str] = set()

    def has_new(self) -> bool:
        """Whether chunks stand there that were not seen."""
        return bool(self._new_names())

    def look(self, *, fewest: int, most_waiting: int, on_seen: Callable[[], None]) -> None:
        """Take up what is new, and call `on_seen` after each chunk; raises OutputError where the ledger refuses."""
        new = self._new_names()
        names = self._queue.unseen(new)
        self._seen.update(set(new) - set(names))
        infos = []
        for name in names:
            try:
                info = self._store.info(name)
                if info.id != name:  # a copy: what it holds is learned, or forgotten, under its own name
                    raise StateError(f"{info.path} holds the chunk {info.id:.80}")
                infos.append(info)
            except StateError as err:
                self._leave_out(name, err)
        for info in sorted(infos, key=lambda info: (info.start_ns, len(info.id), info.id)):
            if self._is_stopped():
                return
            try:
                chunk = self._store.read(info.id)
                chunk.check_digest()
                conversations = count_conversations(chunk)
            except StateError as err:
                self._leave_out(info.id, err)
                continue
            self._queue.see(
                SeenChunk(
                    info.id, info.digest, info.start_ns, info.end_ns, str(info.kind), info.row_count, conversations
                ),
                fewest=fewest,
                most_waiting=most_waiting,
            )
            self._seen.add(info.id)
            on_seen()

    def lack_of(self, chunk_ids: Iterable[str]) -> str | None:
        """Why chunks cannot be learned, None where they are there and whole."""
        for chunk_id in chunk_ids:
            try:
                self._store.read(chunk_id).check_digest()
            except StateError:
                return DAMAGED if self._store.path_of(chunk_id).exists() else EXPIRED
        return None

    def _new_names(self) -> list[str]:
        names = [path.stem for path in self._store.directory.glob("*.arrow")]
        self._seen.intersection_update(names)
        return [name for name in names if name not in self._seen]

    def _leave_out(self, name: str, err: StateError) -> None:
        if not self._store.path_of(name).exists():  # it expired meanwhile
            return
        _log.warning("chunk_left_out id=%s error=%s", name, err)
        self._queue.leave_out(name, DAMAGED)
        self._seen.add(name)
