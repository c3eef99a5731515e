"""The law as a table: what was said, and what may be said next."""

import dataclasses

import numpy as np
import pytest

from nsstream.encode.endings import Endings
from nsstream.model.lawful import allow, begin_law, kind_rules, law_budget, say
from nsstream.trace import TcpEvent
from nsstream.trace.fields import ACK, FIN, PSH, RST, SYN

TCP_STACK, OTHER_STACK = 1, 0


def _kinds():
    """Kinds by name: > is of the initiator, < of the responder."""
    out = {}
    for side, mark in ((0, ">"), (1, "<")):
        for name, flags, has_octets, event in (
            ("syn", SYN, 0, TcpEvent.FRESH),
            ("syn again", SYN, 0, TcpEvent.RETRANSMISSION),
            ("syn|ack", SYN | ACK, 0, TcpEvent.FRESH),
            ("syn|ack again", SYN | ACK, 0, TcpEvent.RETRANSMISSION),
            ("ack", ACK, 0, TcpEvent.FRESH),
            ("octets", ACK | PSH, 1, TcpEvent.FRESH),
            ("octets again", ACK | PSH, 1, TcpEvent.RETRANSMISSION),
            ("fin", FIN | ACK, 0, TcpEvent.FRESH),
            ("fin again", FIN | ACK, 0, TcpEvent.RETRANSMISSION),
            ("rst", RST, 0, TcpEvent.FRESH),
            ("rst|ack", RST | ACK, 0, TcpEvent.FRESH),
            ("idle ack", ACK, 0, TcpEvent.IDLE_ACK),
            ("window", ACK, 0, TcpEvent.WINDOW_UPDATE),
            ("keep-alive", ACK, 0, TcpEvent.KEEP_ALIVE),
            ("keep-alive's ack", ACK, 0, TcpEvent.KEEP_ALIVE_ACK),
        ):
            out[f"{mark}{name}"] = (TCP_STACK, side, flags, 20, 20, has_octets, event)
        out[f"{mark}datagram"] = (OTHER_STACK, side, 0, 20, 0, 1, TcpEvent.FRESH)
    return out


KINDS = _kinds()
NAMES = list(KINDS)
TABLE = np.array(list(KINDS.values()), np.int64)
ANY = Endings(after_reset=99, after_finish=99, reopens=1, events=(99, 99, 99, 99, 99, 99))
FEW = Endings(after_reset=2, after_finish=5, reopens=1, events=(99, 99, 99, 99, 99, 99))
IS_TCP = np.array([name[1:] != "datagram" for name in NAMES])


class Talk:
    """Conversations (n,) under one law and one budget."""

    def __init__(self, continues, silent, endings, events=None):
        self.rules, self.budget = kind_rules(TABLE, endings), law_budget(endings, events)
        self.rows = begin_law(np.asarray(continues), np.asarray(silent))

    def allowed(self, i, otherwise, left):
        may = np.zeros(len(NAMES), np.bool_)
        allow(self.rules, self.rows[i], left, self.budget, otherwise, may)
        return may

    def say(self, i, kind):
        say(self.rules, self.rows[i], self.budget, kind)


def may_say(said, *, continues=False, silent=(False, False), otherwise=None, endings=ANY, events=None, left=0):
    """Names of the kinds that may follow."""
    talk = Talk([continues], [silent], endings, events)
    given = IS_TCP if otherwise is None else np.array([name in otherwise for name in NAMES])
    for name in said:
        talk.say(0, NAMES.index(name))
    return {NAMES[i] for i in np.flatnonzero(talk.allowed(0, given, left))}


