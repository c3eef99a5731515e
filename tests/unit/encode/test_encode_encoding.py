"""Encoding and decoding: what comes back exactly, what comes back in kind, what is bounded always."""

import dataclasses

import numpy as np
import pytest
from made_traffic import MINUTE_NS, START_NS, batch_of, made_table, octets_of, packet

from nsstream.encode.codec import Codec, kind_values, stack_of
from nsstream.encode.decoding import decode_endpoints
from nsstream.encode.encoding import allowed_attributes, allowed_kinds, encode, size_tokens, sort_by_start
from nsstream.encode.schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    BLOCK_PORTS,
    COUNTDOWNS,
    GAPS,
    HOST_SLOTS,
    KINDS,
    POSITIONS,
    SIZE_SLOTS,
    SIZES,
    START_FEATURES,
    TIMES_LEFT,
)
from nsstream.trace.grouping import group_conversations


def both(table):
    codec = Codec.fit(table, START_NS, START_NS + MINUTE_NS)
    return codec, encode(table, codec)


@pytest.fixture(scope="module")
def table():
    return made_table(count=120)


@pytest.fixture(scope="module")
def coded(table):
    return both(table)


def decoded(coded, seed=1):
    codec, tokens = coded
    return decode_endpoints(tokens.attributes, codec, np.random.default_rng(seed))


def test_every_token_is_within_its_bounds(coded):
    _, tokens = coded
    for column, size in zip(tokens.attributes.T, ATTRIBUTES.values(), strict=True):
        assert 0 <= column.min() <= column.max() < size
    sizes = {"kind": KINDS, "size": SIZES, "gap": GAPS}
    sizes |= {"countdown": COUNTDOWNS, "position": POSITIONS, "time_left": TIMES_LEFT}
    for name, size in sizes.items():
        column = getattr(tokens, name)
        assert 0 <= column.min() <= column.max() < size
    assert tokens.start_features.shape == (len(tokens), START_FEATURES)
    assert np.isfinite(tokens.start_features).all()


def test_what_is_encoded_is_allowed(coded):
    codec, tokens = coded
    for column, mask in zip(tokens.attributes.T, allowed_attributes(codec), strict=True):
        assert mask[column].all()
    owner = np.repeat(np.arange(len(tokens)), np.diff(tokens.packet_offset))
    assert allowed_kinds(codec)[tokens.stack[owner], tokens.kind].all()


def test_attributes_come_back_exactly_where_the_vocabularies_are_large_enough(table, coded):
    ends = decoded(coded)
    for name in (
        "protocol_identifier", "ip_version", "is_fragment", "responder_port", "initiator_ttl", "responder_ttl",
        "initiator_class_of_service", "responder_class_of_service", "vlan_id", "continues_from_before",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(ends, name), getattr(table, name), err_msg=name)
        assert getattr(ends, name).dtype == getattr(table, name).dtype
    np.testing.assert_array_equal(ends.stack, stack_of(table.protocol_identifier, table.ip_version, table.is_fragment))


@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_known_hosts_come_back_exactly_and_rare_ones_as_strangers_of_their_family(table, coded, role):
    ends = decoded(coded)
    token = coded[1].attributes[:, ATTRIBUTE_INDEX[f"{role}_host"]]
    made, true = getattr(ends, f"{role}_address"), getattr(table, f"{role}_address")
    np.testing.assert_array_equal(made[token < HOST_SLOTS], true[token < HOST_SLOTS])
    is_mapped = (made[:, :12] == octets_of("0.0.0.0")[:12]).all(axis=1)
    np.testing.assert_array_equal(is_mapped, table.ip_version == 4)
    assert (token < HOST_SLOTS).any()


