"""A chunk as it is learned: its conversations by start, with mapped addresses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nsstream.chunk import ChunkStore
from nsstream.encode.address_map import AddressMap
from nsstream.encode.encoding import sort_by_start
from nsstream.trace import ConversationTable
from nsstream.trace.grouping import group_conversations
from nsstream.train.job import AddressMapConfig


def load_conversations(
    path: Path, before_path: Path | None, settings: AddressMapConfig
) -> tuple[str, ConversationTable, int, int]:
    """The chunk's id, its conversations by start with mapped addresses, and its interval.

    `before_path` is the chunk before, whose open conversations go on in this one. Raises StateError where either cannot
    be read, or does not hold packets.
    """
    chunk_id, table, start_ns, end_ns = load_real_conversations(path, before_path)
    return chunk_id, with_mapped_addresses(table, settings), start_ns, end_ns


def load_real_conversations(path: Path, before_path: Path | None) -> tuple[str, ConversationTable, int, int]:
    """As `load_conversations`, with the addresses that the packets had."""
    chunk = ChunkStore(path.parent).read(path)
    before = None
    if before_path:
        _, before = group_conversations(ChunkStore(before_path.parent).read(before_path).packets)
    table, _ = group_conversations(chunk.packets, before)
    return chunk.id, sort_by_start(table), chunk.start_ns, chunk.end_ns


def with_mapped_addresses(table: ConversationTable, settings: AddressMapConfig) -> ConversationTable:
    """The same conversations, in the same order, with mapped addresses."""
    addresses = AddressMap(bytes.fromhex(settings.key_hex), settings.ipv4_range, settings.ipv6_range)
    return dataclasses.replace(
        table,
        initiator_address=addresses.map(table.initiator_address),
        responder_address=addresses.map(table.responder_address),
    )
