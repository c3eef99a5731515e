"""Codec: what it keeps of a chunk, what it keeps of its parent, and what it must not keep."""

import json

import numpy as np
import pytest
from made_traffic import MINUTE_NS, START_NS, batch_of, made_table, octets_of, packet

from nsstream.encode.codec import VOCABULARIES, Codec, slice_of, slice_starts, start_gaps
from nsstream.encode.schema import HOST_SLOTS, SLICES
from nsstream.trace.grouping import group_conversations


def fitted(table, parent=None, minute=0):
    return Codec.fit(table, START_NS + minute * MINUTE_NS, START_NS + (minute + 1) * MINUTE_NS, parent)


def test_a_codec_comes_back_from_json():
    codec = fitted(made_table())
    again = Codec.from_json(json.loads(json.dumps(codec.as_json())))
    assert again.as_json() == codec.as_json()
    for name in VOCABULARIES:
        assert getattr(again, name) == getattr(codec, name)
    np.testing.assert_array_equal(again.profile, codec.profile)
    np.testing.assert_array_equal(again.rare_prefix, codec.rare_prefix)
    for name in ("start_gap", "packet_gap", "length", "octets"):
        np.testing.assert_array_equal(getattr(again, name).quantiles, getattr(codec, name).quantiles)


@pytest.mark.parametrize("change", [{"profile": None}, {"host": 3}, {"rare_fresh": []}, {"start_ns": "soon"}])
def test_json_that_is_no_codec_is_refused(change):
    data = fitted(made_table()).as_json() | change
    with pytest.raises((KeyError, TypeError, ValueError, IndexError)):
        Codec.from_json(data)


def test_volume_is_kept_exactly():
    table = made_table()
    codec = fitted(table)
    assert int(codec.profile.sum()) == len(table)
    assert codec.packet_count == int(table.packet_count.sum())
    assert codec.first_ns == table.observation_time_ns.min()
    assert codec.last_ns == table.observation_time_ns.max()


def test_a_child_keeps_the_slots_of_what_both_chunks_show():
    parent = fitted(made_table(seed=1))
    table = made_table(seed=2, minute=1)
    child, orphan = fitted(table, parent, minute=1), fitted(table, minute=1)
    for name in VOCABULARIES:
        old, new = getattr(parent, name), getattr(child, name)
        for i, value in enumerate(old.slots):
            if value is not None and value in new.slots:
                assert new.slots.index(value) == i
        shown = {v for v, n in zip(new.slots, new.counts, strict=True) if n}
        alone = getattr(orphan, name)
        assert shown == {v for v, n in zip(alone.slots, alone.counts, strict=True) if n}


def test_a_host_too_rare_for_a_slot_leaves_its_prefix_alone():
    rows = [packet(0, ("203.0.113.77", 5000)), packet(1, ("2001:db8::7:7", 5000), ("2001:db8:9::9", 53))]
    for i in range(HOST_SLOTS + 1):  # more hosts than slots, all of them met more often
        rows += [packet(10 + i, (f"10.1.{i // 250}.{i % 250}", port), ("192.0.2.2", 53)) for port in (5000, 5001)]
    table, _ = group_conversations(batch_of(rows))
    codec = fitted(table)
    kept = json.dumps(codec.as_json())
    for address in ("203.0.113.77", "2001:db8::7:7", "2001:db8:9::9"):
        row = octets_of(address).tolist()
        assert json.dumps(row)[1:-1] not in kept
    prefixes = {(version, bytes(octets)) for version, *octets in codec.rare_prefix.tolist()}
    assert (4, octets_of("203.0.113.0").tobytes()) in prefixes
    assert (6, octets_of("2001:db8::").tobytes()) in prefixes
    assert all(a.endswith(bytes(8)) for v, a in prefixes if v == 6)


def test_more_hosts_than_slots_leave_the_most_frequent():
    rows = []
    for i in range(HOST_SLOTS + 50):
        client = f"10.1.{i // 250}.{i % 250}", 5000
        rows += [packet(i, client), packet(i + 0.5, (client[0], 5001))]
    rows += [packet(9000 + i, ("10.9.9.9", 6000 + i)) for i in range(5)]
    codec = fitted(group_conversations(batch_of(rows))[0])
    assert codec.host.is_active().all()
    assert (4, *octets_of("10.9.9.9").tolist()) in codec.host.slots


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (5, 131), (START_NS + 7, START_NS + MINUTE_NS - 13)])
def test_slices_cover_the_chunk_without_gap_or_overlap(first, last):
    starts = slice_starts(first, last)
    assert (starts[0], starts[-1], len(starts)) == (first, last + 1, SLICES + 1)
    assert (np.diff(starts) >= 0).all()
    rng = np.random.default_rng(1)
    times = np.unique(np.concatenate([[first, last], np.clip(starts, first, last), rng.integers(first, last + 1, 99)]))
    where = slice_of(times, first, last)
    assert ((starts[where] <= times) & (times < starts[where + 1])).all()


def test_start_gaps_add_up_to_the_starts():
    first = np.sort(np.random.default_rng(1).integers(START_NS, START_NS + MINUTE_NS, 500))
    gaps = start_gaps(first, int(first[0]), int(first[-1]))
    where = slice_of(first, int(first[0]), int(first[-1]))
    edges = slice_starts(int(first[0]), int(first[-1]))
    assert (gaps >= 0).all()
    for s in np.unique(where):
        np.testing.assert_array_equal(edges[s] + np.cumsum(gaps[where == s]), first[where == s])
