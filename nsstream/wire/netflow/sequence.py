"""Sequence numbers: how much each exporter is estimated to have sent that never came.

The sequence number counts flow records in v5, datagrams in v9, data records in IPFIX (RFC 3954 5.1, RFC 7011 3.1). A
gap forward counts as lost; a message that comes late then takes back what it carries. A jump beyond the window, either
way, or an uptime that steps back, is a restart: counting starts anew and nothing counts as lost. An exporter that
counts in another way (softflowd's IPFIX counts a message's own records before it sends the number) steps forth and back
by less than a message; its gaps cancel out.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.wire.netflow import messages, state

WINDOW: Final = 100_000
UNKNOWN_UNITS: Final = -1  # an IPFIX message holds data whose template is not known
_UPTIME_BACK_MS: Final = 60_000  # reordered messages step back less
_HALF: Final = 1 << 31


@njit(cache=True)
def follow_sequence(
    message_facts: NDArray[np.int64],
    units: NDArray[np.int64],
    slot_of_message: NDArray[np.int64],
    session_facts: NDArray[np.int64],
) -> None:
    """Take the messages of a batch, in order, into the table of state; `units`: what each adds to the number."""
    for m in range(len(message_facts)):
        if message_facts[m, messages.VERSION] == 0:
            continue
        row = session_facts[slot_of_message[m]]
        row[state.DATAGRAMS] += 1
        row[state.LAST_SEEN_NS] = max(row[state.LAST_SEEN_NS], message_facts[m, messages.RECEIVE_NS])
        uptime_ms = message_facts[m, messages.UPTIME_MS]
        sequence = message_facts[m, messages.SEQUENCE]
        gap = np.int64(0)
        if row[state.EXPECTED] != state.UNKNOWN:
            gap = ((sequence - row[state.EXPECTED] + _HALF) & 0xFFFFFFFF) - _HALF
            back_ms = row[state.UPTIME_MS] - uptime_ms
            has_restarted = uptime_ms != messages.NO_UPTIME and _UPTIME_BACK_MS < back_ms < _HALF
            if has_restarted or abs(gap) > WINDOW:
                row[state.RESETS] += 1
                gap = np.int64(0)
        if gap < 0 and -gap >= units[m]:  # late
            row[state.LOST] = max(0, row[state.LOST] - max(0, units[m]))
            continue
        row[state.LOST] = max(0, row[state.LOST] + gap)
        row[state.UPTIME_MS] = uptime_ms
        row[state.SAMPLING] = message_facts[m, messages.SAMPLING]
        if units[m] == UNKNOWN_UNITS:
            row[state.EXPECTED] = state.UNKNOWN
        else:
            row[state.EXPECTED] = (sequence + units[m]) & 0xFFFFFFFF
