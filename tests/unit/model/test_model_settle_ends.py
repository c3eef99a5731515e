"""Settled ends: what lasts long starts early enough, and nothing else of a table changes."""

import numpy as np
import pytest
from made_flows import START_NS, made_flows

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import encode_flows
from nsstream.encode.flow_schema import FIELD_INDEX
from nsstream.model.settle_ends import settle_ends
from nsstream.model.settle_loads import CHANGED

END_NS = START_NS + 1400 * 10**9
DURATION = FIELD_INDEX["duration"]


@pytest.fixture(scope="module")
def flows():
    return group_flows(made_flows(count=600))


@pytest.fixture(scope="module")
def codec(flows):
    return FlowCodec.fit(flows, START_NS, END_NS)


@pytest.fixture
def fields(flows, codec):
    return encode_flows(flows, codec).fields.copy()


def lost_ns(fields, start_ns, codec):
    lasts = (codec.duration.usual() * codec.duration.quantum)[fields[:, DURATION]]
    return np.maximum(lasts - (codec.last_ns - start_ns), 0)


def late_starts(fields, codec, rng):
    """Starts of which the longest records have the last ones."""
    starts = np.sort(codec.last_ns - rng.exponential(3e9, len(fields)).astype(np.int64))
    lasts = codec.duration.usual()[fields[:, DURATION]]
    out = np.empty_like(starts)
    out[np.argsort(lasts, kind="stable")] = starts
    return out


def test_records_of_a_kind_change_sizes_until_they_end_in_time(fields, codec):
    rng = np.random.default_rng(1)
    starts, before = late_starts(fields, codec, rng), fields.copy()
    kind, was = rng.integers(0, 2, len(fields)), starts.copy()
    lost = lost_ns(fields, starts, codec)
    settle_ends(fields, kind, starts, np.zeros(len(fields), bool), codec)
    assert (lost > 0).sum() > 5
    assert lost_ns(fields, starts, codec).sum() < 0.1 * lost.sum()
    assert (starts == was).all()
    for k in (0, 1):
        mine = kind == k
        assert sorted(map(tuple, fields[mine][:, CHANGED])) == sorted(map(tuple, before[mine][:, CHANGED]))
    others = [i for i in range(fields.shape[1]) if i not in CHANGED]
    assert (fields[:, others] == before[:, others]).all()


def test_records_that_are_alone_and_like_no_other_change_starts(fields, codec):
    rng = np.random.default_rng(2)
    starts, before = late_starts(fields, codec, rng), fields.copy()
    was, is_alone = starts.copy(), rng.random(len(fields)) < 0.7
    lost = lost_ns(fields, starts, codec)
    settle_ends(fields, np.arange(len(fields)), starts, is_alone, codec)
    assert lost_ns(fields, starts, codec)[is_alone].sum() < 0.1 * lost[is_alone].sum()
    assert (fields == before).all()
    assert sorted(starts) == sorted(was)
    assert (starts == was)[~is_alone].all()


def test_nothing_changes_where_all_end_in_time(fields, codec):
    before, starts = fields.copy(), np.full(len(fields), START_NS)
    settle_ends(fields, np.zeros(len(fields), np.int64), starts, np.ones(len(fields), bool), codec)
    assert (fields == before).all()
    assert (starts == START_NS).all()
