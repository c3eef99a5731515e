"""The gatherer of a seed: one process, some captures, one chunk. ``python -m nsstream.pipeline.seed_worker``.

stdin: one JSON object (captures, out). stdout: JSON lines, ``progress`` for each capture, then ``done`` (chunk,
packets) or ``error`` (message). Exit status 0 or 1. It is a process of its own because captures come from elsewhere:
what they take, and what is wrong with them, is no matter of the daemon's.

Captures are cut into minutes of the UTC grid, of each its first ones until it has its share of `MOST_PACKETS`. The
minutes of all follow one another without a gap, from the first one's time on, so that captures of different years are
one chunk; nothing else of them is changed.
"""

from __future__ import annotations

import json
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from nsstream.chunk import Chunk, ChunkLimits, ChunkStore
from nsstream.chunk.interval import SECOND_NS
from nsstream.errors import NsstreamError
from nsstream.pipeline.ingest import import_trace, merge_chunks, survey_trace
from nsstream.pipeline.plan import MOST_PACKETS
from nsstream.trace import PacketBatch

MINUTE_S: Final = 60
MOST_MINUTE_PACKETS: Final = 4 * MOST_PACKETS  # beyond, conversations are sampled


def main() -> int:
    """Do the job on stdin."""
    try:
        told = json.load(sys.stdin)
        path, packets = gather([Path(capture) for capture in told["captures"]], Path(told["out"]))
        _say(event="done", chunk=str(path), packets=packets)
    except NsstreamError as err:
        _say(event="error", message=str(err))
        return 1
    except Exception as err:
        traceback.print_exc()
        _say(event="error", message=f"the gatherer failed: {type(err).__name__}: {err}")
        return 1
    return 0


def gather(captures: Sequence[Path], out: Path) -> tuple[Path, int]:
    """Make one chunk of captures in the folder `out`, which is emptied first; gives its file and its packets.

    Raises InputError where a capture is none or holds no packet, OutputError where there is no room.
    """
    shutil.rmtree(out, ignore_errors=True)
    moved: list[Chunk] = []
    for number, minute in enumerate(_minutes(captures, out / "minutes")):
        at_ns = moved[-1].end_ns if number else minute.start_ns
        moved.append(_moved(minute, at_ns))
    chunk = merge_chunks(moved)
    path = ChunkStore(out).write(chunk)
    shutil.rmtree(out / "minutes", ignore_errors=True)
    return path, len(chunk.table)


def _minutes(captures: Sequence[Path], place: Path) -> Iterator[Chunk]:
    """The first minutes of each capture."""
    limits = ChunkLimits(
        chunk_rows=MOST_MINUTE_PACKETS, open_rows=2 * MOST_MINUTE_PACKETS, apart_rows=0, apart_octets=0
    )
    for number, capture in enumerate(captures):
        _say(event="progress", stage="gather", step=number + 1)
        store = ChunkStore(place / str(number))
        found = import_trace(
            capture, store, length_s=MINUTE_S, disorder_ns=survey_trace(capture).disorder_ns,
            most_packets=max(1, MOST_PACKETS // len(captures)), limits=limits,
        )  # fmt: skip
        for info in found:
            yield store.read(info.path)


def _moved(chunk: Chunk, start_ns: int) -> Chunk:
    """A chunk of packets as if it had begun at another time."""
    columns: dict[str, Any] = dict(chunk.packets.columns())
    columns["observation_time_ns"] = columns["observation_time_ns"] + (start_ns - chunk.start_ns)
    rows = PacketBatch.from_columns(columns)
    end_ns = start_ns + MINUTE_S * SECOND_NS
    return Chunk.of(start_ns, end_ns, rows, chunk.tally, is_partial=chunk.is_partial)


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
