"""Series: numbers and back, auto-normalisation, and what a wild generator may not say."""

import dataclasses
import json

import numpy as np
import pytest
from made_traffic import MINUTE_NS, START_NS, batch_of, connection, made_table, packet

from nsstream.encode.address_map import AddressMap
from nsstream.encode.encoding import sort_by_start
from nsstream.encode.series import (
    ATTRIBUTE_WIDTH,
    FEATURE_WIDTH,
    METADATA_WIDTH,
    DecodedSeries,
    decode_series,
    encode_series,
)
from nsstream.encode.series_codec import KIND_RANKS, Scale, SeriesCodec
from nsstream.trace.fields import TCP
from nsstream.trace.grouping import group_conversations

ADDRESSES = AddressMap(b"sixteen octets..")


def mapped(table):
    return dataclasses.replace(
        table,
        initiator_address=ADDRESSES.map(table.initiator_address),
        responder_address=ADDRESSES.map(table.responder_address),
    )


@pytest.fixture(scope="module")
def table():
    return mapped(made_table(count=72))


@pytest.fixture(scope="module")
def codec(table):
    return SeriesCodec.fit(table, START_NS, START_NS + MINUTE_NS, ADDRESSES.networks)


def decoded(table, codec, length=80):
    series = encode_series(table, codec)
    features = series.features(np.arange(len(series)), length)
    return decode_series(series.attributes, features, codec, np.random.default_rng(0))


def test_what_was_encoded_is_decoded(table, codec):
    out = decoded(table, codec)
    np.testing.assert_array_equal(out.packet_offset, table.packet_offset)
    np.testing.assert_array_equal(out.octets, table.ip_total_length)
    assert np.abs(out.time_ns - table.observation_time_ns).max() < 20_000  # of a minute, as a float of 24 bits
    kinds = codec.kind.table()[out.kind]
    np.testing.assert_array_equal(kinds[:, 1], table.direction)
    np.testing.assert_array_equal(kinds[:, 2], table.control)
    for name in (
        "initiator_address", "responder_address", "protocol_identifier", "ip_version", "responder_port",
        "initiator_ttl", "responder_ttl", "continues_from_before", "is_fragment",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(out.ends, name), getattr(table, name), err_msg=name)
    assert (out.ends.initiator_port // 1024 == table.initiator_port // 1024).all()
    assert (out.ends.initiator_port[out.ends.has_free_port] != table.initiator_port[out.ends.has_free_port]).any()


def test_a_codec_survives_json(table, codec):
    again = SeriesCodec.from_json(json.loads(json.dumps(codec.as_json())))
    one, other = encode_series(table, codec), encode_series(table, again)
    np.testing.assert_array_equal(one.attributes, other.attributes)
    np.testing.assert_array_equal(one.rank, other.rank)
    np.testing.assert_array_equal(one.place, other.place)


def test_gap_and_size_lie_between_their_own_extremes(table, codec):
    series = encode_series(table, codec)
    assert series.attributes.shape == (len(table), ATTRIBUTE_WIDTH)
    assert series.attributes.min() >= -1
    assert series.attributes.max() <= 1
    size = codec.size.to_unit(table.ip_total_length.astype(float))
    for i in range(len(table)):
        own = slice(*table.packet_offset[i : i + 2])
        middle, half = series.attributes[i, METADATA_WIDTH + 2 :]
        assert middle - half == pytest.approx(size[own].min(), abs=1e-6)
        assert middle + half == pytest.approx(size[own].max(), abs=1e-6)
        place = series.place[own, 1]
        assert (place.min(), place.max()) == (0, 1 if np.ptp(size[own]) else 0)
        assert series.place[own, 0][0] == 0  # no gap before the first packet


def test_features_end_with_their_series_and_are_cut_at_the_length(table, codec):
    series = encode_series(table, codec)
    counts = table.packet_count
    features = series.features(np.arange(len(series)), 10)
    assert features.shape == (len(table), 10, FEATURE_WIDTH)
    there = features[..., :KIND_RANKS].sum(axis=2)
    np.testing.assert_array_equal(there, np.arange(10) < counts[:, None])
    goes_on, ends_here = features[..., -2], features[..., -1]
    np.testing.assert_array_equal(ends_here.argmax(axis=1), np.minimum(counts, 10) - 1)
    np.testing.assert_array_equal(goes_on + ends_here, there)


def test_a_packet_behind_the_end_of_the_chunk_is_left_out_but_never_the_first(table, codec):
    series = encode_series(table, codec)
    attributes = series.attributes.copy()
    attributes[:, METADATA_WIDTH - 1] = 1.0  # all start with the chunk's last packet
    out = decode_series(attributes, series.features(np.arange(len(series)), 80), codec, np.random.default_rng(0))
    assert (np.diff(out.packet_offset) >= 1).all()
    assert (out.time_ns <= codec.last_ns).all()
    assert len(out.time_ns) < len(table.observation_time_ns)


def test_whatever_a_generator_says_is_a_conversation_in_the_ranges(table, codec):
    rng = np.random.default_rng(4)
    attributes = rng.uniform(-1, 1, (300, ATTRIBUTE_WIDTH)).astype(np.float32)
    features = rng.random((300, 20, FEATURE_WIDTH), np.float32)
    out = decode_series(attributes, features, codec, rng)
    kinds = codec.kind.table()[out.kind]
    stack = np.repeat(out.ends.stack, np.diff(out.packet_offset))
    np.testing.assert_array_equal(kinds[:, 0], stack)  # no kind of another protocol
    assert (np.diff(out.time_ns)[np.diff(stack) == 0].size) > 0
    known = {a.tobytes() for a in codec.kept_address}
    for addresses in (out.ends.initiator_address, out.ends.responder_address):
        for address, version in zip(addresses, out.ends.ip_version, strict=True):
            if address.tobytes() in known:
                continue
            if version == 4:
                assert address[:12].tobytes() == bytes(10) + b"\xff\xff"
                assert address[12] == 10 or address[12] >> 4 == 0xE
            else:
                assert address[0] in (0xFD, 0xFF)


def test_a_conversation_is_cut_where_its_first_last_packet_stands(codec):
    attributes = np.zeros((1, ATTRIBUTE_WIDTH), np.float32)
    features = np.zeros((1, 6, FEATURE_WIDTH), np.float32)
    features[0, :, -2:] = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]
    out = decode_series(attributes, features, codec, np.random.default_rng(0))
    assert out.packet_offset.tolist() == [0, 3]


