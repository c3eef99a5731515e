"""A checkpoint that has learned nothing, and loads: for tests of what stands around it."""

from pathlib import Path

import torch
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.encode.codec import Codec
from nsstream.model.checkpoint import new_networks, save_checkpoint
from nsstream.model.trees import Trees


def blank_checkpoint(models: Path) -> Path:
    """Write one into a folder of checkpoints."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    codec = Codec.fit(made_table(count=72), START_NS, START_NS + MINUTE_NS)
    return save_checkpoint(models, new_networks().eval(), Trees.none(), codec, {"parent": None, "chunk": "none"})