HANDSHAKE = [">syn", "<syn|ack", ">ack"]
CASES = [
    # a connection that opens
    ([], {">syn", "<syn|ack", ">octets", ">rst", "<fin"}, {">keep-alive's ack", "<keep-alive's ack"}),
    ([">syn"], {">syn again", ">rst", "<syn|ack", "<rst|ack"}, {">syn", ">ack", ">octets", "<ack", "<octets", "<syn"}),
    ([">syn", ">syn again"], {">syn again", "<syn|ack"}, {">octets", "<octets"}),
    ([">syn", "<syn|ack"], {">ack", ">octets", "<syn|ack again", "<rst"}, {"<octets", "<ack", ">syn", "<syn|ack"}),
    (["<syn", ">syn|ack"], {"<ack", "<octets", ">syn|ack again"}, {">octets", "<syn", ">fin"}),
    (["<syn|ack"], {">ack", ">octets", "<syn|ack again"}, {"<octets", ">syn"}),  # its SYN was not seen
    ([">syn", "<syn|ack", ">rst"], {"<syn|ack again", ">rst"}, {">ack", ">octets", "<octets", "<ack", "<syn|ack"}),
    ([">syn", "<syn|ack", ">rst", "<syn|ack again", ">rst"], {"<syn|ack again", ">syn"}, {"<octets", "<ack"}),
    ([">syn", "<rst|ack"], {">syn", ">syn again"}, {">octets", ">ack", "<syn|ack"}),
    (HANDSHAKE, {">octets", "<octets", ">fin", "<fin", ">rst", "<rst"}, {">syn", "<syn", ">syn|ack", "<syn|ack"}),
    ([">octets"], {">octets", "<octets", "<ack"}, {">syn", "<syn|ack"}),  # begun before the capture did
    # bare ACKs
    (HANDSHAKE, {"<idle ack", "<window"}, {"<ack", ">ack"}),
    ([*HANDSHAKE, ">octets"], {"<ack", "<octets"}, {">ack"}),
    ([*HANDSHAKE, ">octets", "<ack"], {"<idle ack"}, {"<ack", ">ack"}),
    ([*HANDSHAKE, ">octets", ">octets", "<ack"], {"<ack"}, {">ack"}),
    ([*HANDSHAKE, ">octets", "<octets"], {">ack", "<ack"}, set()),  # the answer was under way already
    ([*HANDSHAKE, ">octets", "<octets", "<ack"], {">ack"}, {"<ack"}),
    ([">syn", "<syn|ack", ">octets"], {"<ack"}, {">ack"}),  # these octets acknowledge the SYN
    ([*HANDSHAKE, *(30 * [">octets"]), *(24 * ["<ack"])], {"<idle ack"}, {"<ack"}),
    ([*HANDSHAKE, ">fin"], {"<ack", "<fin"}, {">ack"}),
    # keep-alives
    (HANDSHAKE, {">keep-alive", "<keep-alive"}, {">keep-alive's ack", "<keep-alive's ack"}),
    ([*HANDSHAKE, ">keep-alive"], {"<keep-alive's ack"}, {">keep-alive's ack", "<ack"}),
    ([*HANDSHAKE, ">keep-alive", "<keep-alive's ack"], {">keep-alive"}, {"<keep-alive's ack"}),
    # the end of one side, of both, at once
    ([*HANDSHAKE, ">fin"], {"<octets", "<fin", ">fin again"}, {">fin", ">octets", ">octets again", ">keep-alive"}),
    ([*HANDSHAKE, ">fin", "<octets"], {">ack"}, {">octets", ">fin"}),
    ([*HANDSHAKE, ">fin", "<fin"], {">ack", ">rst", "<rst"}, {"<octets", "<fin", ">octets", ">fin"}),
    ([*HANDSHAKE, ">rst"], {">rst"}, {">octets", ">ack", ">fin", ">idle ack", ">window", ">keep-alive", ">syn|ack"}),
    ([*HANDSHAKE, ">rst", "<rst"], {">rst", "<rst"}, {"<octets", "<ack", "<idle ack", "<syn|ack"}),
    # another connection on the same five-tuple
    ([*HANDSHAKE, ">rst"], {">syn", "<syn"}, set()),
    ([*HANDSHAKE, ">fin", "<fin"], {">syn"}, {">syn|ack"}),
    ([*HANDSHAKE, ">rst", ">syn"], {">syn again", "<syn|ack"}, {">octets", "<octets", ">ack"}),
    ([*HANDSHAKE, ">fin", "<fin", *HANDSHAKE], {">octets", "<octets", ">fin", "<fin"}, {">syn", ">ack"}),
]  # fmt: skip


@pytest.mark.parametrize(("said", "may", "may_not"), CASES, ids=[" ".join(c[0]) + "?" for c in CASES])
def test_the_law_of_tcp(said, may, may_not):
    allowed = may_say(said)
    assert may <= allowed
    assert not may_not & allowed


def test_a_conversation_that_goes_on_from_before_begins_nothing_and_may_acknowledge_at_once():
    allowed = may_say([], continues=True)
    assert {">ack", "<ack", ">octets", "<fin", ">rst"} <= allowed
    assert not {">syn", "<syn", ">syn|ack", "<syn|ack"} & allowed


@pytest.mark.parametrize(("silent", "mark"), [((True, False), ">"), ((False, True), "<")])
@pytest.mark.parametrize("said", [[], ["datagram"], ["octets"], ["syn"], ["octets", "fin"]])
def test_a_silent_side_never_speaks(silent, mark, said):
    other = "<" if mark == ">" else ">"
    allowed = may_say([other + name for name in said], silent=silent)
    assert allowed
    assert not {name for name in allowed if name[0] == mark}


