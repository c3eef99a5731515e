"""Portraits: the same numbers for the same packets, measured or drawn, and always numbers."""

import numpy as np
import pytest
from made_traffic import CLIENT, SERVER, batch_of, packet

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode, sort_by_start
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.portrait import (
    FEATURES,
    PACKETS,
    SIDE_PACKETS,
    portrait_of_drawn,
    portrait_of_measured,
)
from nsstream.model.sample_packets import DrawnPackets
from nsstream.trace.grouping import group_conversations

TOLD = ("service", "responder_host", "ttl", "marking", "initiator_port", "continues_from_before")
WHOLE = len(TOLD)  # the first column of the whole conversation
SIDES = (WHOLE + 3, WHOLE + 3 + 8 + 3 * SIDE_PACKETS)  # and of each side
BOTH = FEATURES - 2 * PACKETS
ABSENT = -9


def log_s(ns):
    return np.log10(np.asarray(ns) * 1e-9 + 1e-6)


@pytest.fixture(scope="module")
def portraits(table, tokens, codec):
    return portrait_of_measured(table, tokens, codec)


def as_drawn(table, tokens):
    octets, time_ns = table.ip_total_length.astype(np.int64), table.observation_time_ns
    return DrawnPackets(table.packet_offset, tokens.kind, tokens.size, tokens.gap, octets, time_ns)


def of_rows(*rows):
    """The one portrait of a conversation of these packets, in a chunk of a minute."""
    table = sort_by_start(group_conversations(batch_of(rows))[0])
    begin = int(table.observation_time_ns[0])
    codec = Codec.fit(table, begin, begin + 60_000_000_000)
    tokens = encode(table, codec)
    assert len(table) == 1
    drawn = portrait_of_drawn(as_drawn(table, tokens), tokens.attributes, codec)
    np.testing.assert_array_equal(portrait_of_measured(table, tokens, codec), drawn)
    return drawn[0]


def test_a_measured_conversation_and_the_same_one_drawn_have_one_portrait(table, tokens, codec, portraits):
    drawn = portrait_of_drawn(as_drawn(table, tokens), tokens.attributes, codec)
    assert portraits.shape == (len(table), FEATURES)
    np.testing.assert_array_equal(drawn, portraits)


def test_every_number_is_finite(portraits):
    assert portraits.dtype == np.float32
    assert np.isfinite(portraits).all()


def test_attributes_stand_first(tokens, portraits):
    for i, name in enumerate(TOLD):
        np.testing.assert_array_equal(portraits[:, i], tokens.attributes[:, ATTRIBUTE_INDEX[name]])


def test_totals_are_those_of_numpy(table, codec, portraits):
    for i, row in enumerate(portraits):
        here = slice(*table.packet_offset[i : i + 2])
        time_ns, side = table.observation_time_ns[here], table.direction[here]
        octets = table.ip_total_length[here].astype(np.int64)
        slot = 32 * (time_ns[0] - codec.first_ns) // (codec.last_ns + 1 - codec.first_ns)
        whole = [np.log1p(len(octets)), log_s(np.ptp(time_ns)), slot]
        np.testing.assert_allclose(row[WHOLE : WHOLE + 3], whole, rtol=1e-6)
        for s, at in enumerate(SIDES):
            sent, when = octets[side == s], time_ns[side == s]
            expected = [np.log1p(len(sent)), np.log1p(sent.sum())] + 6 * [ABSENT]
            if len(sent):
                waits = [np.ptp(when), when[0] - time_ns[0], time_ns[-1] - when[-1]]
                expected[2:] = [sent.mean(), sent.max(), sent.min(), *log_s(waits)]
            np.testing.assert_allclose(row[at : at + 8], expected, rtol=1e-6)


def test_first_packets_are_those_of_numpy(table, portraits):
    for i, row in enumerate(portraits):
        here = slice(*table.packet_offset[i : i + 2])
        time_ns, side = table.observation_time_ns[here], table.direction[here]
        for s, at in enumerate(SIDES):
            mine = np.flatnonzero(side == s)[:SIDE_PACKETS]
            expected = np.full((SIDE_PACKETS, 3), ABSENT, float)
            expected[: len(mine), 0] = table.ip_total_length[here][mine]
            expected[: len(mine), 1] = table.control[here][mine]
            expected[1 : len(mine), 2] = log_s(np.diff(time_ns[mine]))
            np.testing.assert_allclose(row[at + 8 : at + 8 + 3 * SIDE_PACKETS], expected.ravel(), rtol=1e-6)
        expected = np.full((PACKETS, 2), ABSENT, float)
        first = min(len(side), PACKETS)
        expected[:first, 0] = side[:first]
        expected[1:first, 1] = log_s(np.diff(time_ns[:first]))
        np.testing.assert_allclose(row[BOTH:], expected.ravel(), rtol=1e-6)


def test_a_conversation_of_one_packet():
    row = of_rows(packet(5, octets=40))
    assert np.isfinite(row).all()
    np.testing.assert_allclose(row[WHOLE : WHOLE + 2], [np.log(2), -6], rtol=1e-6)
    assert row[SIDES[0] + 2] == row[SIDES[0] + 3] == row[SIDES[0] + 4] == 68
    np.testing.assert_array_equal(row[SIDES[1] : SIDES[1] + 2], 0)
    np.testing.assert_array_equal(row[SIDES[1] + 2 : BOTH], ABSENT)


def test_a_conversation_that_is_never_answered():
    row = of_rows(*(packet(100 * i, octets=10 * i) for i in range(9)))
    assert np.isfinite(row).all()
    np.testing.assert_array_equal(row[SIDES[1] + 2 : BOTH], ABSENT)
    np.testing.assert_array_equal(row[BOTH::2], 0)
    np.testing.assert_allclose(row[BOTH + 3 :: 2], -1, atol=1e-4)


def test_packets_at_one_moment():
    row = of_rows(*(packet(1, *ends, octets=10) for ends in ((CLIENT, SERVER), (SERVER, CLIENT)) * 2))
    assert np.isfinite(row).all()
    np.testing.assert_allclose(row[[WHOLE + 1, BOTH + 3, BOTH + 5, BOTH + 7]], -6)
