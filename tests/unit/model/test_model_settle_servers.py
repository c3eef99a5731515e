"""Settled servers: who is long is as far from its server as one of that length was, and everybody is asked as often."""

import dataclasses

import numpy as np
import pytest

from nsstream.encode.schema import ATTRIBUTE_INDEX, LENGTH_GRID
from nsstream.model.settle_servers import settle_servers

INITIATOR, SERVICE, RESPONDER, TTL, LENGTH = (
    ATTRIBUTE_INDEX[name] for name in ("initiator_host", "service", "responder_host", "ttl", "packet_count")
)
LONG = LENGTH_GRID.exact + 20


@pytest.fixture
def told(codec):
    """A codec whose only long conversation had the third pair of TTLs."""
    return dataclasses.replace(codec, urns=dataclasses.replace(codec.urns, loads=np.array([[2, LONG, 1]])))


def talk(*rows):
    """Conversations of initiator, service, responder, TTLs and length."""
    out = np.zeros((len(rows), len(ATTRIBUTE_INDEX)), np.int64)
    out[:, [INITIATOR, SERVICE, RESPONDER, TTL, LENGTH]] = rows
    return out


def test_the_long_one_changes_places_with_one_that_has_its_ttls(told):
    drawn = talk((0, 1, 5, 0, LONG), (0, 1, 6, 1, 3), (1, 1, 7, 2, 3), (0, 4, 8, 2, 3), (0, 1, 9, 2, 4))
    settle_servers(drawn, told)
    assert drawn[:, [INITIATOR, SERVICE, RESPONDER, TTL, LENGTH]].tolist() == [
        [0, 1, 9, 2, LONG], [0, 1, 6, 1, 3], [1, 1, 7, 2, 3], [0, 4, 8, 2, 3], [0, 1, 5, 0, 4],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "drawn",
    [
        talk((0, 1, 5, 2, LONG), (0, 1, 9, 2, 4)),  # it has them already
        talk((0, 1, 5, 0, LONG), (1, 1, 9, 2, 4)),  # nobody of its host has
        talk((0, 1, 5, 0, LONG + 1), (0, 1, 9, 2, 4)),  # none of that length was counted
        talk((0, 1, 5, 0, 3), (0, 1, 9, 2, 4)),  # nobody is long
    ],
)
def test_others_stay_as_they_are(told, drawn):
    before = drawn.copy()
    settle_servers(drawn, told)
    np.testing.assert_array_equal(drawn, before)


def test_of_two_the_one_that_was_counted_is_served_first(told):
    drawn = talk((0, 1, 5, 0, LONG), (0, 1, 6, 0, LONG), (0, 1, 9, 2, 4))
    settle_servers(drawn, told)
    assert sorted(drawn[:, TTL].tolist()) == [0, 0, 2]
    assert (drawn[drawn[:, LENGTH] == LONG, TTL] == 2).sum() == 1