def test_who_is_never_answered_may_go_on_all_the_same():
    allowed = may_say([">syn"], silent=(False, True))
    assert {">ack", ">octets", ">rst", ">syn again"} <= allowed
    assert ">syn" not in allowed


@pytest.mark.parametrize("end", [[">rst"], [">fin", "<fin"]])
def test_no_connection_begins_anew_where_the_chunk_shows_none(end):
    assert {">syn", "<syn"} & may_say([*HANDSHAKE, *end])
    none = dataclasses.replace(ANY, reopens=0)
    assert not {">syn", "<syn"} & may_say([*HANDSHAKE, *end], endings=none)


@pytest.mark.parametrize(("left", "ends"), [(0, {"rst", "fin"}), (2, {"rst", "fin"}), (3, {"fin"}), (6, set())])
def test_a_connection_ends_no_earlier_before_the_last_packet_than_the_chunk_shows(left, ends):
    allowed = may_say(HANDSHAKE, endings=FEW, left=left)
    assert {name[1:] for name in allowed} & {"rst", "fin"} == ends
    assert ">octets" in allowed


def test_the_law_binds_tcp_alone():
    names = {">datagram", "<datagram"}
    assert may_say([">datagram"] * 3, otherwise=names) == names


def test_where_the_law_leaves_nothing_it_steps_back():
    assert may_say([*HANDSHAKE, ">rst", "<rst"], otherwise={">octets"}) == {">octets"}
    assert may_say([], silent=(True, True), otherwise={">octets"}) == {">octets"}


def test_what_is_forbidden_otherwise_stays_forbidden():
    assert may_say(HANDSHAKE, otherwise={">octets", "<octets"}) == {">octets", "<octets"}


def test_conversations_do_not_disturb_each_other():
    """Random talk in many conversations at once allows what each would allow alone."""
    rng = np.random.default_rng(1)
    n, steps = 40, 25
    continues, silent = rng.random(n) < 0.3, rng.random((n, 2)) < 0.1
    together = Talk(continues, silent, FEW)
    alone = [Talk(continues[i : i + 1], silent[i : i + 1], FEW) for i in range(n)]
    for _ in range(steps):
        left = rng.integers(0, 9, n)
        for i in rng.permutation(n):
            may = together.allowed(i, IS_TCP, left[i])
            np.testing.assert_array_equal(alone[i].allowed(0, IS_TCP, left[i]), may)
            kind = rng.choice(np.flatnonzero(may))
            together.say(i, kind)
            alone[i].say(0, kind)


def test_lawful_talk_is_never_stuck():
    rng = np.random.default_rng(2)
    for _ in range(30):
        talk = Talk(rng.random(1) < 0.3, np.zeros((1, 2), bool), ANY)
        finished, reset = np.zeros(2, bool), np.zeros(2, bool)
        for _ in range(30):
            kind = int(rng.choice(np.flatnonzero(talk.allowed(0, IS_TCP, 0))))
            mark, name = NAMES[kind][0], NAMES[kind][1:]
            side = int(mark == "<")
            if name in ("syn", "syn again") and (finished | reset).any():
                finished[:], reset[:] = False, False
            if name in ("octets", "octets again", "fin"):
                assert not finished[side]
            if not name.startswith("rst"):
                assert not reset[side]
            finished[side] |= name == "fin"
            reset[side] |= name.startswith("rst")
            talk.say(0, kind)


def test_events_are_said_no_more_often_than_the_chunk_shows_them_in_all_conversations_together():
    events = np.array([0, *[2] * (len(TcpEvent) - 1)])
    begun = [">octets", ">octets", ">octets"]
    again = may_say([*begun, ">octets again"], events=events)
    assert {">octets", ">octets again"} <= again
    spent = may_say([*begun, *[">octets again"] * 2], events=events)
    assert ">octets" in spent
    assert not {name for name in spent if name.endswith("again")}
    talk = Talk([False] * 2, [(False, False)] * 2, ANY, events)
    for i in range(2):
        for name in (">octets", ">octets again"):
            talk.say(i, NAMES.index(name))
    for i in range(2):
        assert not talk.allowed(i, IS_TCP, 0)[NAMES.index(">octets again")]


def test_connections_begin_anew_no_more_often_than_the_chunk_shows():
    events = np.full(len(TcpEvent), 99)
    anew = [*HANDSHAKE, ">rst"]
    assert ">syn" in may_say(anew, events=events)
    assert ">syn" not in may_say([*anew, *anew], events=events)
    assert ">syn" in may_say([*anew, *anew])  # where nobody counts
