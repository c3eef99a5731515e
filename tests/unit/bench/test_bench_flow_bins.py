"""Conversations as rows of bins, for baselines: what becomes of a row is such a conversation again."""

import sys
from pathlib import Path

import numpy as np
from made_flows import START_NS, made_flows

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

from bars.dp_flow_histogram import histogram_flows
from bars.flow_bins import bins_of, records_of

from nsstream.encode.flow_clients import group_by_client

INTERVAL = (START_NS, START_NS + 700 * 10**9)


def test_records_of_rows_have_the_bins_that_the_rows_say():
    flows = group_by_client(made_flows(count=200, labelled=False))
    told = bins_of(flows, INTERVAL)
    assert all(((values >= 0) & (values < size)).all() for values, size in told.values())
    rows = {name: values for name, (values, _) in told.items()}
    made = records_of(rows, len(flows), INTERVAL, np.random.default_rng(1))
    assert len(made) == len(flows.records)
    again = bins_of(group_by_client(made), INTERVAL)
    for name in ("service", "port", "start", "records", "answered"):
        assert np.array_equal(np.sort(again[name][0]), np.sort(rows[name])), name


def test_histograms_of_much_noise_and_of_none_are_lawful_and_as_many_as_they_say():
    table = made_flows(count=300, labelled=False)
    drawn = histogram_flows(table, INTERVAL, "flow", 50.0, 1e-5, 1)
    flows = group_by_client(table)
    assert 0.9 < len(group_by_client(drawn)) / len(flows) < 1.1
    loud = histogram_flows(table, INTERVAL, "host", 0.5, 1e-5, 64)
    for each in (drawn, loud):
        assert (each.packet_delta_count > 0).all()
        assert (each.flow_end_ns >= each.flow_start_ns).all()
        assert INTERVAL[0] <= each.flow_start_ns.min() <= each.flow_end_ns.max() < INTERVAL[1]
