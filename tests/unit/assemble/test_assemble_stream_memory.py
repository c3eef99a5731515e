"""StreamMemory: what is known of the streams used last, in memory of a fixed size."""

import numpy as np
import pytest

from nsstream.assemble.records import STREAM
from nsstream.assemble.streams import StreamMemory


def streams(keys, time_ns):
    rows = np.zeros(len(keys), STREAM)
    rows["is_known"], rows["last_time_ns"] = 1, time_ns
    rows["next"][:, 0] = keys
    return rows


def octets_of(memory):
    return sum(array.nbytes for half in (memory._now, memory._before) for array in half)


def test_the_streams_used_last_are_known_and_memory_stays():
    memory, rng, used = StreamMemory(200), np.random.default_rng(1), {}
    size = octets_of(memory)
    for turn in range(200):
        keys = np.unique(rng.integers(1, 2000, rng.integers(1, 40)).astype(np.uint64))
        found = memory.recall(keys)
        for key, row in zip(keys.tolist(), found, strict=True):
            if row["is_known"]:
                assert (row["next"][0], row["last_time_ns"]) == (key, used[key])
        memory.keep(keys, streams(keys, turn))
        used = {key: at for key, at in used.items() if key not in set(keys.tolist())} | dict.fromkeys(
            keys.tolist(), turn
        )
        newest = np.array(list(used)[-100:], np.uint64)
        assert memory.recall(newest)["is_known"].all()
        assert len(memory) <= 200
    assert octets_of(memory) == size
    assert len(used) > 1000


def test_of_more_streams_than_there_is_room_for_the_newest_are_kept():
    memory, keys = StreamMemory(20), np.arange(1, 51, dtype=np.uint64)
    memory.keep(keys, streams(keys, np.arange(50)))
    known = memory.recall(keys)
    assert known["is_known"].nonzero()[0].tolist() == list(range(40, 50))


def test_a_stream_that_is_not_known_is_said_so():
    memory = StreamMemory(20)
    assert not memory.recall(np.arange(5, dtype=np.uint64))["is_known"].any()
    with pytest.raises(ValueError, match="limit"):
        StreamMemory(1)
