"""Blend: whole conversations of an attack, as many as make up a share of all packets in the long run.

A conversation is taken while packets are owed; the last one taken may be longer than what is owed, and then later ones
wait. So the share is met over time whatever the lengths, and no conversation is cut.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from nsstream.replay.scenario import Attack
from nsstream.replay.streams.line import Line, starts_of
from nsstream.trace import ConversationTable

SPARE: Final = 1.25  # conversations drawn for one that is expected to be needed
MOST_FLOWS: Final = 100.0  # attack conversations for one of its model's
LEAST_FLOWS: Final = 0.001
MOST_OWED: Final = 16.0  # times what one batch owes: what cannot be met is not made up for later all at once


class Blend:
    """Gives the attack's conversations.

    Args:
        attack: share and name.
        line: of the attack's model, which has no end.
        packets_per_ns: what the attack's own chunk has.
        seed: of the choice.

    Attributes:
        tally: `attack_flows`, those taken; `attack_flows_spared`, drawn and not needed.
    """

    def __init__(self, attack: Attack, line: Line, packets_per_ns: float, seed: int) -> None:
        self.tally: Counter[str] = Counter()
        self.line = line
        self._ratio = attack.share / (1 - attack.share)
        self._packets_per_ns = packets_per_ns
        self._rng = np.random.default_rng([seed, 3])
        self._owed = 0.0

    def take(self, since_ns: int, until_ns: int, packet_count: int) -> ConversationTable:
        """Conversations that start in [since_ns, until_ns), to go with so many packets of others."""
        due = self._ratio * packet_count
        self._owed = min(self._owed + due, MOST_OWED * max(due, 1.0))
        needed = max(self._owed, 0.0) / max(until_ns - since_ns, 1)
        self.line.flows = min(max(SPARE * needed / self._packets_per_ns, LEAST_FLOWS), MOST_FLOWS)
        found = self.line.take(until_ns)
        is_now = starts_of(found) >= since_ns  # the attack goes on where others have a gap, but is not seen there
        self.tally["attack_flows_spared"] += int(np.count_nonzero(~is_now))
        found = found.take(np.flatnonzero(is_now))
        order = self._rng.permutation(len(found))
        counts = found.packet_count[order]
        taken = np.sort(order[np.cumsum(counts) - counts < self._owed])
        self.tally["attack_flows"] += len(taken)
        self.tally["attack_flows_spared"] += len(found) - len(taken)
        return found.take(taken)

    def settle(self, packet_count: int) -> None:
        """So many packets of the attack were made."""
        self._owed -= packet_count

    def seek(self, time_ns: int) -> None:
        """Go on at this time, owing nothing."""
        self.line.seek(time_ns)
        self._owed = 0.0
