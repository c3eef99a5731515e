"""PacketBatch and ConversationTable: exact columns, of one length, that nobody writes to."""

import numpy as np
import pytest
from made_traffic import batch_of, made_packets, made_table, packet

from nsstream.trace import ConversationTable, PacketBatch
from nsstream.trace.conversations import CONVERSATION_FIELDS, PACKET_COLUMNS
from nsstream.trace.fields import PACKET_FIELDS


@pytest.mark.parametrize("name", PACKET_FIELDS)
def test_a_batch_refuses_a_column_of_another_type(name):
    columns = PacketBatch.empty(3).columns()
    with pytest.raises(ValueError, match=f"{name} must be "):
        PacketBatch.from_columns(columns | {name: columns[name].astype(np.float32)})


@pytest.mark.parametrize("name", [name for name in PACKET_FIELDS if name != "observation_time_ns"])
def test_a_batch_refuses_a_column_of_another_length(name):
    columns = PacketBatch.empty(3).columns()
    with pytest.raises(ValueError, match=f"{name} must be "):
        PacketBatch.from_columns(columns | {name: columns[name][:2]})


def test_a_batch_refuses_addresses_that_are_not_sixteen_octets():
    columns = PacketBatch.empty(3).columns()
    with pytest.raises(ValueError, match="source_address must be "):
        PacketBatch.from_columns(columns | {"source_address": np.zeros((3, 4), np.uint8)})


def test_a_batch_needs_every_column():
    columns = PacketBatch.empty(3).columns()
    del columns["vlan_id"]
    with pytest.raises(TypeError, match="vlan_id"):
        PacketBatch.from_columns(columns)


def test_nobody_writes_to_a_batch():
    for name, column in made_packets().columns().items():
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0
        assert column.dtype == PACKET_FIELDS[name][0]


@pytest.mark.parametrize(
    ("rows", "times"),
    [
        (np.array([2, 0, 0]), [3, 1, 1]),
        (np.array([False, True, True]), [2, 3]),
        (slice(1, None), [2, 3]),
        (slice(0, 0), []),
    ],
)
def test_a_batch_takes_rows_by_index_mask_or_slice(rows, times):
    batch = batch_of(packet(t) for t in (1, 2, 3))
    taken = batch.take(rows)
    assert len(taken) == len(times)
    assert taken.observation_time_ns.tolist() == batch_of(packet(t) for t in times).observation_time_ns.tolist()


def test_concatenated_batches_are_all_rows_in_order():
    batch = made_packets()
    parts = [batch.take(slice(i, i + 17)) for i in range(0, len(batch), 17)]
    whole = PacketBatch.concatenate(parts)
    for name, column in batch.columns().items():
        np.testing.assert_array_equal(getattr(whole, name), column)
    assert len(PacketBatch.concatenate([])) == 0
    assert PacketBatch.concatenate([batch]) is batch


@pytest.mark.parametrize("name", [*CONVERSATION_FIELDS, *PACKET_COLUMNS, "packet_offset"])
def test_a_table_refuses_a_column_of_another_type_or_length(name):
    columns = made_table().columns()
    for wrong in (columns[name].astype(np.float64), columns[name][:-1]):
        with pytest.raises(ValueError, match=" must "):
            ConversationTable(**columns | {name: wrong})


@pytest.mark.parametrize("change", [(0, 1), (1, 0), (-1, -1), (2, 100_000)])
def test_a_table_refuses_offsets_that_leave_a_conversation_without_packets_or_a_packet_without_one(change):
    columns = made_table().columns()
    offset = columns["packet_offset"].copy()
    where, value = change
    offset[where] = value
    with pytest.raises(ValueError, match="packet_offset must rise"):
        ConversationTable(**columns | {"packet_offset": offset})


def test_nobody_writes_to_a_table():
    for column in made_table().columns().values():
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


def test_a_table_takes_conversations_with_their_packets():
    table = made_table()
    rows = np.array([5, 0, 5, len(table) - 1])
    taken = table.take(rows)
    assert taken.packet_count.tolist() == table.packet_count[rows].tolist()
    for i, row in enumerate(rows):
        for name in CONVERSATION_FIELDS:
            np.testing.assert_array_equal(getattr(taken, name)[i], getattr(table, name)[row])
        for name in PACKET_COLUMNS:
            mine = getattr(taken, name)[taken.packet_offset[i] : taken.packet_offset[i + 1]]
            np.testing.assert_array_equal(
                mine, getattr(table, name)[table.packet_offset[row] : table.packet_offset[row + 1]]
            )


def test_a_table_may_be_taken_to_nothing():
    assert len(made_table().take(np.zeros(0, np.int64))) == 0
