"""The replay server with what `echo_worker` learned by heart in place of a model: real conversations, made anew."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from nsstream.assemble import Assembler
from nsstream.chunk import read_chunk
from nsstream.replay.checkpoints import read_checkpoints
from nsstream.replay.server import main
from nsstream.replay.stream import FrameBlock, FrameStream, Merger, RecordedStream
from nsstream.trace.grouping import group_conversations


def open_stream(spec, scenario, *, loop, seed, framing, stopped) -> FrameStream:
    checkpoints = read_checkpoints(spec.models)
    assembler = Assembler(np.random.default_rng(seed), mtu=framing.mtu)
    merger = Merger()
    starts = [after.start_ns for _, after in pairwise(checkpoints)]
    blocks, open_before = [], None
    for number, (checkpoint, until_ns) in enumerate(zip(checkpoints, [*starts, None], strict=True), 1):
        manifest = json.loads((checkpoint.directory / "manifest.json").read_text())
        table, open_before = group_conversations(read_chunk(Path(manifest["chunk"])).packets, open_before)
        blocks.append(FrameBlock(number, checkpoint.id, merger.push(assembler.assemble(table), until_ns)))
    return RecordedStream(blocks)


if __name__ == "__main__":
    sys.exit(main(open_stream=open_stream))
