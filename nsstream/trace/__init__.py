"""Columns: packets, flows, conversations, and the steps from the one to the other.

`PacketBatch` and `FlowTable` are what sources yield; `ConversationTable` is what models learn and draw.
"""

from nsstream.trace.conversations import ConversationTable, TcpEvent
from nsstream.trace.flows import FlowEndReason, FlowTable, TimeQuality
from nsstream.trace.packets import PacketBatch

__all__ = ["ConversationTable", "FlowEndReason", "FlowTable", "PacketBatch", "TcpEvent", "TimeQuality"]
