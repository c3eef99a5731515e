"""The law of packet kinds: which a conversation may show next, so that nothing unlawful is ever drawn.

Rules, kept for each conversation in a row of numbers; those on TCP after RFC 9293:
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

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.endings import Endings
from nsstream.trace.conversations import TcpEvent
from nsstream.trace.fields import ACK, FIN, RST, SYN

_NEW, _SYN, _SYN_ACK, _OPEN = range(4)
_MOST_WAITING: Final = 24  # segments that may wait for a bare ACK of their own, `tcp_acknowledge`'s bound
_IDLE: Final = (TcpEvent.IDLE_ACK, TcpEvent.WINDOW_UPDATE, TcpEvent.KEEP_ALIVE_ACK)
_UNBOUNDED: Final = 1 << 62

# what a kind is
_IS_TCP, _IS_SYN, _IS_FIN, _IS_RST, _IS_ACK = (1 << i for i in range(5))
_REPEATS, _KEEP_ALIVE, _ANSWERS, _OCTETS, _FIN_AGAIN, _ADVANCES = (1 << i for i in range(5, 11))
IS_FILLER: Final = 1 << 11  # must not become likelier because the law forbids others: idle ACKs, and SYN after the end
_OCCUPIES: Final = _OCTETS | _IS_SYN | _IS_FIN

# the state of a conversation; names with two sides take the columns from there on
_STATE, _OPENER, _SILENT, _FINISHED, _RESET, _OUTSTANDING, _WAITING, _UNHEARD_SYN, _PROBED = (
    0,
    1,
    2,
    4,
    6,
    8,
    10,
    12,
    14,
)
COLUMNS: Final = 16
_REOPENS: Final = 0  # of a budget; then one number for each `TcpEvent`


class KindRules(NamedTuple):
    """What the law knows of k kinds, and of a chunk's ends of connections."""

    traits: NDArray[np.uint32]  # (k,) bits
    side: NDArray[np.int64]  # (k,) 0 for the initiator
    event: NDArray[np.int64]  # (k,) `TcpEvent`
    after_reset: int
    after_finish: int


def kind_rules(kinds: NDArray[np.int64], endings: Endings) -> KindRules:
    """The rules for the codec's table of packet kinds (k, 7)."""
    flags, event = kinds[:, 2], kinds[:, 6]
    is_tcp = kinds[:, 0] % 3 == 1
    syn, fin, ack = (is_tcp & (flags & bit > 0) for bit in (SYN, FIN, ACK))
    rst = is_tcp & (flags & RST > 0)
    keep_alive = is_tcp & (event == TcpEvent.KEEP_ALIVE)
    octets = is_tcp & (kinds[:, 5] > 0) & ~keep_alive
    repeats = is_tcp & (event == TcpEvent.RETRANSMISSION)
    has = {
        _IS_TCP: is_tcp,
        _IS_SYN: syn,
        _IS_FIN: fin,
        _IS_RST: rst,
        _IS_ACK: ack,
        _REPEATS: repeats,
        _KEEP_ALIVE: keep_alive,
        _ANSWERS: is_tcp & (event == TcpEvent.KEEP_ALIVE_ACK),
        _OCTETS: octets,
        _FIN_AGAIN: fin & repeats & ~octets,
        _ADVANCES: ack & ~(octets | syn | fin) & ~rst & (event == TcpEvent.FRESH),
        IS_FILLER: (is_tcp & np.isin(event, _IDLE)) | (syn & ~ack),
    }
    traits = np.zeros(len(kinds), np.uint32)
    for bit, holds in has.items():
        traits |= np.where(holds, np.uint32(bit), np.uint32(0))
    return KindRules(
        traits=traits,
        side=np.clip(kinds[:, 1], 0, 1),
        event=np.where(is_tcp, event, int(TcpEvent.FRESH)),
        after_reset=endings.after_reset,
        after_finish=endings.after_finish,
    )


