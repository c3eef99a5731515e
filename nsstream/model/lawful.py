"""KindLaw: which packet kinds a conversation may show next, so that nothing unlawful is ever drawn.

Rules, kept for all conversations at once as columns; those on TCP after RFC 9293:
- A side whose TTL says that it is silent says nothing.
- A conversation that opens with SYN shows, until it is answered, only SYN again or RST from the same side, and SYN|ACK
  or RST from the other; after SYN|ACK, nothing but that again from the answerer until the opener has spoken, or for as
  long as it likes where the opener has answered with RST.
- No SYN once a handshake is over, or where the conversation goes on from before; but when FIN or RST has ended a
  connection, a SYN may begin another on the same five-tuple, if the chunk shows that at all.
- A connection ends no earlier before its conversation's last packet than the chunk shows, or the rest of a long
  conversation would be filled with what may follow an end.
- A side that has sent FIN sends no more octets, and FIN only again; one that has sent RST sends RST and nothing else.
- Octets are sent again only while some are not acknowledged.
- Retransmissions, idle ACKs and the like are said no more often than the chunk shows them.
- A bare ACK that acknowledges something new needs a segment of the other side that no bare ACK has acknowledged. What
  goes the same way meanwhile may have left it unacknowledged: it was under way already, and `assemble` has it so.
- A keep-alive's ACK needs a keep-alive.

Where the law leaves a conversation no kind, it steps back: `assemble` repairs and counts what comes of that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.endings import Endings
from nsstream.trace.conversations import TcpEvent
from nsstream.trace.fields import ACK, FIN, RST, SYN

_NEW, _SYN, _SYN_ACK, _OPEN = range(4)
_MOST_WAITING = 24  # segments that may wait for a bare ACK of their own, `tcp_acknowledge`'s bound
_IDLE = (TcpEvent.IDLE_ACK, TcpEvent.WINDOW_UPDATE, TcpEvent.KEEP_ALIVE_ACK)


class KindLaw:
    """The state of n conversations.

    Args:
        kinds: (k, 7) the codec's table of packet kinds.
        continues: (n,) whether each goes on from before.
        is_silent: (n, 2) whether the initiator and the responder never speak.
        endings: how connections end and begin again.
        events: (len(TcpEvent),) how often each event but `FRESH` may be said in all, for conversations drawn together;
            None where it does not matter.

    Later calls may pass the first n' <= n conversations only.
    """

    def __init__(
        self,
        kinds: NDArray[np.int64],
        continues: NDArray[np.bool_],
        is_silent: NDArray[np.bool_],
        endings: Endings,
        events: NDArray[np.int64] | None = None,
    ) -> None:
        flags, event = kinds[:, 2], kinds[:, 6]
        self._is_tcp = kinds[:, 0] % 3 == 1
        self._side = np.clip(kinds[:, 1], 0, 1)
        self._syn = self._is_tcp & (flags & SYN > 0)
        self._fin = self._is_tcp & (flags & FIN > 0)
        self._rst = self._is_tcp & (flags & RST > 0)
        self._ack = self._is_tcp & (flags & ACK > 0)
        self._bare_syn = self._syn & ~self._ack
        self._repeats = event == TcpEvent.RETRANSMISSION
        self._keep_alive = self._is_tcp & (event == TcpEvent.KEEP_ALIVE)
        self._answers = self._is_tcp & (event == TcpEvent.KEEP_ALIVE_ACK)
        self._octets = self._is_tcp & (kinds[:, 5] > 0) & ~self._keep_alive
        self._occupies = self._octets | self._syn | self._fin
        self._fin_again = self._fin & self._repeats & ~self._octets
        self._advances = self._ack & ~self._occupies & ~self._rst & (event == TcpEvent.FRESH)
        # (k,) kinds that must not become likelier because the law forbids others: idle ACKs, and a SYN after the end
        self.is_filler = (self._is_tcp & np.isin(event, _IDLE)) | self._bare_syn
        n = len(continues)
        self._is_silent = is_silent
        self._reopens = endings.reopens if events is not None else min(endings.reopens, 1) * n
        self._event = np.where(self._is_tcp, event, int(TcpEvent.FRESH))
        self._events = None if events is None else events.copy()
        self._after_reset, self._after_finish = endings.after_reset, endings.after_finish
        self._state = np.where(continues, _OPEN, _NEW).astype(np.int8)
        self._opener = np.zeros(n, np.int8)
        self._finished = np.zeros((n, 2), bool)
        self._reset = np.zeros((n, 2), bool)
        self._outstanding = np.zeros((n, 2), np.int32)  # segments of each side that the other has not acknowledged
        self._waiting = np.zeros((n, 2), np.int32)  # those that no bare ACK has acknowledged
        self._unheard_syn = np.zeros((n, 2), bool)  # the other side has acknowledged nothing yet, not even the SYN
        self._outstanding[continues], self._waiting[continues] = 1, 1
        self._probed = np.zeros((n, 2), bool)  # the side whose last word was a keep-alive
        self._by_state = self._kinds_by_state()

    def _kinds_by_state(self) -> NDArray[np.bool_]:
        """May a kind be said, by state and side that opened: (4, 2, k)."""
        out = np.ones((4, 2, len(self._is_tcp)), bool)
        syn_again, syn_ack = self._bare_syn & self._repeats, self._syn & self._ack
        for opener in (0, 1):
            mine = self._side == opener
            out[_SYN, opener] = (mine & (syn_again | self._rst)) | (~mine & (syn_ack | self._rst))
            out[_SYN_ACK, opener] = (mine & ~self._syn & (self._ack | self._rst)) | (
                ~mine & ((syn_ack & self._repeats) | self._rst)
            )
            out[_OPEN, opener] = ~self._syn
        out |= ~self._is_tcp
        return out

    def allowed(self, otherwise: NDArray[np.bool_], left: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Kinds that the first n' conversations may say next: (n', k).

        Args:
            otherwise: (n', k) kinds allowed for other reasons; where the law leaves none of them, it steps back.
            left: (n',) packets that follow this one in the conversation.
        """
        n = len(otherwise)
        state, opener = self._state[:n], self._opener[:n]
        may = self._by_state[state, opener]
        unheard = (state == _SYN) & self._is_silent[np.arange(n), 1 - opener]  # its answer is never seen
        may[unheard] |= ~self._syn
        is_over = (self._reopens > 0) & self._is_over(n)
        may |= is_over[:, None] & self._bare_syn
        may &= ~((left > self._after_reset)[:, None] & self._rst)
        may &= ~((left > self._after_finish)[:, None] & self._fin)
        for side in (0, 1):
            mine = self._side == side
            may &= ~(self._is_silent[:n, side, None] & mine)
            may &= ~(self._reset[:n, side, None] & (mine & self._is_tcp & ~self._rst & ~self._bare_syn))
            goes_on = self._octets | (self._fin & ~self._fin_again) | self._keep_alive
            may &= ~(self._finished[:n, side, None] & (mine & goes_on))
            waits = (self._waiting[:n, 1 - side] > 0) | self._unheard_syn[:n, 1 - side]
            nothing = ~waits & (state == _OPEN) & ~self._is_silent[:n, 1 - side]
            may &= ~(nothing[:, None] & (mine & self._advances))
            settled = (self._outstanding[:n, side] <= 0) & (state == _OPEN) & ~self._is_silent[:n, 1 - side]
            may &= ~(settled[:, None] & (mine & self._octets & self._repeats))
            may &= ~(~self._probed[:n, 1 - side, None] & (mine & self._answers))
        may &= otherwise
        if self._events is not None:
            may &= (self._events[self._event] > 0) | (self._event == TcpEvent.FRESH)
        for stand_in in (otherwise & ~self._syn & ~self._rst, otherwise):  # where nothing is left
            stuck = ~may.any(axis=1)
            may[stuck] = stand_in[stuck]
        return may

    def _is_over(self, n: int) -> NDArray[np.bool_]:
        """Whether something has ended the connection, so that another may begin: (n,)."""
        reset, finished = self._reset[:n], self._finished[:n]
        ended = reset[:, 0] | reset[:, 1] | (finished[:, 0] & finished[:, 1])
        return np.asarray(ended & (self._state[:n] != _NEW), np.bool_)

    def say(self, kind: NDArray[np.int64]) -> None:
        """Note the kind (n',) that each of the first n' conversations said."""
        n, rows = len(kind), np.arange(len(kind))
        side, state = self._side[kind], self._state[:n]
        syn, ack, rst = self._syn[kind], self._ack[kind], self._rst[kind]
        again = self._is_over(n) & self._bare_syn[kind]  # a new connection on the old five-tuple
        if self._events is not None:
            self._reopens -= int(again.sum())
            self._events -= np.bincount(self._event[kind], minlength=len(self._events))
        for known in (
            self._reset, self._finished, self._outstanding, self._waiting, self._unheard_syn, self._probed,
        ):  # fmt: skip
            known[:n][again] = 0
        state = np.where(again, _NEW, state)
        opens = (state == _NEW) & syn
        self._opener[:n] = np.where(opens, np.where(ack, 1 - side, side), self._opener[:n])
        mine = side == self._opener[:n]
        after = np.where(opens, np.where(ack, _SYN_ACK, _SYN), np.where(state == _NEW, _OPEN, state))
        after = np.where((state == _SYN) & syn & ack, _SYN_ACK, after)
        self._state[:n] = np.where((state == _SYN_ACK) & mine & ~syn & ~rst, _OPEN, after)
        self._reset[rows, side] |= rst
        self._finished[rows, side] |= self._fin[kind]
        self._outstanding[rows, 1 - side] = np.maximum(self._outstanding[rows, 1 - side] - ack, 0)
        self._outstanding[rows, side] += self._occupies[kind]
        peer_syn = self._unheard_syn[rows, 1 - side]
        self._waiting[rows, 1 - side] -= self._advances[kind] & ~peer_syn & (self._waiting[rows, 1 - side] > 0)
        self._unheard_syn[rows, 1 - side] = peer_syn & ~ack
        fresh = self._occupies[kind] & ~syn & ~self._repeats[kind]
        self._waiting[rows, side] = np.minimum(self._waiting[rows, side] + fresh, _MOST_WAITING)
        self._unheard_syn[rows, side] |= syn
        self._probed[rows, side] = self._keep_alive[kind]
        self._probed[rows, 1 - side] &= ~self._answers[kind]
