"""Makeup: a rare conversation that is drawn has about as many packets of each side and size as one that was counted."""

import copy
import dataclasses

import numpy as np
import pytest

from nsstream.encode.makeup import MAKEUP, SIDE, size_step
from nsstream.encode.profiles import Profiles
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.sample_packets import draw_packets

PACKETS, CONVERSATIONS = 60, 12


@pytest.fixture(scope="module")
def asked(codec):
    """Conversations of one TCP service over IPv4, of which one was counted, and a large download that it was."""
    table = codec.service.table()
    service = int(np.flatnonzero(codec.service.is_active() & (table[:, 1] == 4) & (table[:, 0] == 6))[0])
    attributes = np.zeros((CONVERSATIONS, len(ATTRIBUTE_INDEX)), np.int64)
    attributes[:, ATTRIBUTE_INDEX["service"]] = service
    attributes[:, ATTRIBUTE_INDEX["continues_from_before"]] = 1
    attributes[:, ATTRIBUTE_INDEX["ttl"]] = int(np.flatnonzero((codec.ttl.table()[:, [0, -1]] > 0).all(axis=1))[0])
    kinds, sizes = codec.kind.table()[codec.kind.is_active()], codec.size.table()[codec.size.is_active(), 0]
    has_large = (kinds[:, 0] == 1) & (kinds[:, 1] == 1) & (kinds[:, 5] > 0)
    assert has_large.any()
    largest = int(size_step(np.array([sizes.max()]))[0])
    class_ = int(codec.service_classes()[service])
    download = Profiles(np.array([[class_, PACKETS]]), np.array([[0, 0, 20], [0, SIDE + largest, 40]]))
    return attributes, dataclasses.replace(codec, makeup=download), largest


def drawn_steps(networks, codec, attributes):
    """How many packets of each step each conversation has: (n, steps)."""
    n = len(attributes)
    start_ns, counts = np.full(n, codec.first_ns), np.full(n, PACKETS)
    other = copy.deepcopy(networks["packets"])
    drawn = draw_packets(other, codec, attributes, np.ones(n, np.int64), start_ns, counts, np.random.default_rng(1))
    kind = codec.kind.table()[drawn.kind]
    step = SIDE * kind[:, 1] + np.where(kind[:, 5] > 0, size_step(drawn.octets), 0)
    owner = np.repeat(np.arange(n), PACKETS)
    return np.bincount(owner * MAKEUP.steps + step, minlength=n * MAKEUP.steps).reshape(n, MAKEUP.steps)


def test_a_download_is_a_download_whatever_the_network_says(networks, asked):
    attributes, told, largest = asked
    with_urns = drawn_steps(networks, told, attributes)
    alone = drawn_steps(networks, dataclasses.replace(told, makeup=Profiles.empty()), attributes)
    wanted = told.makeup.table(MAKEUP)[0]
    off = [abs(drawn - wanted).sum(axis=1).mean() for drawn in (with_urns, alone)]
    assert off[0] < 0.5 * off[1]
    assert with_urns[:, SIDE + largest].mean() > 2 * alone[:, SIDE + largest].mean()
