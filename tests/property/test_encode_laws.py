"""Laws of the encoding: prefixes, bins, vocabularies and running features, whatever the values."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nsstream.encode.address_map import AddressMap
from nsstream.encode.bins import Bins, Grid
from nsstream.encode.schema import COUNTDOWNS, LENGTH_GRID, PACKET_GAP_GRID, POSITIONS, SIZE_GRID, TIMES_LEFT
from nsstream.encode.tokens import countdown_token, position_token, time_left_token
from nsstream.encode.vocabulary import Vocabulary

MAP = AddressMap(bytes(range(32)))
UNICAST = st.integers(1 << 24, (224 << 24) - 1).filter(lambda a: a >> 24 != 127)
GRIDS = st.sampled_from([PACKET_GAP_GRID, LENGTH_GRID, SIZE_GRID, Grid(exact=0, first=1, per_decade=1, largest=10**6)])
NUMBERS = st.lists(st.integers(0, 10**14), min_size=1, max_size=60)


def mapped(*addresses):
    rows = np.array([list(bytes(10) + b"\xff\xff" + a.to_bytes(4, "big")) for a in addresses], np.uint8)
    out = MAP.map(rows)
    assert (out[:, :12] == rows[:, :12]).all()
    return [int.from_bytes(row[12:].tobytes(), "big") for row in out]


def shared_bits(a, b):
    return 32 - (a ^ b).bit_length()


@given(UNICAST, st.integers(0, 0xFFFF))
def test_addresses_of_one_slash_16_share_exactly_as_many_bits_after_the_map(address, low):
    other = address & 0xFFFF0000 | low
    a, b = mapped(address, other)
    assert shared_bits(a, b) == shared_bits(address, other)


@given(st.lists(UNICAST, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_an_address_maps_alike_in_any_company(addresses, random):
    company = dict(zip(addresses, mapped(*addresses), strict=True))
    for address in random.sample(addresses, min(3, len(addresses))):
        assert mapped(address) == [company[address]]


@given(UNICAST.filter(lambda a: a >> 24 != 10))
def test_no_unicast_address_outside_the_range_maps_to_itself(address):
    (out,) = mapped(address)
    assert out >> 24 == 10
    assert out != address


@given(GRIDS, NUMBERS)
def test_tokens_rise_with_values_and_hold_them(grid, numbers):
    values = np.sort(np.array(numbers, np.int64))
    tokens = grid.tokens(values)
    assert (np.diff(tokens) >= 0).all()
    upper = np.append(grid.edges[1:], np.inf)
    assert ((grid.edges[tokens] <= values) & (values < upper[tokens])).all()


@given(GRIDS, NUMBERS, st.integers(0, 2**32))
def test_what_is_drawn_lies_among_the_values_of_its_bin(grid, numbers, seed):
    values = np.array(numbers, np.int64)
    tokens = grid.tokens(values)
    drawn = Bins.fit(grid, values).draw(tokens, np.random.default_rng(seed))
    np.testing.assert_array_equal(grid.tokens(drawn), tokens)
    for token in np.unique(tokens):
        inside = values[tokens == token]
        assert (drawn[tokens == token] >= inside.min()).all()
        assert (drawn[tokens == token] <= inside.max()).all()


@given(GRIDS, NUMBERS)
def test_bins_come_back_from_json(grid, numbers):
    bins = Bins.fit(grid, np.array(numbers, np.int64))
    again = Bins.from_json(grid, json.loads(json.dumps(bins.as_json())))
    np.testing.assert_array_equal(again.counts, bins.counts)
    np.testing.assert_array_equal(again.quantiles, bins.quantiles)


ROWS = st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 3)), max_size=30)


@given(ROWS, ROWS, st.integers(1, 12), st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_vocabulary_is_bounded_stable_and_blind_to_order(old, new, capacity, least, random):
    def fit(rows, parent=None):
        return Vocabulary.fit(np.array(rows, np.int64).reshape(-1, 2), capacity, least, parent)

    parent = fit(old)
    child = fit(new, parent)
    assert fit(random.sample(new, len(new)), parent) == child
    assert len(child) == capacity
    held = [v for v in child.slots if v is not None]
    assert len(held) == len(set(held))
    for value, count in zip(child.slots, child.counts, strict=True):
        assert count == 0 or (count == new.count(value) and count >= least)
    for i, value in enumerate(parent.slots):
        assert child.slots[i] == value or value is None or new.count(value) < least or value not in child.slots
    best = sorted((c for v in set(new) if (c := new.count(v)) >= least), reverse=True)[:capacity]
    assert sorted((c for c in child.counts if c), reverse=True) == best


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_running_features_are_bounded_and_ordered(a, b):
    low, high = np.array([min(a, b)]), np.array([max(a, b)])
    for token, size in ((countdown_token, COUNTDOWNS), (position_token, POSITIONS), (time_left_token, TIMES_LEFT)):
        assert 0 <= token(low)[0] <= token(high)[0] < size
