"""Large records by octave: seen where each cell of them is hidden, and nothing else of a place moved by them."""

import numpy as np
import pytest

from nsstream.train.private_flow_counts import LARGE, LARGE_OCTAVES, LAYERS, PACKET_CELLS, RECORD_PLACES
from nsstream.train.private_flow_large import with_large

TCP_LAYER, UDP_LAYER = 0, 1


def places():
    """What is wanted without them: first records of TCP and later ones, of UDP the first; all of at most 12 packets."""
    wanted = np.zeros((RECORD_PLACES, PACKET_CELLS))
    wanted[TCP_LAYER, 1:9] = 500
    wanted[TCP_LAYER + LAYERS, 1:9] = 250
    wanted[UDP_LAYER, 1] = 3000
    return wanted, wanted.sum(axis=1)


def test_an_octave_of_a_layer_is_wanted_at_all_its_places_as_they_are_frequent():
    wanted, drawn = places()
    large = np.zeros((LAYERS, LARGE_OCTAVES))
    large[TCP_LAYER, 6] = 120
    out = with_large(wanted, drawn, drawn, large, 4.0)
    at = slice(LARGE + 12, LARGE + 14)
    assert out[:, at].sum() == pytest.approx(120, rel=0.01)
    assert out[TCP_LAYER, at].sum() == pytest.approx(2 * out[TCP_LAYER + LAYERS, at].sum(), rel=0.01)
    assert out[TCP_LAYER, at][0] == out[TCP_LAYER, at][1]
    assert np.allclose(out.sum(axis=1), wanted.sum(axis=1))
    assert np.array_equal(out[UDP_LAYER], wanted[UDP_LAYER])
    small = out[TCP_LAYER, :LARGE]
    assert small / small.sum() == pytest.approx(wanted[TCP_LAYER, :LARGE] / wanted[TCP_LAYER].sum())
    assert np.allclose(with_large(out, drawn, drawn, large, 4.0), out, rtol=1e-2)


def test_too_many_large_ones_are_fewer_afterwards():
    wanted, _ = places()
    wanted[UDP_LAYER, LARGE + 4] = 1000
    drawn = wanted.sum(axis=1)
    large = np.zeros((LAYERS, LARGE_OCTAVES))
    large[UDP_LAYER, 2] = 100
    out = with_large(wanted, drawn, drawn, large, 4.0)
    assert out[UDP_LAYER, LARGE + 4] == pytest.approx(100, rel=0.05)
    assert not out[UDP_LAYER, LARGE + 5]


def test_what_noise_hides_changes_nothing():
    wanted, drawn = places()
    large = np.random.default_rng(1).normal(0, 4, (LAYERS, LARGE_OCTAVES))
    out = with_large(wanted, drawn, drawn, large, 4.0)
    assert not out[:, LARGE:].any()
    assert np.allclose(out, wanted)
    assert np.array_equal(with_large(wanted, drawn, drawn, 100 + large, 1e6), wanted)