def test_parts_are_put_together(table, codec):
    whole = decoded(table, codec)
    series = encode_series(table, codec)
    halves = np.array_split(np.arange(len(series)), 2)
    rng = np.random.default_rng(0)
    parts = [decode_series(series.attributes[r], series.features(r, 80), codec, rng) for r in halves]
    out = DecodedSeries.concatenate(parts)
    np.testing.assert_array_equal(out.packet_offset, whole.packet_offset)
    np.testing.assert_array_equal(out.octets, whole.octets)
    np.testing.assert_array_equal(out.ends.responder_port, whole.ends.responder_port)


def test_a_child_keeps_the_words_and_kinds_of_its_parent(codec):
    later = mapped(made_table(seed=2, count=72, minute=1))
    child = SeriesCodec.fit(later, START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS, ADDRESSES.networks, codec)
    for word, vector in zip(child.words.words, child.words.vectors, strict=True):
        at = np.flatnonzero(codec.words.words == word)
        if len(at):
            np.testing.assert_array_equal(vector, codec.words.vectors[at[0]])
    for old, new in zip(codec.kinds, child.kinds, strict=True):
        for i, value in enumerate(old.slots):
            assert value is None or value not in new.slots or new.slots[i] == value
    np.testing.assert_array_equal(decoded(later, child).ends.responder_port, later.responder_port)


def test_rare_kinds_become_the_nearest_of_their_stack():
    rows = [
        row
        for flags in range(40)
        for row in connection(flags * 100, ("192.0.2.1", 40_000 + flags), ("192.0.2.9", 80), 2)
    ]
    for i, row in enumerate(rows):
        if i % 3 == 0:
            row["tcp_control_bits"] |= 32 * (i % 8)
    table = mapped(sort_by_start(group_conversations(batch_of(rows))[0]))
    codec = SeriesCodec.fit(table, START_NS, START_NS + MINUTE_NS, ADDRESSES.networks)
    out = decoded(table, codec)
    assert len(out.kind) == len(rows)
    assert (codec.kind.table()[out.kind][:, 1] == table.direction).mean() > 0.95
    assert (out.ends.protocol_identifier == TCP).all()


def test_a_scale_of_one_value_or_none_gives_it_back():
    assert Scale.fit(np.array([7.0])).from_unit(Scale.fit(np.array([7.0])).to_unit(np.array([7.0]))) == 7
    assert Scale.fit(np.zeros(0)) == Scale(0, 1)


def test_addresses_that_the_map_leaves_alone_are_known(table):
    one = [packet(0, ("192.0.2.1", 5353), ("224.0.0.251", 5353), octets=40)]
    codec = SeriesCodec.fit(
        mapped(sort_by_start(group_conversations(batch_of(one))[0])), START_NS, START_NS + MINUTE_NS, ADDRESSES.networks
    )
    assert codec.kept_address[:, 12:].tolist() == [[224, 0, 0, 251]]