def begin_law(continues: NDArray[np.bool_], is_silent: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The state (n, COLUMNS) of conversations that have said nothing.

    Args:
        continues: (n,) whether each goes on from before.
        is_silent: (n, 2) whether the initiator and the responder never speak.
    """
    rows = np.zeros((len(continues), COLUMNS), np.int32)
    rows[:, _STATE] = np.where(continues, _OPEN, _NEW)
    rows[:, _SILENT : _SILENT + 2] = is_silent
    rows[continues, _OUTSTANDING : _OUTSTANDING + 2] = 1
    rows[continues, _WAITING : _WAITING + 2] = 1
    return rows


def law_budget(endings: Endings, events: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """How often conversations drawn together may begin anew, and show each `TcpEvent`; counted down by `say`.

    events: (len(TcpEvent),), of which that of `FRESH` does not matter; None: as often as they like.
    """
    if events is None:
        out = np.full(1 + len(TcpEvent), _UNBOUNDED, np.int64)
        out[_REOPENS] *= min(endings.reopens, 1)
        return out
    out = np.concatenate([[endings.reopens], events]).astype(np.int64)
    out[1 + TcpEvent.FRESH] = _UNBOUNDED
    return out


@njit(cache=True)
def allow(
    rules: KindRules,
    row: NDArray[np.int32],
    left: int,
    budget: NDArray[np.int64],
    otherwise: NDArray[np.bool_],
    may: NDArray[np.bool_],
) -> None:
    """Which kinds a conversation may say next.

    Args:
        rules: of k kinds.
        row: (COLUMNS,) its state.
        left: packets that follow this one in the conversation.
        budget: of all conversations.
        otherwise: (k,) kinds allowed for other reasons; where the law leaves none of them, it steps back.
        may: (k,) is written.
    """
    state, opener = row[_STATE], row[_OPENER]
    unheard = state == _SYN and row[_SILENT + 1 - opener] != 0  # its answer is never seen
    reopens = budget[_REOPENS] > 0 and _is_over(row)
    never = 0
    if left > rules.after_reset:
        never |= _IS_RST
    if left > rules.after_finish:
        never |= _IS_FIN
    found = 0
    for k in range(len(may)):
        may[k] = False
        if not otherwise[k]:
            continue
        traits, side = rules.traits[k], rules.side[k]
        if row[_SILENT + side] or budget[1 + rules.event[k]] <= 0:
            continue
        if traits & _IS_TCP:
            if traits & never:
                continue
            is_bare_syn = (traits & _IS_SYN) != 0 and (traits & _IS_ACK) == 0
            if not (
                _fits_state(state, side == opener, traits)
                or (unheard and not traits & _IS_SYN)
                or (reopens and is_bare_syn)
            ):
                continue
            if not _fits_side(row, state, side, traits, is_bare_syn):
                continue
        may[k] = True
        found += 1
    if found == 0:
        _step_back(rules, budget, otherwise, may)


@njit(cache=True)
def say(rules: KindRules, row: NDArray[np.int32], budget: NDArray[np.int64], kind: int) -> None:
    """Note the kind that a conversation said."""
    traits, side = rules.traits[kind], rules.side[kind]
    budget[1 + rules.event[kind]] -= 1
    syn, ack, rst = (traits & _IS_SYN) != 0, (traits & _IS_ACK) != 0, (traits & _IS_RST) != 0
    if syn and not ack and _is_over(row):  # a new connection on the old five-tuple
        budget[_REOPENS] -= 1
        row[_FINISHED:] = 0
        row[_STATE] = _NEW
    state, other = row[_STATE], 1 - side
    if state == _NEW:
        if syn:
            row[_OPENER] = other if ack else side
        row[_STATE] = (_SYN_ACK if ack else _SYN) if syn else _OPEN
    elif state == _SYN and syn and ack:
        row[_STATE] = _SYN_ACK
    elif state == _SYN_ACK and side == row[_OPENER] and not syn and not rst:
        row[_STATE] = _OPEN
    if rst:
        row[_RESET + side] = 1
    if traits & _IS_FIN:
        row[_FINISHED + side] = 1
    if ack and row[_OUTSTANDING + other] > 0:
        row[_OUTSTANDING + other] -= 1
    if traits & _OCCUPIES:
        row[_OUTSTANDING + side] += 1
    if traits & _ADVANCES and not row[_UNHEARD_SYN + other] and row[_WAITING + other] > 0:
        row[_WAITING + other] -= 1
    if ack:
        row[_UNHEARD_SYN + other] = 0
    if traits & _OCCUPIES and not syn and not traits & _REPEATS and row[_WAITING + side] < _MOST_WAITING:
        row[_WAITING + side] += 1
    if syn:
        row[_UNHEARD_SYN + side] = 1
    row[_PROBED + side] = 1 if traits & _KEEP_ALIVE else 0
    if traits & _ANSWERS:
        row[_PROBED + other] = 0


@njit(cache=True)
def _fits_state(state: int, is_opener: bool, traits: int) -> bool:
    """Whether the life of the connection allows a TCP kind."""
    syn, ack, rst = (traits & _IS_SYN) != 0, (traits & _IS_ACK) != 0, (traits & _IS_RST) != 0
    repeats = (traits & _REPEATS) != 0
    if state == _SYN:
        return rst or (syn and not ack and repeats if is_opener else syn and ack)
    if state == _SYN_ACK:
        return not syn and (ack or rst) if is_opener else rst or (syn and ack and repeats)
    return state == _NEW or not syn


@njit(cache=True)
def _fits_side(row: NDArray[np.int32], state: int, side: int, traits: int, is_bare_syn: bool) -> bool:
    """Whether what a side has said and heard allows a TCP kind of its."""
    other = 1 - side
    if row[_RESET + side] and not traits & _IS_RST and not is_bare_syn:
        return False
    is_fin_first = (traits & _IS_FIN) != 0 and (traits & _FIN_AGAIN) == 0
    if row[_FINISHED + side] and (is_fin_first or traits & (_OCTETS | _KEEP_ALIVE)):
        return False
    is_heard = state == _OPEN and not row[_SILENT + other]
    waits = row[_WAITING + other] > 0 or row[_UNHEARD_SYN + other] != 0
    if traits & _ADVANCES and is_heard and not waits:
        return False
    if traits & _OCTETS and traits & _REPEATS and is_heard and row[_OUTSTANDING + side] <= 0:
        return False
    return not (traits & _ANSWERS and not row[_PROBED + other])


@njit(cache=True)
def _step_back(
    rules: KindRules, budget: NDArray[np.int64], otherwise: NDArray[np.bool_], may: NDArray[np.bool_]
) -> None:
    """Where nothing is left: what is allowed otherwise, without SYN, RST and used-up events if that leaves some."""
    for is_strict in (2, 1, 0):
        found = 0
        for k in range(len(may)):
            is_new = is_strict == 0 or not rules.traits[k] & (_IS_SYN | _IS_RST)
            is_left = is_strict < 2 or budget[1 + rules.event[k]] > 0
            may[k] = otherwise[k] and is_new and is_left
            found += may[k]
        if found:
            return


@njit(cache=True)
def _is_over(row: NDArray[np.int32]) -> bool:
    """Whether something has ended the connection, so that another may begin."""
    is_reset = row[_RESET] != 0 or row[_RESET + 1] != 0
    is_finished = row[_FINISHED] != 0 and row[_FINISHED + 1] != 0
    return bool((is_reset or is_finished) and row[_STATE] != _NEW)
