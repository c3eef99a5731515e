"""A checkpoint that has learned nothing, and loads: for tests of what stands around it."""

from contextlib import closing
from pathlib import Path

import torch
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.encode.codec import Codec
from nsstream.model.checkpoint import new_networks, save_checkpoint
from nsstream.model.trees import Trees
from nsstream.replay.framing import Framing
from nsstream.replay.scenario import ModelSpec, Scenario
from nsstream.replay.stream import open_stream


def blank_checkpoint(models: Path) -> Path:
    """Write one into a folder of checkpoints."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    codec = Codec.fit(made_table(count=72), START_NS, START_NS + MINUTE_NS)
    return save_checkpoint(models, new_networks().eval(), Trees.none(), codec, {"parent": None, "chunk": "none"})


def drawn_checkpoint(models: Path) -> Path:
    """The same, drawn and assembled once, so that whoever draws it next finds the machine code that this needs."""
    model = blank_checkpoint(models)
    with closing(open_stream(ModelSpec(model=str(model)), Scenario(), 0, Framing())) as stream:
        assert stream.read() is not None
    return model
