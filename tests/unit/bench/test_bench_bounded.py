"""Bounding alone: of each host at most so many conversations, whole, and all of those who have no more."""

import sys
from pathlib import Path

import numpy as np
import pytest
from made_flows import made_flows

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from bars.bounded import bounded_flows, bounded_packets
from bars.traces import lab_capture

from nsstream.capture import PcapFileSource
from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.trace.grouping import group_conversations


@pytest.fixture(scope="module")
def lab_packets():
    """The first of the bundled capture's."""
    with lab_capture() as path:
        source = PcapFileSource(path)
        source.open()
        batch = source.read_batch()
        source.close()
    assert batch is not None
    return batch.take(np.arange(min(len(batch), 8000)))


@pytest.mark.parametrize("most", [1, 3, 10_000])
def test_packets_are_those_of_at_most_so_many_conversations_of_each_host(lab_packets, most):
    table = group_conversations(lab_packets)[0]
    kept = bounded_packets(lab_packets, table, most)
    left = group_conversations(kept)[0]
    had, has = (np.unique(t.initiator_address, axis=0, return_counts=True) for t in (table, left))
    np.testing.assert_array_equal(had[0], has[0])
    np.testing.assert_array_equal(np.minimum(had[1], most), has[1])
    assert set(left.packet_count.tolist()) <= set(table.packet_count.tolist())


@pytest.mark.parametrize("most", [1, 3, 10_000])
def test_records_are_those_of_at_most_so_many_conversations_of_each_client(most):
    table = made_flows(count=400)
    had, has = (group_by_client(t) for t in (table, bounded_flows(table, most)))
    (hosts, before), (others, after) = (np.unique(unit_keys(f, "host"), axis=0, return_counts=True) for f in (had, has))
    np.testing.assert_array_equal(hosts, others)
    np.testing.assert_array_equal(np.minimum(before, most), after)
