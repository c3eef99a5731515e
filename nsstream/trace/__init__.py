"""Columns: packets, conversations, and the step from the one to the other.

`PacketBatch` is what every source yields; `ConversationTable` is what models learn and draw.
"""

from nsstream.trace.conversations import ConversationTable, TcpEvent
from nsstream.trace.packets import PacketBatch

__all__ = ["ConversationTable", "PacketBatch", "TcpEvent"]
