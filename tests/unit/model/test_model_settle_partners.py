"""Settled partners: who is long is between hosts, as far away and as early as one of that length was."""

import dataclasses

import numpy as np
import pytest

from nsstream.encode.schema import ATTRIBUTE_INDEX, HOST_SLOTS, LENGTH_GRID
from nsstream.encode.urns import LEAST_LOAD, PARTIES, Urns, parties_of
from nsstream.model.settle_partners import settle_partners

INITIATOR, SERVICE, RESPONDER, TTL, LENGTH = (
    ATTRIBUTE_INDEX[name] for name in ("initiator_host", "service", "responder_host", "ttl", "packet_count")
)
LONG = LENGTH_GRID.exact + 20
NONE = np.zeros((0, 3), np.int64)


def talk(*rows):
    """Conversations of initiator, service, responder, TTLs and length."""
    out = np.zeros((len(rows), len(ATTRIBUTE_INDEX)), np.int64)
    out[:, [INITIATOR, SERVICE, RESPONDER, TTL, LENGTH]] = rows
    return out


@pytest.fixture
def told(codec):
    """A codec whose only long conversation was of initiator 0 with responder 9, with the third pair of TTLs."""
    loads = [[party, LONG, 1] for party in parties_of(*np.array([[0], [9], [2]])).ravel().tolist()]
    return dataclasses.replace(
        codec, urns=dataclasses.replace(codec.urns, loads=np.array(loads), volumes=NONE, lengths=NONE)
    )


def settle(drawn, codec):
    starts = np.full(len(drawn), codec.first_ns)
    settle_partners(drawn, starts, codec, np.random.default_rng(1))


def test_the_long_one_is_where_it_was(told):
    drawn = talk((0, 1, 5, 0, LONG), (0, 1, 6, 1, 3), (1, 1, 7, 2, 3), (0, 1, 9, 0, 3), (0, 1, 9, 2, 4))
    settle(drawn, told)
    assert drawn[:, LENGTH].tolist() == [4, 3, 3, 3, LONG]


@pytest.mark.parametrize(
    "drawn",
    [
        talk((0, 1, 9, 2, LONG), (0, 1, 9, 2, 4)),  # it is there already
        talk((0, 1, 5, 0, LONG), (1, 1, 6, 1, 4)),  # nobody else mends anything
        talk((0, 1, 5, 0, LEAST_LOAD - 1), (0, 1, 9, 2, 4)),  # nobody is long
    ],
)
def test_others_stay_as_they_are(told, drawn):
    before = drawn.copy()
    settle(drawn, told)
    np.testing.assert_array_equal(drawn, before)


def test_nothing_is_done_where_nothing_was_counted(codec):
    drawn = talk((0, 1, 5, 0, LONG), (0, 1, 9, 2, 4))
    before = drawn.copy()
    settle(drawn, dataclasses.replace(codec, urns=Urns.empty()))
    np.testing.assert_array_equal(drawn, before)


def test_lengths_stay_with_their_service_and_with_who_answers(codec):
    rng, n = np.random.default_rng(2), 400
    is_silent = codec.ttl.table()[:, -1] == 0
    drawn = talk(*np.stack([rng.integers(0, 3, n), rng.integers(0, 2, n), rng.integers(3, 9, n), rng.integers(0, 2, n),
                            rng.integers(1, LONG, n)], axis=1).tolist())  # fmt: skip
    parties = parties_of(drawn[:, INITIATOR], drawn[:, RESPONDER], drawn[:, TTL])
    loads = np.array([[p, length, 1] for p, length in zip(rng.permuted(parties.ravel()), np.repeat(drawn[:, LENGTH], 3),
                                                          strict=True) if length >= LEAST_LOAD])  # fmt: skip
    before = drawn.copy()
    settle(drawn, dataclasses.replace(codec, urns=dataclasses.replace(codec.urns, loads=loads)))
    assert (drawn != before).any()
    kinds = {(s, a): [] for s in (0, 1) for a in (False, True)}
    for now, then in zip(drawn, before, strict=True):
        kinds[now[SERVICE], bool(is_silent[now[TTL]])].append((now[LENGTH], then[LENGTH]))
    classes = codec.service_classes()
    assert classes[0] != classes[1]
    assert all(sorted(a for a, _ in pairs) == sorted(b for _, b in pairs) for pairs in kinds.values())
    others = np.delete(np.arange(drawn.shape[1]), LENGTH)
    np.testing.assert_array_equal(drawn[:, others], before[:, others])


def test_parties_are_told_apart():
    hosts, ttls = np.arange(HOST_SLOTS + 2), np.arange(HOST_SLOTS + 2) % 384
    parties = parties_of(hosts, hosts, ttls)
    assert parties.max() < PARTIES
    assert len(np.unique(parties)) == 2 * (HOST_SLOTS + 2) + 384
