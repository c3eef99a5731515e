"""New conversations: as many as the chunk had, in order, each at least a packet, as long as the chunk's own."""

import dataclasses

import numpy as np
import pytest

from nsstream.encode.codec import slice_of
from nsstream.encode.decoding import decode_endpoints
from nsstream.encode.schema import ATTRIBUTE_INDEX, BLOCK_PORTS, HOST_SLOTS
from nsstream.encode.tokens import moment_of
from nsstream.encode.urns import NAMES, Urns
from nsstream.model.conversations import draw_conversations, fit_volume


def test_what_is_drawn_goes_together(networks, codec):
    drawn = draw_conversations(networks["attributes"], codec, np.random.default_rng(1))
    n = int(codec.profile.sum())
    assert len(drawn.attributes) == len(drawn.ends.stack) == len(drawn.start_ns) == len(drawn.counts) == n
    assert (np.diff(drawn.start_ns) >= 0).all()
    assert codec.first_ns == drawn.start_ns[0]
    assert drawn.start_ns[-1] <= codec.last_ns
    assert (drawn.counts >= 1).all()
    assert abs(int(drawn.counts.sum()) - codec.packet_count) <= 0.1 * codec.packet_count


def test_the_same_chance_draws_the_same_conversations(networks, codec):
    one, again, other = (
        draw_conversations(networks["attributes"], codec, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    for name in ("attributes", "start_ns", "counts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    np.testing.assert_array_equal(one.ends.initiator_port, again.ends.initiator_port)
    assert not np.array_equal(one.attributes, other.attributes)


def test_lengths_are_the_chunks_own_whatever_was_drawn(codec):
    conversations = int(codec.profile.sum())
    for drawn in (np.ones(conversations, np.int64), np.full(conversations, 10**7), np.arange(conversations)):
        counts = fit_volume(drawn, codec, np.random.default_rng(1))
        assert abs(int(counts.sum()) - codec.packet_count) <= 0.1 * codec.packet_count
        assert (counts >= 1).all()


def test_what_was_drawn_longest_is_longest(codec):
    drawn = np.random.default_rng(1).permutation(50)
    counts = fit_volume(drawn, codec, np.random.default_rng(1))
    assert (np.diff(counts[np.argsort(drawn)]) >= 0).all()


def test_short_conversations_stay_as_long_as_they_were_drawn(codec):
    drawn = np.random.default_rng(2).permutation(codec.length.sample(int(codec.profile.sum())))
    counts = fit_volume(drawn, codec, np.random.default_rng(1))
    is_short = drawn <= 32
    assert is_short.any()
    np.testing.assert_array_equal(counts[is_short], drawn[is_short])


def pairs_of(codec, drawn):
    """What the urns count, of drawn conversations."""
    said = {name: drawn.attributes[:, at] for name, at in ATTRIBUTE_INDEX.items()}
    return Urns.fit(
        moment=moment_of(slice_of(drawn.start_ns, codec.first_ns, codec.last_ns)),
        initiator=said["initiator_host"],
        service=said["service"],
        responder=said["responder_host"],
        ttl=said["ttl"],
        is_silent=drawn.ends.responder_ttl == 0,
        length=said["packet_count"],
        stack=drawn.ends.stack,
    )


def counts_off(name, codec, drawn):
    """By how many conversations drawn pairs are not the chunk's."""
    wanted, came = ({(a, b): n for a, b, n in getattr(u, name).tolist()} for u in (codec.urns, pairs_of(codec, drawn)))
    return sum(abs(wanted.get(pair, 0) - came.get(pair, 0)) for pair in wanted | came)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "loads"])
def test_pairs_come_as_often_as_the_chunk_had_them(networks, codec, name):
    assert getattr(codec.urns, name)[:, 2].sum() == codec.profile.sum()
    silent = dataclasses.replace(codec, urns=Urns.empty())
    off = []
    for asked in (codec, silent):
        drawn = [draw_conversations(networks["attributes"], asked, np.random.default_rng(seed)) for seed in range(5)]
        assert {len(one) for one in drawn} == {int(codec.profile.sum())}
        off.append(sum(counts_off(name, codec, one) for one in drawn))
    assert off[0] < 0.6 * off[1]  # of a network that knows nothing, and hosts of two families


def test_who_never_answered_does_not_begin_to(networks, codec):
    counted = {(host, ttl) for host, ttl, _ in codec.urns.answers.tolist()}
    hosts = {host for host, _ in counted}
    strange = []
    for answers in (codec.urns.answers, Urns.empty().answers):
        told = dataclasses.replace(codec, urns=dataclasses.replace(Urns.empty(), answers=answers))
        attributes = draw_conversations(networks["attributes"], told, np.random.default_rng(1)).attributes
        pairs = attributes[:, [ATTRIBUTE_INDEX["responder_host"], ATTRIBUTE_INDEX["ttl"]]].tolist()
        strange.append(sum((host, ttl) not in counted for host, ttl in pairs if host in hosts))
    assert strange[0] == 0
    assert strange[1] > 0


def test_no_client_speaks_from_a_port_that_the_chunk_used(networks, codec):
    drawn = draw_conversations(networks["attributes"], codec, np.random.default_rng(1))
    free = drawn.ends.initiator_port[drawn.ends.has_free_port]
    assert len(codec.taken_ports) > 10
    assert len(free) > 10
    assert not np.isin(free, codec.taken_ports).any()


@pytest.mark.parametrize(("every", "used_again"), [(1, True), (3, True), (8, False)])
def test_where_much_of_a_block_is_used_its_ports_are_used_again(networks, codec, every, used_again):
    full = dataclasses.replace(codec, taken_ports=np.arange(0, 1 << 16, every))
    drawn = draw_conversations(networks["attributes"], full, np.random.default_rng(1))
    free = drawn.ends.initiator_port[drawn.ends.has_free_port]
    blocks = np.flatnonzero(codec.port_blocks)
    assert len(free) > 10
    assert np.isin(free // BLOCK_PORTS, blocks).all()
    assert np.isin(free, full.taken_ports).any() == used_again


def test_new_hosts_are_not_one_another(networks, codec):
    drawn = draw_conversations(networks["attributes"], codec, np.random.default_rng(1))
    prefix = np.array([[4, *[0] * 10, 255, 255, 10, 1, 2, 0]])
    everybody = dataclasses.replace(codec, rare_prefix=prefix, rare_fresh=(1.0, 1.0))
    rare = drawn.attributes[:200].copy()
    rare[:, ATTRIBUTE_INDEX["initiator_host"]] = HOST_SLOTS
    is_ipv4 = codec.service.table()[rare[:, ATTRIBUTE_INDEX["service"]], 1] == 4
    ends = decode_endpoints(rare[is_ipv4], everybody, np.random.default_rng(2))
    assert len(np.unique(ends.initiator_address, axis=0)) == is_ipv4.sum() > 50
