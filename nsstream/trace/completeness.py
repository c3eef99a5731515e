"""Completeness: how much of a TCP connection's life a conversation's packets show, as Wireshark's `tcp.completeness`.

A sum of what was seen: SYN 1, SYN|ACK 2, an ACK without SYN 4, data 8, FIN 16, RST 32; so 31 is a whole connection that
was closed, 63 one that was reset behind that, 37 a port that is closed (SYN, RST|ACK).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.fields import ACK, FIN, RST, SYN

COMPLETENESS: Final = 64  # values


def completeness_of_packets(control: NDArray[np.integer], has_data: NDArray[np.bool_]) -> NDArray[np.int64]:
    """What each TCP segment adds, from its flags and from whether it has payload: (m,)."""
    is_syn, has_ack = control & SYN > 0, control & ACK > 0
    return (
        (is_syn & ~has_ack) * np.int64(1)
        | (is_syn & has_ack) * np.int64(2)
        | (~is_syn & has_ack) * np.int64(4)
        | has_data * np.int64(8)
        | (control & FIN > 0) * np.int64(16)
        | (control & RST > 0) * np.int64(32)
    )


def completeness_of(packet_offset: NDArray[np.int64], of_packets: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the packets of n conversations, packet_offset[i]:packet_offset[i + 1] of them, show together: (n,)."""
    if not len(packet_offset) - 1:
        return np.zeros(0, np.int64)
    shown: NDArray[np.int64] = np.bitwise_or.reduceat(of_packets, packet_offset[:-1])
    return shown
