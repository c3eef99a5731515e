"""A table that was written in the form of the one that was read is read as the same flows."""

import io
from pathlib import Path

import numpy as np
import pytest
from flow_tables import TABLES
from made_flows import made_flows

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.flow_table_file import FlowTableWriter, is_writable, one_way, preset_columns
from nsstream.trace import FlowTable

WRITABLE = sorted(name for name, preset in PRESETS.items() if is_writable(preset))


def read(path: Path, mapping: TableMapping | None = None) -> tuple[FlowTable, FlowCsvSource]:
    source, tables = FlowCsvSource(path, mapping=mapping), []
    source.open()
    while (batch := source.read_batch()) is not None:
        tables.append(batch)
    source.close()
    return FlowTable.concatenate(tables), source


@pytest.mark.parametrize("name", WRITABLE)
def test_what_was_read_is_read_again(name: str, tmp_path: Path):
    first, again = tmp_path / "first.csv", tmp_path / "again.csv"
    first.write_text(TABLES[name])
    table, source = read(first, PRESETS[name])
    with again.open("wb") as file:
        assert FlowTableWriter(file, source.mapping, source.header).write(table) == len(table)
    found, reader = read(again, PRESETS[name])
    assert not reader.tally.malformed
    assert not reader.tally.unsupported
    for column, values in table.columns().items():
        if column != "label":
            np.testing.assert_array_equal(getattr(found, column), values, err_msg=column)
    names = [("", *t.label_names) for t in (table, found)]
    assert [names[0][code] for code in table.label] == [names[1][code] for code in found.label]


@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(WRITABLE)))
def test_other_forms_become_plain_and_lose_no_packet(name: str, tmp_path: Path):
    first, again = tmp_path / "first.csv", tmp_path / "again.csv"
    first.write_text(TABLES[name])
    table, source = read(first, PRESETS[name])
    with again.open("wb") as file:
        lines = FlowTableWriter(file, source.mapping, source.header).write(table)
    found, reader = read(again)
    assert reader.mapping.name == "plain"
    assert len(found) == lines
    assert found.scaled_packet_count.sum() == table.scaled_packet_count.sum()
    assert found.scaled_octet_count.sum() == table.scaled_octet_count.sum()


def test_a_form_of_one_direction_has_both_of_a_table_that_has_them(tmp_path: Path):
    first, path = tmp_path / "first.csv", tmp_path / "plain.csv"
    first.write_text(TABLES["luflow"])
    table, _ = read(first, PRESETS["luflow"])
    assert table.reverse_packet_delta_count.any()
    with path.open("wb") as file:
        lines = FlowTableWriter(file, PRESETS["plain"], preset_columns(PRESETS["plain"])).write(table)
    found, _ = read(path)
    assert len(found) == lines
    assert found.packet_delta_count.sum() == (table.packet_delta_count + table.reverse_packet_delta_count).sum()
    assert found.octet_delta_count.sum() == (table.octet_delta_count + table.reverse_octet_delta_count).sum()


def test_a_preset_without_a_file_has_all_its_columns(tmp_path: Path):
    table = made_flows()
    for name in WRITABLE:
        columns = preset_columns(PRESETS[name])
        assert PRESETS[name].columns() <= set(columns)
        path = tmp_path / f"{name}.csv"
        with path.open("wb") as file:
            FlowTableWriter(file, PRESETS[name], columns).write(table)
        found, _ = read(path, PRESETS[name])
        assert len(found) == len(table)


def test_columns_that_nothing_says_are_left_out():
    file = io.BytesIO()
    writer = FlowTableWriter(file, PRESETS["luflow"], ("entropy", *preset_columns(PRESETS["luflow"]), "duration"))
    assert "entropy" not in writer.columns
    assert writer.columns[-1] == "duration"


def test_both_directions_become_two_records():
    table = made_flows()
    columns = table.columns()
    columns["reverse_packet_delta_count"] = np.full(len(table), 3, np.uint64)
    columns["reverse_octet_delta_count"] = np.full(len(table), 300, np.uint64)
    split = one_way(FlowTable.from_columns(columns, table.label_names))
    assert len(split) == 2 * len(table)
    assert not split.reverse_packet_delta_count.any()
    assert (np.diff(split.flow_start_ns) >= 0).all()
    assert split.octet_delta_count.sum() == table.octet_delta_count.sum() + 300 * len(table)
