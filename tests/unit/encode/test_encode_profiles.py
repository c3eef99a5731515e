"""Profiles of single conversations: waits of long ones, makeup of rare ones; counts from a stranger are refused."""

import numpy as np
import pytest

from nsstream.encode.makeup import FEW, MAKEUP, SIDE, fit_makeup, size_step
from nsstream.encode.profiles import Profiles
from nsstream.encode.urns import CLASSES
from nsstream.encode.waits import WAITS, fit_waits, step_of

LONG = WAITS.longer_than


def waits_of(*conversations, classes=None):
    """The waits of conversations, each given as the nanoseconds between its packets."""
    packets = np.array([1 + len(waits) for waits in conversations])
    since = np.concatenate([np.r_[0, waits] for waits in conversations]).astype(np.int64)
    classes = np.zeros(len(packets), np.int64) if classes is None else np.array(classes)
    return fit_waits(classes, np.r_[0, np.cumsum(packets)], since)


def test_steps_of_waits_are_a_quarter_of_a_decade_from_a_microsecond_on():
    waits = np.array([0, 999, 1_000, 1_778, 1_779, 10**4 - 1, 10**4, 1 << 62])
    assert step_of(waits).tolist() == [0, 0, 1, 1, 2, 4, 5, WAITS.steps - 1]


def test_each_long_conversation_keeps_its_own_waits_and_short_ones_none():
    talk, transfer = np.full(LONG, 10**7), np.r_[np.full(LONG, 10**5), 10**10]
    waits = waits_of(np.full(LONG - 1, 10**7), transfer, talk, classes=[0, 0, 3])
    short, pause, often = step_of(np.array([10**5, 10**10, 10**7])).tolist()
    assert waits.of.tolist() == [[0, LONG + 2], [3, LONG + 1]]
    assert waits.cells.tolist() == [[0, short, LONG], [0, pause, 1], [1, often, LONG]]


def test_of_too_many_the_longest_are_kept():
    waits = waits_of(*(np.full(LONG + i % 2, 10**6) for i in range(2 * WAITS.most)))
    assert waits.of[:, 1].tolist() == [LONG + 2] * WAITS.most


def test_sizes_have_steps_from_one_on():
    assert size_step(np.array([20, 63, 64, 1399, 1400, 65_535])).tolist() == [1, 1, 2, 6, 7, 7]
    assert size_step(np.array([65_535]))[0] == SIDE - 1


def makeup_of(conversations, packets=20):
    """So many conversations of one class: bare packets of the initiator and full ones of the responder in turn."""
    n = conversations * packets
    side = np.arange(n) % 2
    return fit_makeup(
        np.full(conversations, 5), np.arange(conversations + 1) * packets, side, side == 1, np.where(side, 1500, 52)
    )


def test_a_rare_conversations_packets_are_counted_by_side_and_size():
    makeup = makeup_of(1)
    assert makeup.of.tolist() == [[5, 20]]
    assert makeup.cells.tolist() == [[0, 0, 10], [0, 2 * SIDE - 1, 10]]
    assert makeup.table(MAKEUP).sum() == 20


def test_what_many_do_and_what_is_short_is_not_counted():
    assert len(makeup_of(FEW).of) == FEW
    assert not len(makeup_of(FEW + 1).of)
    assert not len(makeup_of(1, MAKEUP.longer_than).of)


def test_they_are_read_as_they_were_written():
    waits = waits_of(np.full(LONG, 10**7), np.full(2 * LONG, 10**5))
    assert Profiles.from_json(WAITS, waits.as_json()).as_json() == waits.as_json()
    assert Profiles.from_json(MAKEUP, Profiles.empty().as_json()).as_json() == Profiles.empty().as_json()


@pytest.mark.parametrize(
    "change",
    [
        {"cells": [[1, 0, 1]]},
        {"cells": [[0, WAITS.steps, 1]]},
        {"cells": [[0, 0, -1]]},
        {"of": [[CLASSES, LONG + 1]]},
        {"of": [[0, LONG]]},
        {"of": [[0]]},
    ],
)
def test_what_cannot_be_is_refused(change):
    told = waits_of(np.full(LONG, 10**7)).as_json()
    with pytest.raises(ValueError, match=r"profile|reshape"):
        Profiles.from_json(WAITS, told | change)
