"""Segmentation: TCP segments beyond the MTU, captured behind offload, as the segments that went over the wire.

Promises: the octets of payload stay as many, in the same order; all pieces but the last are as long as the MTU allows;
PSH and FIN stand on the last alone. The pieces have the time of the whole: the assembler sets them 1 ns apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.trace import ConversationTable
from nsstream.trace.conversations import CONVERSATION_FIELDS, PACKET_COLUMNS
from nsstream.trace.fields import FIN, PSH, RST, SYN, TCP


def segment_table(table: ConversationTable, mtu: int) -> tuple[ConversationTable, int]:
    """The table with segments of at most `mtu` octets a datagram, and how many were cut into several."""
    length = table.ip_total_length.astype(np.int64)
    header = table.ip_header_length.astype(np.int64) + table.tcp_header_length
    is_tcp = np.repeat((table.protocol_identifier == TCP) & (table.is_fragment == 0), table.packet_count)
    is_long = is_tcp & (length > mtu) & (header < mtu) & (table.control & (SYN | RST) == 0)
    if not is_long.any():
        return table, 0
    room = np.where(is_long, mtu - header, 1)
    pieces = np.where(is_long, -(-(length - header) // room), 1)
    columns = {name: np.repeat(getattr(table, name), pieces) for name in PACKET_COLUMNS}
    last = np.cumsum(pieces) - 1
    is_last = np.zeros(int(pieces.sum()), bool)
    is_last[last] = True
    total = np.repeat(np.where(is_long, mtu, length), pieces)
    total[last] = np.where(is_long, length - (pieces - 1) * room, length)
    columns["ip_total_length"] = total.astype(np.uint32)
    columns["control"] = np.where(is_last, columns["control"], columns["control"] & ~np.uint16(PSH | FIN))
    columns["control"] = np.where(np.repeat(is_tcp, pieces), columns["control"], np.repeat(table.control, pieces))
    offset: NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), np.cumsum(pieces)])[table.packet_offset]
    kept = {name: getattr(table, name) for name in CONVERSATION_FIELDS}
    return ConversationTable(packet_offset=offset, **kept, **columns), int(is_long.sum())
