"""Rolling intervals on the UTC grid: packets in, immutable chunk files out.

`Chunker` lets rows fall into intervals and closes them by watermark; `ChunkStore` keeps closed chunks as Arrow IPC
files that pandas, Polars and DuckDB open. `whole_file` is how everything here (and in `pipeline`) reaches the disk.
"""

from nsstream.chunk.chunker import Chunk, Chunker
from nsstream.chunk.interval import Grid
from nsstream.chunk.store import ChunkInfo, ChunkStore, read_chunk
from nsstream.chunk.whole_file import whole_file

__all__ = ["Chunk", "ChunkInfo", "ChunkStore", "Chunker", "Grid", "read_chunk", "whole_file"]