def test_an_initiator_port_comes_back_or_another_of_its_block(table, coded):
    ends = decoded(coded)
    np.testing.assert_array_equal(ends.initiator_port[~ends.has_free_port], table.initiator_port[~ends.has_free_port])
    np.testing.assert_array_equal(ends.initiator_port // BLOCK_PORTS, table.initiator_port // BLOCK_PORTS)
    assert ends.has_free_port.any()


def test_packet_kinds_and_sizes_come_back_exactly(table, coded):
    codec, tokens = coded
    np.testing.assert_array_equal(codec.kind.table()[tokens.kind], kind_values(table))
    frequent = tokens.size < SIZE_SLOTS
    np.testing.assert_array_equal(codec.size.table()[tokens.size[frequent], 0], table.ip_total_length[frequent])
    assert frequent.any()
    np.testing.assert_array_equal(size_tokens(table.ip_total_length, codec), tokens.size)


def test_the_first_gap_of_a_conversation_is_none(coded):
    _, tokens = coded
    assert (tokens.gap[tokens.packet_offset[:-1]] == 0).all()
    assert (tokens.gap > 0).any()


def test_a_rare_service_keeps_its_port_in_two_octets():
    rows = [packet(i, ("192.0.2.1", 5000 + i), ("192.0.2.2", 53)) for i in range(4)]
    rows += [packet(9, ("192.0.2.1", 5000), ("192.0.2.2", 0xABCD))]
    table, _ = group_conversations(batch_of(rows))
    codec, tokens = both(table)
    high, low = (tokens.attributes[:, ATTRIBUTE_INDEX[f"responder_port_{part}"]] for part in ("high", "low"))
    assert high.tolist() == [0, 0, 0, 0, 1 + 0xAB]
    assert low.tolist() == [0, 0, 0, 0, 1 + 0xCD]
    assert decode_endpoints(tokens.attributes, codec, np.random.default_rng(1)).responder_port.tolist()[-1] == 0xABCD


def test_protocols_without_ports_get_none():
    rows = [packet(i, (f"192.0.2.{i % 3}", 0), ("192.0.2.9", 0), 47 + i % 2, 100) for i in range(6)]
    codec, tokens = both(group_conversations(batch_of(rows))[0])
    tokens.attributes[:, ATTRIBUTE_INDEX["initiator_port"]] = ATTRIBUTES["initiator_port"] - 1  # whatever is drawn
    ends = decode_endpoints(tokens.attributes, codec, np.random.default_rng(1))
    assert not ends.initiator_port.any()
    assert not ends.responder_port.any()
    assert not ends.has_free_port.any()


def test_a_chunk_in_which_no_host_is_met_twice_can_be_decoded():
    ends = [f"{i // 200}.{i % 200 + 1}" for i in range(HOST_SLOTS)]
    rows = [packet(i, (f"192.0.{end}", 5000), (f"198.51.{end}", 53)) for i, end in enumerate(ends)]
    codec, tokens = both(group_conversations(batch_of(rows))[0])
    assert not codec.host.is_active().any()
    ends = decode_endpoints(tokens.attributes, codec, np.random.default_rng(1))
    known = {octets_of(f"{a}.{i}.0")[:15].tobytes() for a in ("192.0", "198.51") for i in range(6)}
    assert {a[:15].tobytes() for a in ends.initiator_address} <= known


def test_hosts_of_the_other_family_are_made_up_anew(coded):
    codec, tokens = coded
    attributes = tokens.attributes.copy()
    six = int(np.flatnonzero(codec.host.is_active() & (codec.host.table()[:, 0] == 6))[0])
    attributes[:, ATTRIBUTE_INDEX["initiator_host"]] = six
    ends = decode_endpoints(attributes, codec, np.random.default_rng(1))
    is_mapped = (ends.initiator_address[:, :12] == octets_of("0.0.0.0")[:12]).all(axis=1)
    np.testing.assert_array_equal(is_mapped, ends.ip_version == 4)


def test_decoding_is_all_chance_of_the_generator(coded):
    for a, b in zip(dataclasses.astuple(decoded(coded, 5)), dataclasses.astuple(decoded(coded, 5)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_chunk_of_one_instant_has_finite_features():
    rows = [packet(0, (f"192.0.2.{i}", 5000)) for i in range(9)]
    _, tokens = both(group_conversations(batch_of(rows))[0])
    assert np.isfinite(tokens.start_features).all()


def test_sorting_by_start_moves_whole_conversations(table):
    mixed = table.take(np.random.default_rng(1).permutation(len(table)))
    again = sort_by_start(mixed)
    for name, column in table.columns().items():
        np.testing.assert_array_equal(getattr(again, name), column)
