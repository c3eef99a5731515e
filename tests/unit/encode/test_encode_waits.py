"""Waits: of long conversations, each its own, coarsely; and counts from a stranger are refused."""

import numpy as np
import pytest

from nsstream.encode.urns import CLASSES
from nsstream.encode.waits import LONG, MOST, STEPS, Waits, step_of


def counted(*conversations, classes=None):
    """The waits of conversations, each given as the nanoseconds between its packets."""
    packets = np.array([1 + len(waits) for waits in conversations])
    since = np.concatenate([np.r_[0, waits] for waits in conversations]).astype(np.int64)
    classes = np.zeros(len(packets), np.int64) if classes is None else np.array(classes)
    return Waits.fit(classes, np.r_[0, np.cumsum(packets)], since)


def test_steps_are_a_quarter_of_a_decade_from_a_microsecond_on():
    assert step_of(np.array([0, 999, 1_000, 1_778, 1_779, 10**4 - 1, 10**4, 10**30 % (1 << 62)])).tolist() == [
        *(0, 0, 1, 1, 2, 4, 5),
        STEPS - 1,
    ]


def test_each_long_conversation_keeps_its_own_and_short_ones_none():
    talk, transfer = np.full(LONG, 10**7), np.r_[np.full(LONG, 10**5), 10**10]
    waits = counted(np.full(LONG - 1, 10**7), transfer, talk, classes=[0, 0, 3])
    assert waits.of.tolist() == [[0, LONG + 2], [3, LONG + 1]]
    assert waits.cells.tolist() == [
        [0, int(step_of(np.array([10**5]))[0]), LONG],
        [0, int(step_of(np.array([10**10]))[0]), 1],
        [1, int(step_of(np.array([10**7]))[0]), LONG],
    ]


def test_of_too_many_the_longest_are_kept():
    waits = counted(*(np.full(LONG + i % 2, 10**6) for i in range(2 * MOST)))
    assert waits.of[:, 1].tolist() == [LONG + 2] * MOST


def test_they_are_read_as_they_were_written():
    waits = counted(np.full(LONG, 10**7), np.full(2 * LONG, 10**5))
    assert Waits.from_json(waits.as_json()).as_json() == waits.as_json()
    assert Waits.from_json(Waits.empty().as_json()).as_json() == Waits.empty().as_json()


@pytest.mark.parametrize(
    "change",
    [
        {"cells": [[1, 0, 1]]},
        {"cells": [[0, STEPS, 1]]},
        {"cells": [[0, 0, -1]]},
        {"of": [[CLASSES, LONG + 1]]},
        {"of": [[0, LONG]]},
        {"of": [[0]]},
    ],
)
def test_what_cannot_be_is_refused(change):
    told = counted(np.full(LONG, 10**7)).as_json()
    with pytest.raises(ValueError, match=r"waits|reshape"):
        Waits.from_json(told | change)
