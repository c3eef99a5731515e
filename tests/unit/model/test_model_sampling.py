"""Drawing: exactly the volume asked for, within time and law; what it says is judged by `test_model_teacher`."""

import dataclasses

import numpy as np
import pytest
import torch

from nsstream.draw.drawer import to_table
from nsstream.encode.bins import Bins
from nsstream.encode.codec import slice_of
from nsstream.encode.decoding import decode_endpoints
from nsstream.encode.encoding import allowed_attributes, allowed_kinds, encode
from nsstream.encode.schema import ATTRIBUTE_INDEX, PACKET_GAP_GRID, SLICES
from nsstream.encode.urns import Urns
from nsstream.model.heads import heads_drawn, heads_of
from nsstream.model.networks import PacketTokens
from nsstream.model.packet_loop import SLOTS
from nsstream.model.sample_attributes import draw_attributes
from nsstream.model.sample_packets import draw_packets
from nsstream.trace import TcpEvent
from nsstream.trace.fields import SYN, TCP


def chance(seed=1):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def conversations(networks, codec):
    return draw_attributes(networks["attributes"], codec, chance())


@pytest.fixture(scope="module")
def given(conversations, codec):
    """Attributes, stacks, starts and lengths of conversations to draw packets for."""
    attributes, start_ns = conversations
    ends = decode_endpoints(attributes, codec, np.random.default_rng(1))
    counts = np.random.default_rng(2).integers(1, 30, len(attributes))
    return attributes, ends.stack, start_ns, counts


@pytest.fixture(scope="module")
def drawn(networks, codec, given):
    return draw_packets(networks["packets"], codec, *given, chance())


def test_as_many_conversations_start_in_each_slice_as_the_chunk_had(conversations, codec):
    _, start_ns = conversations
    assert start_ns[0] == codec.first_ns
    assert (np.diff(start_ns) >= 0).all()
    assert start_ns[-1] <= codec.last_ns
    where = slice_of(start_ns, codec.first_ns, codec.last_ns)
    np.testing.assert_array_equal(np.bincount(where, minlength=SLICES), codec.profile)


