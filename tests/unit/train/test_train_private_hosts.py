"""Hosts of a private chunk: as many, as busy and as curious as noisy counts say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traffic import MINUTE_NS, START_NS, made_table

from nsstream.encode.codec import Codec
from nsstream.encode.made_up_hosts import made_up_hosts
from nsstream.encode.schema import HOST_SLOTS
from nsstream.encode.urns import ASKED
from nsstream.train.private_hosts import OCTAVES, draw_hosts, octave, octaves_of_seed


@pytest.fixture(scope="module")
def seed():
    return Codec.fit(made_table(count=72), START_NS, START_NS + MINUTE_NS)


@settings(max_examples=15, deadline=None)
@given(
    four=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    six=st.lists(st.integers(0, 6), max_size=20),
    shift=st.integers(0, 6),
)
def test_as_many_hosts_start_and_ask_as_was_said(seed, four, six, shift):
    rank = np.array([*four, *six])
    busy, asks = (np.bincount(r, minlength=OCTAVES) for r in (rank, np.maximum(rank - shift, 0)))
    there = 200 * len(four), 200 * len(six)
    hosts = draw_hosts((len(four), len(six)), busy, asks, there, seed)
    versions = np.array([-1 if v is None else v[0] for v in made_up_hosts(seed).host.slots])
    started = hosts.initiators[:HOST_SLOTS]
    assert hosts.initiators.sum() == sum(there)
    assert [(started[versions == v] > 0).sum() for v in (4, 6)] == [len(four), len(six)]
    asker = hosts.peers[:, 0] // ASKED
    assert np.array_equal(np.bincount(asker, hosts.peers[:, 2], minlength=HOST_SLOTS), started)
    assert (hosts.peers[:, 1] != asker).all()
    assert (versions[hosts.peers[:, 1]] == versions[asker]).all()
    asked = np.bincount(asker, minlength=HOST_SLOTS)[started > 0]
    assert asked.max() <= 1.5 * 2 ** octave(np.array([2 ** max(rank.max() - shift, 0)]))[0] + 1
    if shift == 6:
        assert (asked == 1).all()


def test_made_up_hosts_keep_the_seeds_slots_and_are_all_different(seed):
    made = made_up_hosts(seed)
    active = seed.host.is_active()
    for slot, (ours, theirs) in enumerate(zip(made.host.slots, seed.host.slots, strict=True)):
        assert not active[slot] or ours == theirs
    named = [value for value in made.host.slots if value is not None]
    assert len(named) == len(set(named)) > active.sum()
    fresh = np.flatnonzero(~active & (made.like >= 0))
    assert active[made.like[fresh]].all()
    table = made.host.table()
    assert (table[fresh, 0] == table[made.like[fresh], 0]).all()
    assert (table[fresh, 1:9] == table[made.like[fresh], 1:9]).all()
    again = made_up_hosts(seed)
    assert again.host == made.host
    for asks, answers in ((made.askers, again.askers), (made.asked, again.asked)):
        assert all(np.array_equal(asks[v], answers[v]) for v in (4, 6))


def test_the_seeds_hosts_are_counted_by_octaves(seed):
    busy, asks = octaves_of_seed(seed, 1.0, 4)
    assert busy.sum() == asks.sum() == len(np.unique(seed.urns.hosts[:, 1]))
    assert busy[3:].sum() == 0
    more, _ = octaves_of_seed(seed, 1000.0, 1 << 20)
    assert more @ np.arange(OCTAVES) > busy @ np.arange(OCTAVES) + busy.sum()
    assert octave(np.array([1, 2, 3, 4, 1 << 40])).tolist() == [0, 1, 1, 2, OCTAVES - 1]
