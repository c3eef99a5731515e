"""Many exporters, domains and templates in one batch: read as one datagram after the other."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from made_exports import BASE, EXPORTER, NOW_NS, arrays, data_set, ipfix, record, template_set, v5, v5_record, v9

from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder
from nsstream.wire.netflow.alike import MOST_KINDS, kinds_of

S = 10**9


def test_equal_rows_are_of_one_kind_and_those_left_out_of_none() -> None:
    rows = np.array([[1, 2], [3, 4], [1, 2], [1, 3], [3, 4]], np.uint64)
    found = kinds_of(rows, np.array([False, False, False, True, False]))
    assert found is not None
    assert (found[0].tolist(), found[1].tolist()) == ([0, 1, 0, -1, 1], [2, 4])
    nothing = kinds_of(rows[:0], np.zeros(0, np.bool_))
    assert nothing is not None
    assert (len(nothing[0]), len(nothing[1])) == (0, 0)


@pytest.mark.parametrize("count", [MOST_KINDS, MOST_KINDS + 1])
def test_kinds_are_found_up_to_a_number(count: int) -> None:
    found = kinds_of(np.arange(count, dtype=np.uint64).reshape(-1, 1), np.zeros(count, np.bool_))
    assert (found is not None) == (count == MOST_KINDS)


@pytest.mark.parametrize("count", [3, MOST_KINDS, 3 * MOST_KINDS])
def test_exporters_that_send_in_turn_are_read_as_one_by_one(count: int) -> None:
    exporters = [bytes(10) + b"\xff\xff" + socket.inet_aton(f"192.0.{i // 256}.{i % 256}") for i in range(count)]
    announced = [v9(template_set(9, 256 + i % 5, BASE), source_id=i) for i in range(count)]
    sent = [
        v5(v5_record(), sequence=i)
        if i % 7 == 0
        else v9(
            *([template_set(9, 256 + i % 5, BASE)] if i % 3 == 0 else []),
            data_set(256 + i % 5, record(BASE, {7: i})),
            source_id=i,
            sequence=1,
        )
        for i in range(count)
    ] * 2
    whole, apart = ExportDecoder(), ExportDecoder()
    for decoder in (whole, apart):
        decoder.decode(*arrays(announced, exporters))
    together = whole.decode(*arrays(sent, exporters * 2))
    rows = [apart.decode(*arrays([sent[i]], [exporters[i % count]])) for i in range(2 * count)]
    for name, column in FlowTable.concatenate(rows).columns().items():
        np.testing.assert_array_equal(getattr(together, name), column, err_msg=name)
    assert len(together) == 2 * count
    assert whole.tally == apart.tally
    assert whole.exporters == apart.exporters


def test_a_template_that_comes_again_among_data_is_renewed() -> None:
    decoder = ExportDecoder(template_lifetime_s=100)
    data = ipfix(data_set(256, record(BASE)))
    again = ipfix(template_set(10, 256, BASE), data_set(256, record(BASE)))
    rows = []
    for at_s, message in ((0, again), (90, again), (180, data), (191, data)):
        rows.append(len(decoder.decode(*arrays([message, data], [EXPORTER] * 2, [NOW_NS + at_s * S] * 2))))
        decoder.tally.check()
    assert rows == [2, 2, 2, 0]