@pytest.mark.parametrize(("last", "more"), [(0, 3), (5, 0), (1000, 30), (10**9 + 7, 600)])
def test_the_profile_is_kept_in_chunks_however_short_and_slices_however_full(networks, codec, last, more):
    profile = np.bincount(slice_of(np.arange(0, last + 1, max(1, last // 9)), 0, last), minlength=SLICES)
    profile[0] += more
    short = dataclasses.replace(codec, last_ns=codec.first_ns + last, profile=profile)
    attributes, start_ns = draw_attributes(networks["attributes"], short, chance())
    assert len(attributes) == profile.sum()
    where = slice_of(start_ns, short.first_ns, short.last_ns)
    np.testing.assert_array_equal(np.bincount(where, minlength=SLICES), profile)
    assert start_ns.min() == short.first_ns
    assert start_ns.max() <= short.last_ns


def test_starts_leave_room_for_those_that_follow_in_their_slice(networks, codec):
    profile = np.zeros(SLICES, np.int64)
    profile[3] = 300
    crowded = dataclasses.replace(codec, profile=profile)
    _, start_ns = draw_attributes(networks["attributes"], crowded, chance())
    gaps = np.diff(start_ns[1:])
    assert gaps[-100:].sum() > 0.05 * gaps.sum()


def test_no_attribute_is_drawn_that_the_codec_cannot_decode(conversations, codec):
    for column, mask in zip(conversations[0].T, allowed_attributes(codec), strict=True):
        assert mask[column].all()


def test_both_hosts_and_the_service_are_of_one_ip_family(conversations, codec):
    attributes, _ = conversations
    version = np.append(codec.host.table()[:, 0], [4, 6])
    service = codec.service.table()[attributes[:, ATTRIBUTE_INDEX["service"]], 1]
    for name in ("initiator_host", "responder_host"):
        np.testing.assert_array_equal(version[attributes[:, ATTRIBUTE_INDEX[name]]], service)
    assert set(service.tolist()) == {4, 6}


def test_starts_are_drawn_to_the_nanosecond(conversations):
    assert len(set((conversations[1][1:] % 256).tolist())) > 10  # a float of nanoseconds since 1970 is not so fine


def test_the_same_chance_draws_the_same(networks, codec, conversations, given, drawn):
    again = draw_attributes(networks["attributes"], codec, chance())
    for a, b in zip(again, conversations, strict=True):
        np.testing.assert_array_equal(a, b)
    packets = draw_packets(networks["packets"], codec, *given, chance())
    for field in dataclasses.fields(packets):
        np.testing.assert_array_equal(getattr(packets, field.name), getattr(drawn, field.name))


def test_each_conversation_gets_exactly_its_packets(drawn, given):
    np.testing.assert_array_equal(np.diff(drawn.packet_offset), given[3])
    for name in ("kind", "size", "gap", "octets", "time_ns"):
        assert len(getattr(drawn, name)) == given[3].sum()


def test_times_begin_at_the_start_and_never_fall_nor_pass_the_chunks_end(drawn, given, codec):
    first = drawn.packet_offset[:-1]
    np.testing.assert_array_equal(drawn.time_ns[first], given[2])
    rise = np.diff(drawn.time_ns)
    rise[first[1:] - 1] = 0
    assert (rise >= 0).all()
    assert drawn.time_ns.max() <= codec.last_ns


def test_no_token_is_drawn_that_the_codec_does_not_know(drawn, given, codec):
    owner = np.repeat(np.arange(len(given[3])), given[3])
    assert allowed_kinds(codec)[given[1][owner], drawn.kind].all()
    within = np.ones(len(drawn.gap), bool)
    within[drawn.packet_offset[:-1]] = False
    known = codec.packet_gap.is_active() | codec.own_gap.is_active()
    assert known[drawn.gap[within]].all()
    assert (drawn.gap[~within] == 0).all()


def test_a_timer_keeps_its_own_sides_time(networks, codec, given):
    """Every kind by its own side's clock, which ticks once in 50 ms: whatever comes between, a side's gaps are that."""
    ticks = Bins.fit(PACKET_GAP_GRID, np.full(9, 50_000_000))
    own = dataclasses.replace(codec, own_clock=np.ones_like(codec.own_clock), own_gap=ticks)
    attributes, stack, _, _ = given
    n = len(attributes)
    start_ns = np.full(n, codec.first_ns)
    drawn = draw_packets(networks["packets"], own, attributes, stack, start_ns, np.full(n, 6), chance())
    side = codec.kind.table()[drawn.kind, 1].clip(0, 1).reshape(n, 6)
    times = drawn.time_ns.reshape(n, 6)
    spoke_twice = 0
    for of_side, at in zip(side, times, strict=True):
        for gap in [*np.diff(at[of_side == 0]), *np.diff(at[of_side == 1])]:
            spoke_twice += gap == 50_000_000
            assert gap >= 50_000_000 or gap == 0 or (gap < 50_000_000 and at[-1] <= codec.last_ns)
    assert spoke_twice > n


def test_gaps_that_are_all_too_long_are_cut_short_and_known_still(networks, codec, given):
    attributes, stack, _, _ = given
    rare = dataclasses.replace(codec, packet_gap=Bins.fit(PACKET_GAP_GRID, np.array([5_000_000_000, 7_000_000_000])))
    n = len(attributes)
    start_ns = np.full(n, codec.last_ns - 2_000_000)
    drawn = draw_packets(networks["packets"], rare, attributes, stack, start_ns, np.full(n, 5), chance())
    within = np.ones(len(drawn.gap), bool)
    within[drawn.packet_offset[:-1]] = False
    assert rare.packet_gap.is_active()[drawn.gap[within]].all()
    assert drawn.time_ns.max() <= codec.last_ns


def test_a_datagram_holds_its_headers(drawn, codec):
    kinds = codec.kind.table()[drawn.kind]
    headers = kinds[:, 3] + kinds[:, 4]
    is_bare = kinds[:, 5] == 0
    np.testing.assert_array_equal(drawn.octets[is_bare], headers[is_bare])
    assert (drawn.octets >= headers).all()
    is_tcp = kinds[:, 0] % 3 == 1
    assert (drawn.octets[is_tcp & ~is_bare] > headers[is_tcp & ~is_bare]).all()


def test_a_silent_side_stays_silent(drawn, given, codec):
    ttl = codec.ttl.table()[given[0][:, ATTRIBUTE_INDEX["ttl"]]][:, [0, -1]]
    kinds = codec.kind.table()[drawn.kind]
    is_silent = np.repeat(ttl == 0, given[3], axis=0)[np.arange(len(kinds)), kinds[:, 1]]
    sides = {(s, d) for s, d in codec.kind.table()[codec.kind.is_active(), :2].tolist()}
    has_choice = np.array([(s, 1 - d) in sides for s, d in kinds[:, :2].tolist()])
    assert not (is_silent & has_choice).any()


def test_a_conversation_that_goes_on_from_before_shows_no_syn_at_first(drawn, given, codec):
    first = codec.kind.table()[drawn.kind[drawn.packet_offset[:-1]]]
    continues = given[0][:, ATTRIBUTE_INDEX["continues_from_before"]] > 0
    is_tcp = first[:, 0] % 3 == 1
    assert (continues & is_tcp).any()
    assert not (first[continues & is_tcp, 2] & SYN).any()


def test_at_most_so_many_packets_are_drawn_as_asked(networks, codec, given, drawn):
    head = draw_packets(networks["packets"], codec, *given, chance(), most=4)
    np.testing.assert_array_equal(np.diff(head.packet_offset), np.minimum(given[3], 4))


def test_drawn_conversations_are_taken_and_put_by_row(drawn):
    rows = np.array([3, 0])
    part = drawn.take(rows)
    a, b = drawn.packet_offset[3:5]
    np.testing.assert_array_equal(part.octets[: b - a], drawn.octets[a:b])
    other = dataclasses.replace(part, octets=part.octets + 1)
    changed = drawn.put(rows, other)
    np.testing.assert_array_equal(changed.take(rows).octets, other.octets)
    rest = np.setdiff1d(np.arange(len(drawn.packet_offset) - 1), rows)
    np.testing.assert_array_equal(changed.take(rest).octets, drawn.take(rest).octets)
    np.testing.assert_array_equal(drawn.take(rows).octets, part.octets)  # the old one is as it was


def test_a_table_of_what_was_drawn_starts_when_it_was_said_to(codec, conversations, drawn):
    attributes, start_ns = conversations
    ends = decode_endpoints(attributes, codec, np.random.default_rng(1))
    np.testing.assert_array_equal(encode(to_table(ends, drawn, codec), codec).start_ns, start_ns)


@pytest.mark.parametrize("most", [None, 5])
@pytest.mark.parametrize("count", [1, 2, SLOTS - 1, SLOTS, SLOTS + 1])
def test_a_conversation_is_drawn_the_same_whatever_is_drawn_beside_it(networks, codec, given, count, most):
    many = tuple(np.resize(column, (SLOTS + 70, *column.shape[1:])) for column in given)
    together = draw_packets(networks["packets"], codec, *many, chance(), most=most)
    alone = draw_packets(networks["packets"], codec, *(column[:count] for column in many), chance(), most=most)
    same = together.take(np.arange(count))
    for field in dataclasses.fields(alone):
        np.testing.assert_array_equal(getattr(alone, field.name), getattr(same, field.name), field.name)


class Seeds:
    """What seeds these conversations' generators, and no others."""

    def __init__(self, rng, count, rows):
        self._seeds = rng.integers(0, 1 << 64, count, dtype=np.uint64)[rows]

    def integers(self, *_, **__):
        return self._seeds.copy()


def test_conversations_in_another_order_are_the_same(networks, codec, given, drawn):
    rows = np.random.default_rng(3).permutation(len(given[3]))[::3]
    some = draw_packets(
        networks["packets"], codec, *(column[rows] for column in given), Seeds(chance(), len(given[3]), rows)
    )
    same = drawn.take(rows)
    for field in dataclasses.fields(some):
        np.testing.assert_array_equal(getattr(some, field.name), getattr(same, field.name), field.name)


def test_events_are_drawn_no_more_often_than_they_may(networks, codec, given):
    """Where one of the TCP kinds with octets is a retransmission, it comes often, unless the chunk shows it rarely."""
    table = codec.kind.table()
    many = np.flatnonzero((table[:, 0] % 3 == 1) & (table[:, 5] > 0) & codec.kind.is_active())[0]
    slots = list(codec.kind.slots)
    slots[many] = (*slots[many][:6], int(TcpEvent.RETRANSMISSION))
    again = dataclasses.replace(codec, kind=dataclasses.replace(codec.kind, slots=tuple(slots)))

    def said(**limits):
        packets = draw_packets(networks["packets"], again, *given, chance(), **limits)
        return int((packets.kind == many).sum())

    few = np.zeros(len(TcpEvent), np.int64)
    few[TcpEvent.RETRANSMISSION] = 3
    assert said() > 3
    assert said(events=few) == 3


def test_a_run_of_slices_is_drawn_the_same_whatever_runs_are_beside_it(networks, codec):
    profile = np.zeros(SLICES, np.int64)
    profile[::2] = 300  # a run each
    many = dataclasses.replace(codec, profile=profile, urns=Urns.empty())
    one = dataclasses.replace(many, profile=np.where(np.arange(SLICES) == 0, profile, 0))
    attributes, start_ns = draw_attributes(networks["attributes"], many, chance())
    alone, alone_ns = draw_attributes(networks["attributes"], one, chance())
    np.testing.assert_array_equal(attributes[:300], alone)
    np.testing.assert_array_equal(start_ns[:300], alone_ns)
    assert (attributes[300:600] != alone).any()


def test_heads_of_what_was_drawn_are_those_of_the_table_made_of_it(codec, given, drawn):
    attributes, _, _, counts = given
    ends = decode_endpoints(attributes, codec, np.random.default_rng(1))
    tokens = encode(to_table(ends, drawn, codec), codec)
    rows = np.arange(len(counts))
    a, b = heads_drawn(drawn, attributes, counts, codec), heads_of(tokens, rows)
    for field in dataclasses.fields(PacketTokens):
        if field.name in ("attributes", "size", "gap"):  # tokens may name another bin of what was cut to fit
            continue
        inside = a.counts if field.name in ("kind", "running", "needs_size", "needs_gap") else slice(None)
        torch.testing.assert_close(getattr(a, field.name)[inside], getattr(b, field.name)[inside], msg=field.name)


def test_a_drawn_table_has_flags_and_headers_for_tcp_alone(codec, given, drawn):
    ends = decode_endpoints(given[0], codec, np.random.default_rng(1))
    made = to_table(ends, drawn, codec)
    is_tcp = np.repeat((made.protocol_identifier == TCP) & (made.is_fragment == 0), made.packet_count)
    assert (made.tcp_header_length[is_tcp] >= 20).all()
    assert (made.tcp_header_length[~is_tcp] == 0).all()
    assert (made.tcp_event[~is_tcp] == 0).all()
