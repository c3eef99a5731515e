"""Completeness: what a conversation's flags and payload say of its connection, as tshark sums it up."""

import numpy as np
import pytest

from nsstream.trace.completeness import COMPLETENESS, completeness_of, completeness_of_packets
from nsstream.trace.fields import ACK, FIN, PSH, RST, SYN

WHOLE = [(SYN, False), (SYN | ACK, False), (ACK, False), (PSH | ACK, True), (FIN | ACK, False), (ACK, False)]


@pytest.mark.parametrize(
    ("segments", "value"),
    [
        (WHOLE, 31),
        ([*WHOLE, (RST, False)], 63),
        ([(SYN, False), (RST | ACK, False)], 37),
        ([(SYN, False)], 1),
        ([(SYN, False), (SYN | ACK, False)], 3),
        ([(PSH | ACK, True), (ACK, False)], 12),
        ([(RST, False)], 32),
        ([(0, False)], 0),
    ],
)
def test_a_connection_is_the_sum_of_what_it_shows(segments, value):
    control, data = (np.array(column) for column in zip(*segments, strict=True))
    of_packets = completeness_of_packets(control, data)
    assert completeness_of(np.array([0, len(segments)]), of_packets).tolist() == [value]
    assert value < COMPLETENESS


def test_each_conversation_has_its_own():
    assert completeness_of(np.array([0, 2, 3]), np.array([1, 2, 4])).tolist() == [3, 4]
    assert len(completeness_of(np.array([0]), np.zeros(0, np.int64))) == 0
