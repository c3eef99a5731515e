"""Calibration: what is drawn comes nearer to the chunk's own frequencies, and a parent's corrections are forgotten."""

import numpy as np
import torch

from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.sample_attributes import draw_attributes
from nsstream.model.sample_packets import draw_packets
from nsstream.train.calibrate import calibrate_attributes, calibrate_packets, reset_corrections


def chance(seed):
    return np.random.default_rng(seed)


def distance(drawn, measured):
    """Total variation between two lists of tokens."""
    size = 1 + max(drawn.max(), measured.max())
    p, q = (np.bincount(x, minlength=size) / len(x) for x in (drawn, measured))
    return np.abs(p - q).sum() / 2


def attribute_distance(networks, tokens, codec, name):
    drawn, _ = draw_attributes(networks["attributes"], codec, chance(2))
    i = ATTRIBUTE_INDEX[name]
    return distance(drawn[:, i], tokens.attributes[:, i])


def test_attributes_come_nearer_to_the_chunk(networks, tokens, codec):
    names = ("continues_from_before", "service", "ttl", "packet_count")
    before = [attribute_distance(networks, tokens, codec, name) for name in names]
    calibrate_attributes(networks["attributes"], tokens, codec, chance(1))
    after = [attribute_distance(networks, tokens, codec, name) for name in names]
    assert sum(after) < sum(before)


def test_packets_come_nearer_to_the_chunk(networks, tokens, codec):
    rows = np.arange(len(tokens))
    counts = np.diff(tokens.packet_offset)

    def drawn(seed):
        given = tokens.attributes, tokens.stack, tokens.start_ns, counts
        return draw_packets(networks["packets"], codec, *given, chance(seed))

    before = drawn(2)
    calibrate_packets(networks["packets"], tokens, codec, rows, chance(1))
    after = drawn(2)
    for name in ("kind", "gap"):
        measured = getattr(tokens, name)
        assert distance(getattr(after, name), measured) < distance(getattr(before, name), measured)


def test_corrections_are_small_numbers_and_can_be_forgotten(networks, tokens, codec):
    start = {key: weight.clone() for key, weight in networks.state_dict().items()}
    calibrate_attributes(networks["attributes"], tokens, codec, chance(1))
    changed = {key for key, weight in networks.state_dict().items() if (weight != start[key]).any()}
    assert changed
    assert all(".correction." in key for key in changed)
    assert all(torch.isfinite(weight).all() for weight in networks.state_dict().values())
    reset_corrections(networks)
    for key, weight in networks.state_dict().items():
        torch.testing.assert_close(weight, start[key], rtol=0, atol=0)
