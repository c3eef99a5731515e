"""TcpEvent: what each segment is to its stream, told from sequence numbers alone."""

import pytest
from made_traffic import CLIENT, SERVER, back, batch_of, connection, packet, tcp

from nsstream.trace import TcpEvent
from nsstream.trace.fields import ACK, FIN, PSH, RST, SYN
from nsstream.trace.grouping import group_conversations

FRESH, RETRANSMISSION, IDLE_ACK, KEEP_ALIVE, KEEP_ALIVE_ACK, WINDOW_UPDATE = TcpEvent


def events_of(*rows):
    return group_conversations(batch_of(rows))[0].tcp_event.tolist()


HANDSHAKE = (tcp(0, SYN, 99), back(1, SYN | ACK, 499, 100), tcp(2, ACK, 100, 500))
CASES = {
    "all of a plain connection is fresh": [(row, FRESH) for row in connection(0, CLIENT, SERVER, 4)],
    "a SYN again, with its own number": [(tcp(0, SYN, 99), FRESH), (tcp(1, SYN, 99), RETRANSMISSION)],
    "a SYN|ACK again": [*((row, FRESH) for row in HANDSHAKE[:2]), (back(5, SYN | ACK, 499, 100), RETRANSMISSION)],
    "a FIN again": [(tcp(0, FIN | ACK, 100, 5), FRESH), (tcp(1, FIN | ACK, 100, 5), RETRANSMISSION)],
    "octets again": [
        (tcp(0, ACK, 100, 5, octets=50), FRESH),
        (tcp(1, ACK, 150, 5, octets=50), FRESH),
        (tcp(2, ACK, 100, 5, octets=50), RETRANSMISSION),
        (tcp(3, ACK, 200, 5, octets=50), FRESH),
    ],
    "octets after a hole, and those that fill it": [
        (tcp(0, ACK, 100, 5, octets=50), FRESH),
        (tcp(1, ACK, 200, 5, octets=50), FRESH),
        (tcp(2, ACK, 150, 5, octets=50), FRESH),
        (tcp(3, ACK, 150, 5, octets=50), RETRANSMISSION),
    ],
    "octets that go on over 2**32": [
        (tcp(0, ACK, 2**32 - 50, 5, octets=50), FRESH),
        (tcp(1, ACK, 2**32, 5, octets=50), FRESH),
        (tcp(2, ACK, 2**32 - 50, 5, octets=50), RETRANSMISSION),
    ],
    "the first word of a side, whatever it is": [(tcp(0, ACK, 100, 5), FRESH), (back(1, ACK, 5, 100), FRESH)],
    "a bare ACK that advances": [(tcp(0, ACK, 100, 5), FRESH), (tcp(1, ACK, 100, 6), FRESH)],
    "a bare ACK that acknowledges nothing new": [(tcp(0, ACK, 100, 5), FRESH), (tcp(1, ACK, 100, 5), IDLE_ACK)],
    "an old bare ACK": [(tcp(0, ACK, 100, 50), FRESH), (tcp(1, ACK, 100, 5), IDLE_ACK)],
    "a bare ACK that offers another window": [
        (tcp(0, ACK, 100, 5), FRESH),
        (tcp(1, ACK, 100, 5, window=2000), WINDOW_UPDATE),
        (tcp(2, ACK, 100, 5, window=2000), IDLE_ACK),
    ],
    "the window of the other side is not one's own": [
        (tcp(0, ACK, 100, 5, window=10), FRESH),
        (back(1, ACK, 5, 100, window=20), FRESH),
        (tcp(2, ACK, 100, 5, window=10), IDLE_ACK),
    ],
    "a keep-alive without octets, and its ACK": [
        (tcp(0, ACK, 100, 5, octets=10), FRESH),
        (back(1, ACK, 5, 110), FRESH),
        (tcp(2, ACK, 109, 5), KEEP_ALIVE),
        (back(3, ACK, 5, 110), KEEP_ALIVE_ACK),
        (back(4, ACK, 5, 110), IDLE_ACK),
    ],
    "a keep-alive of one octet": [(tcp(0, ACK, 100, 5, octets=10), FRESH), (tcp(1, ACK, 109, 5, octets=1), KEEP_ALIVE)],
    "two octets from one before are none": [
        (tcp(0, ACK, 100, 5, octets=10), FRESH),
        (tcp(1, ACK, 109, 5, octets=2), RETRANSMISSION),
    ],
    "keep-alives of both sides": [
        (tcp(0, ACK, 100, 5), FRESH),
        (back(1, ACK, 5, 100), FRESH),
        (tcp(2, ACK, 99, 5), KEEP_ALIVE),
        (back(3, ACK, 5, 100), KEEP_ALIVE_ACK),
        (back(4, ACK, 4, 100), KEEP_ALIVE),
        (tcp(5, ACK, 100, 5), KEEP_ALIVE_ACK),
    ],
    "octets after a keep-alive": [
        (tcp(0, ACK, 100, 5), FRESH),
        (tcp(1, ACK, 99, 5), KEEP_ALIVE),
        (tcp(2, ACK | PSH, 100, 5, octets=9), FRESH),
    ],
    "a RST": [(tcp(0, ACK, 100, 5, octets=10), FRESH), (tcp(1, RST, 110), FRESH)],
    "a SYN of its own begins anew": [
        *((row, FRESH) for row in HANDSHAKE),
        (tcp(3, ACK, 100, 500, octets=50), FRESH),
        (tcp(4, RST | ACK, 150, 500), FRESH),
        (tcp(5, SYN, 77), FRESH),
        (back(6, SYN | ACK, 3, 78), FRESH),
        (tcp(7, ACK, 78, 4), FRESH),
        (tcp(8, ACK, 78, 4, octets=50), FRESH),
        (tcp(9, ACK, 78, 4, octets=50), RETRANSMISSION),
    ],
    "packets that are not TCP": [(packet(t), FRESH) for t in range(3)],
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_segment_is_told_by_its_sequence_numbers(case):
    rows, expected = zip(*case, strict=True)
    assert events_of(*rows) == [int(e) for e in expected]


def test_a_later_fragment_says_nothing_of_the_stream():
    row = tcp(0, ACK, 100, 5, octets=10, fragment_offset=4)
    assert events_of(row, {**row, "observation_time_ns": row["observation_time_ns"] + 1}) == [FRESH, FRESH]


def test_nothing_is_known_of_a_stream_before_the_chunk():
    _, left = group_conversations(batch_of([tcp(0, ACK, 100, 5, octets=10)]))
    table, _ = group_conversations(batch_of([tcp(60_000, ACK, 100, 5, octets=10)]), left)
    assert (table.continues_from_before.tolist(), table.tcp_event.tolist()) == ([1], [FRESH])
