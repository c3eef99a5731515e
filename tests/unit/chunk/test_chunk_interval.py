import numpy as np
import pytest

from nsstream.chunk import Grid
from nsstream.chunk.interval import id_of

MINUTE_NS = 60_000_000_000


def test_intervals_are_counted_from_the_epoch_start_inclusive_end_exclusive():
    times = np.array([0, MINUTE_NS - 1, MINUTE_NS, 2 * MINUTE_NS - 1], np.int64)
    assert Grid(MINUTE_NS).index_of(times).tolist() == [0, 0, 1, 1]
    assert (Grid(MINUTE_NS).start_ns(1), Grid(MINUTE_NS).end_ns(1)) == (MINUTE_NS, 2 * MINUTE_NS)


def test_an_id_names_start_and_length():
    grid = Grid(MINUTE_NS)
    index = int(grid.index_of(np.array([1_473_033_601_000_000_000]))[0])
    assert id_of(grid.start_ns(index), grid.end_ns(index)) == "20160905T000000Z-60s"


@pytest.mark.parametrize("length_ns", [0, -1, 1, 1_500_000_000])
def test_a_length_that_is_not_whole_seconds_is_refused(length_ns: int):
    with pytest.raises(ValueError, match="whole seconds"):
        Grid(length_ns)


def test_the_last_time_ends_within_int64():
    grid = Grid(MINUTE_NS)
    index = int(grid.index_of(np.array([grid.last_time_ns]))[0])
    assert grid.end_ns(index) <= np.iinfo(np.int64).max < grid.end_ns(index + 1)
    assert id_of(grid.start_ns(index), grid.end_ns(index)).startswith("2262")
