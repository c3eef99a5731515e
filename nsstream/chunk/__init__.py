"""Rolling intervals on the UTC grid: packets or flows in, immutable chunk files out.

`Chunker` lets rows fall into intervals and closes them by watermark; `ChunkStore` keeps closed chunks as Arrow IPC
files that pandas, Polars and DuckDB open. `whole_file` is how everything here (and in `pipeline`) reaches the disk.
"""

from nsstream.chunk.chunk import Chunk
from nsstream.chunk.chunk_file import ChunkInfo, read_chunk
from nsstream.chunk.chunker import Chunker
from nsstream.chunk.interval import Grid
from nsstream.chunk.rows import Fate, Kind, Rows
from nsstream.chunk.sampling import UNLIMITED, ChunkLimits
from nsstream.chunk.store import ChunkStore
from nsstream.chunk.whole_file import whole_file

__all__ = [
    "UNLIMITED",
    "Chunk",
    "ChunkInfo",
    "ChunkLimits",
    "ChunkStore",
    "Chunker",
    "Fate",
    "Grid",
    "Kind",
    "Rows",
    "read_chunk",
    "whole_file",
]
