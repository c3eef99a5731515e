"""TcpLaw: which packet kinds a TCP conversation may show next, so that nothing unlawful is ever drawn.

Rules (RFC 9293), kept for all conversations at once as columns:
- A conversation that opens with SYN shows, until it is answered, only SYN again from the same side, or SYN|ACK or RST
  from the other; after SYN|ACK, no SYN|ACK from the other side, and data from the initiator only with ACK.
- No SYN once a handshake is over, or where the conversation is met midstream.
- A side that has sent FIN sends no more octets and no second FIN; after RST only RST and bare ACKs.
- A bare ACK that acknowledges something new needs octets (or SYN or FIN) of the other side that are not yet
  acknowledged; each takes at least one segment's worth. A keep-alive's ACK needs a keep-alive.

A conversation that the law leaves no kind for may say what its stack allows; `assemble` repairs and counts that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.conversations import TcpEvent
from nsstream.trace.fields import ACK, FIN, RST, SYN

_NEW, _SYN, _SYN_ACK, _OPEN, _RESET = range(5)


class TcpLaw:
    """The state of n conversations; other protocols pass unhindered.

    Args:
        kinds: (k, 7) the codec's table of packet kinds.
        n: conversations; later calls may pass the first n' <= n only.
    """

    def __init__(self, kinds: NDArray[np.int64], n: int) -> None:
        flags = kinds[:, 2]
        self._is_tcp = kinds[:, 0] % 3 == 1
        self._side = np.clip(kinds[:, 1], 0, 1)
        self._has_syn = self._is_tcp & (flags & SYN > 0)
        self._has_fin = self._is_tcp & (flags & FIN > 0)
        self._has_rst = self._is_tcp & (flags & RST > 0)
        self._has_ack = self._is_tcp & (flags & ACK > 0)
        event = kinds[:, 6]
        keep_alive = event == TcpEvent.KEEP_ALIVE
        self._octets = self._is_tcp & (kinds[:, 5] > 0) & ~keep_alive
        self._keep_alive = self._is_tcp & keep_alive
        self._answers = self._is_tcp & (event == TcpEvent.KEEP_ALIVE_ACK)
        occupies = self._octets | self._has_syn | self._has_fin
        self._occupies = occupies
        self._advances = self._has_ack & ~occupies & ~self._has_rst & (event == TcpEvent.FRESH)
        self._state = np.full(n, _NEW, np.int8)
        self._opener = np.zeros(n, np.int8)
        self._finished = np.zeros((n, 2), bool)
        self._outstanding = np.zeros((n, 2), np.int32)  # segments of each side that the other has not acknowledged
        self._probed = np.zeros((n, 2), bool)  # the side whose last word was a keep-alive
        self._by_state = self._kinds_by_state()

    def _kinds_by_state(self) -> NDArray[np.bool_]:
        """May a kind be said, by state and side that opened: (5, 2, k)."""
        out = np.ones((5, 2, len(self._is_tcp)), bool)
        for opener in (0, 1):
            mine = self._side == opener
            bare_syn = self._has_syn & ~self._has_ack
            syn_ack = self._has_syn & self._has_ack
            out[_SYN, opener] = (mine & (bare_syn | self._has_rst)) | (~mine & (syn_ack | self._has_rst))
            after = ~self._has_syn & (~mine | self._has_ack | self._has_rst)
            out[_SYN_ACK, opener] = after & (mine | self._has_rst) | (~mine & syn_ack)
            out[_OPEN, opener] = ~self._has_syn
            out[_RESET, opener] = self._has_rst | (self._has_ack & ~self._occupies & ~self._keep_alive)
        out |= ~self._is_tcp
        return out

    def allowed(self, otherwise: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Kinds that the first n' conversations may say next: (n', k).

        Args:
            otherwise: (n', k) kinds allowed for other reasons; where the law leaves none of them, it steps back.
        """
        n = len(otherwise)
        may = self._by_state[self._state[:n], self._opener[:n]]
        for side in (0, 1):
            mine = self._side == side
            may &= ~(self._finished[:n, side, None] & (mine & (self._octets | self._has_fin | self._keep_alive)))
            nothing = (self._outstanding[:n, 1 - side] <= 0) & (self._state[:n] >= _OPEN)
            may &= ~(nothing[:, None] & (mine & self._advances))
            may &= ~(~self._probed[:n, 1 - side, None] & (mine & self._answers))
        stuck = ~(may & otherwise).any(axis=1)
        may[stuck] = True
        return may

    def say(self, kind: NDArray[np.int64]) -> None:
        """Note the kind (n',) that each of the first n' conversations said."""
        n, rows = len(kind), np.arange(len(kind))
        side = self._side[kind]
        state = self._state[:n]
        was_new = state == _NEW
        syn, ack, rst = self._has_syn[kind], self._has_ack[kind], self._has_rst[kind]
        opens = was_new & syn
        self._opener[:n] = np.where(opens, np.where(ack, 1 - side, side), self._opener[:n])
        mine = side == self._opener[:n]
        after = np.where(opens, np.where(ack, _SYN_ACK, _SYN), np.where(was_new, _OPEN, state))
        after = np.where((state == _SYN) & syn & ack, _SYN_ACK, after)
        after = np.where((state == _SYN_ACK) & mine & ~syn, _OPEN, after)
        self._state[:n] = np.where(rst, _RESET, after)
        self._finished[rows, side] |= self._has_fin[kind]
        acknowledges = np.where(ack, 1, 0)
        self._outstanding[rows, 1 - side] = np.maximum(self._outstanding[rows, 1 - side] - acknowledges, 0)
        self._outstanding[rows, side] += self._occupies[kind]
        self._probed[rows, side] = self._keep_alive[kind]
        self._probed[rows, 1 - side] &= ~self._answers[kind]
