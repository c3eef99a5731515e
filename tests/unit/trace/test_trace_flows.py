from __future__ import annotations

import numpy as np
import pytest

from nsstream.trace import FlowTable
from nsstream.trace.fields import FLOW_FIELDS


def table(n: int, **columns: object) -> FlowTable:
    given = {k: np.full((n, *FLOW_FIELDS[k][1]), v, FLOW_FIELDS[k][0]) for k, v in columns.items()}
    plain = {
        "flow_start_ns": np.arange(n),
        "flow_end_ns": np.arange(n) + 5,
        "packet_delta_count": np.ones(n, np.uint64),
    }
    return FlowTable.from_columns(plain | given)


def test_columns_that_nobody_told_have_their_defaults() -> None:
    flows = table(3)
    assert flows.sampling_interval.tolist() == [1, 1, 1]
    assert flows.flow_direction.tolist() == [255] * 3
    assert flows.source_address.shape == (3, 16)


def test_columns_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        table(1).flow_end_ns[0] = 7


def test_a_flow_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        table(2, flow_end_ns=0)


def test_a_flow_without_a_packet_is_refused() -> None:
    with pytest.raises(ValueError, match="no packet"):
        table(1, packet_delta_count=0)
    assert len(table(1, packet_delta_count=0, reverse_packet_delta_count=1)) == 1


def test_a_column_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="vlan_id must be uint16"):
        FlowTable.from_columns(table(1).columns() | {"vlan_id": np.zeros(1, np.int64)})


def test_scaled_counts_multiply_both_directions_and_leave_the_raw_ones() -> None:
    flows = table(1, sampling_interval=1000, reverse_packet_delta_count=2, octet_delta_count=40)
    assert flows.scaled_packet_count.tolist() == [3000]
    assert flows.scaled_octet_count.tolist() == [40_000]
    assert flows.packet_delta_count.tolist() == [1]


def test_concatenation_joins_labels_by_name() -> None:
    one = FlowTable.from_columns(table(2).columns() | {"label": np.ones(2, np.uint16)}, ("scan",))
    two = FlowTable.from_columns(table(2).columns() | {"label": np.array([2, 0], np.uint16)}, ("dos", "scan"))
    both = FlowTable.concatenate([one, table(1), two])
    assert both.label_names == ("scan", "dos")
    assert both.label.tolist() == [1, 1, 0, 1, 0]


def test_no_tables_make_the_empty_one_and_rows_can_be_taken() -> None:
    assert len(FlowTable.concatenate([])) == 0
    assert table(5).take(slice(1, 3)).flow_start_ns.tolist() == [1, 2]
    with pytest.raises(ValueError, match="no name"):
        table(1, label=1)
