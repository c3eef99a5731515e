"""What noisy counts tell: the chunk's own counts where there is little noise, the seed's shares where there is much."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.encode.public_codec import encode_privately, public_codec
from nsstream.encode.schema import ATTRIBUTE_INDEX, LENGTH_GRID
from nsstream.train.private_chance import Chance
from nsstream.train.private_counts import SIZES, count_units, tell
from nsstream.train.private_units import units_of
from nsstream.train.private_urns import spread, whole

MINUTE = (START_NS + MINUTE_NS, START_NS + 2 * MINUTE_NS)
MOST = 1000


@pytest.fixture(scope="module")
def counted(codec):
    """The public codec of a private minute, its tokens, and their vector."""
    public = public_codec(codec, *MINUTE)
    table = made_table(seed=5, count=90, minute=1)
    units = units_of(table, "host", MOST, Chance())
    kept = table.take(units.rows)
    tokens = encode_privately(kept, public, codec)
    return public, tokens, count_units(kept, tokens, public, MOST), len(units)


def test_with_hardly_any_noise_the_chunks_own_counts_are_told(codec, counted):
    public, tokens, vector, units = counted
    told = tell(vector, 1e-9, "host", MOST, public, codec)
    assert told.units == units
    assert told.codec.profile.sum() == len(tokens)
    services = np.bincount(tokens.attributes[:, ATTRIBUTE_INDEX["service"]], minlength=len(told.codec.service))
    assert np.array_equal(told.codec.service.counts, services)
    lengths = LENGTH_GRID.tokens(np.diff(tokens.packet_offset))
    assert np.array_equal(told.codec.length.counts, np.bincount(lengths, minlength=len(LENGTH_GRID)))
    assert told.codec.packet_count == pytest.approx(len(tokens.kind), rel=0.1)
    assert len(np.unique(told.codec.urns.hosts[:, 1])) == units
    assert not told.is_loud
    assert not len(told.codec.urns.lengths)
    assert not len(told.codec.urns.answers)
    assert not any(told.codec.endings.completeness)
    assert not len(told.codec.gap_shapes.cells)


def test_under_loud_noise_the_seeds_shares_and_pairs_stand(codec, counted):
    public, tokens, vector, _ = counted
    told = tell(vector, 10.0, "host", MOST, public, codec)
    assert told.is_loud
    assert told.codec.profile.sum() == len(tokens)
    shares = np.bincount(codec.urns.services[:, 1], codec.urns.services[:, 2], minlength=len(codec.service))
    expected = shares / shares.sum() * len(tokens)
    assert np.abs(np.array(told.codec.service.counts) - expected).max() <= 1
    assert len(told.codec.urns.lengths) == len(codec.urns.lengths)
    assert not len(told.codec.urns.answers)
    assert told.codec.endings.completeness == codec.endings.completeness


def test_hosts_are_as_uneven_as_counted_and_more_like_the_seeds_the_more_noise_there_is(codec, counted):
    public, _, vector, units = counted
    at = np.cumsum(SIZES)
    busy = vector.copy()
    busy[at[4] : at[5]] = 0
    busy[at[4]], busy[at[4] + 6] = (units - 1) * MOST, MOST  # one of them starts nearly all

    def share_of_the_busiest(noise_multiplier):
        urn = tell(busy, noise_multiplier, "host", MOST, public, codec).codec.urns.hosts
        started = np.bincount(urn[:, 1], urn[:, 2])
        return started.max() / started.sum()

    assert share_of_the_busiest(1e-9) > 0.5
    assert share_of_the_busiest(10.0) < share_of_the_busiest(1e-9)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_pairs_are_spread_in_proportion_and_none_is_lost(given_shares, said_shares):
    total = sum(given_shares) + 1
    by_given, by_said = (whole(np.array(shares, float), total) for shares in (given_shares, said_shares))
    assert by_given.sum() == by_said.sum() == total
    pairs = spread(by_given, by_said)
    assert (pairs[:, 2] > 0).all()
    assert np.array_equal(np.bincount(pairs[:, 1], pairs[:, 2], minlength=len(by_said)), by_said)
    exact = by_given[pairs[:, 0]] * by_said[pairs[:, 1]] / total
    assert np.abs(pairs[:, 2] - exact).max() <= 1
