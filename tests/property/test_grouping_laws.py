"""Grouping agrees with a slow and plain account of itself, whatever the packets and whatever their order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made_traffic import batch_of, packet, tcp

from nsstream.trace.fields import ACK, FIN, RST, SYN, TCP, UDP
from nsstream.trace.grouping import group_conversations

PORTS = st.sampled_from([53, 1023, 1024, 40_000])
HOSTS = st.sampled_from(["192.0.2.1", "192.0.2.2", "203.0.113.0", "2001:db8::1"])
ENDS = st.tuples(HOSTS, PORTS)
FLAGS = st.sampled_from([SYN, SYN | ACK, ACK, FIN | ACK, RST, 0])


@st.composite
def rows(draw):
    """Packets with distinct times, few endpoints, in any order."""
    times = draw(st.lists(st.integers(0, 5000), unique=True, max_size=40))
    made = []
    for time in times:
        source = draw(ENDS)
        destination = draw(ENDS.filter(lambda e, s=source: e != s and (":" in e[0]) == (":" in s[0])))
        offset = draw(st.sampled_from([0, 0, 0, 8]))
        if draw(st.booleans()):
            seq, ack = draw(st.integers(0, 4)), draw(st.integers(0, 4))
            octets = draw(st.integers(0, 2))
            made.append(tcp(time, draw(FLAGS), seq, ack, octets, ends=(source, destination), fragment_offset=offset))
        else:
            made.append(packet(time, source, destination, UDP, fragment_offset=offset))
    return made


def slowly_grouped(made):
    """Conversations as (initiator, responder, times, directions), by dictionaries, after the rules in `grouping`."""
    held = {}
    for row in sorted(made, key=lambda r: r["observation_time_ns"]):
        source = row["source_address"].tobytes(), row["source_transport_port"]
        destination = row["destination_address"].tobytes(), row["destination_transport_port"]
        key = row["protocol_identifier"], row["fragment_offset"] > 0, frozenset([source, destination])
        if key not in held:
            flags = row.get("tcp_control_bits", 0)
            is_answer = flags & SYN and flags & ACK
            from_service = not flags & SYN and source[1] < 1024 <= destination[1]
            ends = (destination, source) if is_answer or from_service else (source, destination)
            held[key] = (*ends, [], [])
        held[key][2].append(row["observation_time_ns"])
        held[key][3].append(int(source != held[key][0]))
    return list(held.values())


def described(table):
    return [
        (
            (table.initiator_address[i].tobytes(), int(table.initiator_port[i])),
            (table.responder_address[i].tobytes(), int(table.responder_port[i])),
            table.observation_time_ns[a:b].tolist(),
            table.direction[a:b].tolist(),
        )
        for i, (a, b) in enumerate(zip(table.packet_offset[:-1], table.packet_offset[1:], strict=True))
    ]


@given(rows())
def test_grouping_agrees_with_dictionaries(made):
    assert described(group_conversations(batch_of(made))[0]) == slowly_grouped(made)


@given(rows(), st.randoms(use_true_random=False))
def test_any_order_of_packets_with_distinct_times_groups_alike(made, random):
    shuffled = random.sample(made, len(made))
    (a, left_a), (b, left_b) = group_conversations(batch_of(made)), group_conversations(batch_of(shuffled))
    for name, column in a.columns().items():
        np.testing.assert_array_equal(getattr(b, name), column)
    np.testing.assert_array_equal(left_a.keys, left_b.keys)
    np.testing.assert_array_equal(left_a.initiator_is_high, left_b.initiator_is_high)


@given(rows())
def test_every_packet_is_in_one_conversation(made):
    table, _ = group_conversations(batch_of(made))
    assert int(table.packet_count.sum()) == len(made)
    assert sorted(table.observation_time_ns.tolist()) == sorted(r["observation_time_ns"] for r in made)


@given(rows(), st.integers(0, 5000))
def test_what_one_chunk_leaves_open_continues_in_the_next_with_the_same_initiator(made, cut):
    border = batch_of([packet(cut)]).observation_time_ns[0]
    early = [r for r in made if r["observation_time_ns"] < border]
    late = [r for r in made if r["observation_time_ns"] >= border]
    first, left = group_conversations(batch_of(early))
    second, _ = group_conversations(batch_of(late), left)
    began = {}
    for i in np.flatnonzero(first.is_open_at_end):
        began[tuple(_key(first, i))] = described(first)[i][0]
    for i, (initiator, *_) in enumerate(described(second)):
        key = tuple(_key(second, i))
        assert bool(second.continues_from_before[i]) == (key in began)
        assert initiator == began.get(key, initiator)


def _key(table, i):
    ends = [
        (table.initiator_address[i].tobytes(), int(table.initiator_port[i])),
        (table.responder_address[i].tobytes(), int(table.responder_port[i])),
    ]
    return int(table.protocol_identifier[i]), int(table.is_fragment[i]), *sorted(ends)


@given(rows())
def test_only_tcp_closes_and_has_events(made):
    table, _ = group_conversations(batch_of(made))
    is_other = (table.protocol_identifier != TCP) | (table.is_fragment > 0)
    assert (table.is_open_at_end[is_other] == 1).all()
    assert (table.tcp_event[np.repeat(is_other, table.packet_count)] == 0).all()
