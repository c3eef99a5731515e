"""Checkpoints of three minutes in a row that have learned nothing: what they draw is wild."""

import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_packets

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import sort_by_start
from nsstream.model.checkpoint import new_networks, save_checkpoint
from nsstream.model.trees import Trees
from nsstream.trace.grouping import group_conversations


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    torch.manual_seed(5)
    networks = new_networks()
    directory = tmp_path_factory.mktemp("models")
    before = codec = None
    made = []
    for minute in range(3):
        table, before = group_conversations(made_packets(seed=1, count=96, minute=minute), before)
        begin = START_NS + minute * MINUTE_NS
        codec = Codec.fit(sort_by_start(table), begin, begin + MINUTE_NS, codec)
        made.append(save_checkpoint(directory, networks, Trees.none(), codec, {"parent": None, "minute": minute}))
    return made
