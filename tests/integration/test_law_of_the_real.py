"""The law of packet kinds, held against what real hosts did: what it forbids of that, no twin can ever show."""

import os
from pathlib import Path

import nsstream_daemon
import numpy as np
import pytest

from nsstream.capture import PcapFileSource
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import allowed_kinds, encode, sort_by_start
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.lawful import allow, begin_law, kind_rules, law_budget, say
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations

LAB = Path(nsstream_daemon.__file__).parent / "data/lab.pcap.xz"
TRACES = Path(os.environ.get("NSSTREAM_TEST_TRACES", "")) / "packets"
LONGEST = 400  # packets of a conversation that are looked at


def forbidden_share(path):
    """The share of a trace's packets that the law would not let through, each judged after the real ones before."""
    source = PcapFileSource(path)
    source.open()
    batches = []
    while (batch := source.read_batch()) is not None:
        batches.append(batch)
    source.close()
    table = sort_by_start(group_conversations(PacketBatch.concatenate(batches))[0])
    codec = Codec.fit(table, int(table.observation_time_ns.min()), int(table.observation_time_ns.max()) + 1)
    tokens = encode(table, codec)
    total = np.diff(tokens.packet_offset)
    order = np.argsort(-total, kind="stable")
    total, begin, attributes = total[order], tokens.packet_offset[:-1][order], tokens.attributes[order]
    is_silent = codec.ttl.table()[attributes[:, ATTRIBUTE_INDEX["ttl"]]][:, [0, -1]] == 0
    continues = attributes[:, ATTRIBUTE_INDEX["continues_from_before"]] > 0
    allowed = allowed_kinds(codec)[tokens.stack[order]]
    rules, rows = kind_rules(codec.kind.table(), codec.endings), begin_law(continues, is_silent)
    budget = law_budget(codec.endings, np.array(codec.endings.events))
    may = np.zeros(allowed.shape[1], np.bool_)
    forbidden = seen = 0
    for step in range(min(int(total[0]), LONGEST)):
        n = int(np.searchsorted(-total, -step, side="left"))
        kinds = tokens.kind[begin[:n] + step]
        for i, kind in enumerate(kinds.tolist()):
            allow(rules, rows[i], int(total[i]) - step - 1, budget, allowed[i], may)
            forbidden += not may[kind]
            say(rules, rows[i], budget, kind)
        seen += n
    return forbidden / seen


def test_the_law_forbids_almost_nothing_that_the_lab_did():
    assert forbidden_share(LAB) < 0.01


@pytest.mark.skipif(not TRACES.is_dir(), reason="the real traces are not here")
@pytest.mark.parametrize("path", sorted(TRACES.glob("*.pcap.xz")), ids=lambda path: path.name)
def test_the_law_forbids_almost_nothing_that_real_hosts_did(path):
    assert forbidden_share(path) < 0.01
