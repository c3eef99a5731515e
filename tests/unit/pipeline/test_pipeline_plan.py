import pytest

from nsstream.errors import InputError
from nsstream.pipeline.plan import (
    LENGTHS_S,
    choose_length_s,
    choose_seed,
    make_lanes,
    merge_small,
    parse_duration_s,
    parse_interval_ns,
    split_steps,
    split_time,
)


def steady(bins: int, packets: int, *, first: int = 0) -> dict[int, int]:
    return {first + at: packets for at in range(bins)}


@pytest.mark.parametrize(
    ("packets_by_bin", "length_s"),
    [
        (steady(6, 10_000), 30),  # 60,000 packets in a minute: two chunks of 30,000
        (steady(30, 1_000), 300),  # 30,000 in five minutes: one
        (steady(360, 1_000), 600),  # 360,000 in an hour: at most eight chunks, if they are larger for it
        (steady(3, 10), 30),
        ({0: 19_000, 6: 100, 12: 3_900}, 300),
        ({0: 6_000, 1_500_000: 7_000}, 10),  # half a year of silence between: two chunks
        (dict.fromkeys((*range(360), *range(6 * 360, 7 * 360)), 100), 3600),  # two hours, five of silence between
        (steady(4, 10, first=8_639 - 1), 30),  # across midnight, where two chunks must do
        ({}, 10),
    ],
)
def test_the_shortest_length_with_the_fewest_chunks_that_are_well_learned_is_chosen(
    packets_by_bin: dict[int, int], length_s: int
):
    assert choose_length_s(packets_by_bin) == length_s


def test_every_length_is_a_multiple_of_the_bin():
    assert all(length_s % 10 == 0 for length_s in LENGTHS_S)


@pytest.mark.parametrize(
    ("counts", "gaps_ns", "groups"),
    [
        ([100, 100], [0], [[0], [1]]),
        ([10, 100, 100], [0, 0], [[0, 1], [2]]),
        ([100, 10, 100], [5, 0], [[0], [1, 2]]),  # over the narrower gap
        ([20, 20, 20], [0, 0], [[0, 1, 2]]),
        ([100, 10], [11], [[0], [1]]),  # a small chunk far from others stays alone
        ([10], [], [[0]]),
        ([60, 5, 60, 5], [0, 11, 0], [[0, 1], [2, 3]]),
    ],
)
def test_small_chunks_are_merged_with_a_near_neighbour(counts, gaps_ns, groups):
    merged = merge_small(counts, gaps_ns, fewest=50, widest_gap_ns=10)
    assert [list(group) for group in merged] == groups


def test_the_seed_learns_the_first_good_chunk_or_else_the_largest():
    assert choose_seed([10, 80, 900], fewest=50) == 1
    assert choose_seed([10, 30, 30], fewest=50) == 1


def test_one_chunk_gets_all_the_time():
    assert make_lanes([7], seed_at=0, workers=2) == []
    assert split_time(100, [7], [], seed_at=0) == [100]


def test_lanes_are_of_about_the_same_size_and_hold_every_chunk_but_the_seeds():
    assert make_lanes([9, 5, 4, 3, 2], seed_at=0, workers=2) == [[1, 4], [2, 3]]
    assert make_lanes([9, 5, 4], seed_at=1, workers=1) == [[0, 2]]
    assert make_lanes([9, 5], seed_at=0, workers=4) == [[1]]


def test_the_seed_gets_its_share_and_every_lane_shares_the_rest_by_size():
    sizes = [50, 10, 20, 30, 40]
    assert split_time(100, sizes, [[1, 2, 3, 4]], seed_at=0) == pytest.approx([40, 6, 12, 18, 24])
    assert split_time(100, sizes, [[1, 4], [2, 3]], seed_at=0) == pytest.approx([40, 12, 24, 36, 48])


def test_a_fine_tune_takes_a_quarter_of_the_seeds_steps():
    assert split_steps(100, 3, seed_at=1) == [25, 100, 25]
    assert split_steps(1, 2, seed_at=0) == [1, 1]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("60s", 60), ("5m", 300), ("1.5h", 5400), ("7d", 604_800)])
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 m", "-5m", "1e3", "5x", "inf", "٣s"])
def test_anything_else_is_no_duration(text: str):
    with pytest.raises(InputError, match="write it as 60s"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "start_s", "length_s"),
    [
        ("2026-11-21T08:00/2026-11-21T18:00", 1_795_248_000, 36_000),
        ("2026-11-21T08:00:00Z/10h", 1_795_248_000, 36_000),
        ("2026-11-21T09:00+01:00/1.5h", 1_795_248_000, 5_400),
        ("2026-11-21/2026-11-22", 1_795_219_200, 86_400),
        ("1970-01-01/1", 0, 1),
    ],
)
def test_an_interval_is_a_start_and_an_end_or_a_length_in_utc(text: str, start_s: int, length_s: int):
    assert parse_interval_ns(text) == (start_s * 10**9, (start_s + length_s) * 10**9)


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "2026-11-21", "2026-11-21/", "/24h", "2026-11-21/2026-11-21", "2026-11-22/2026-11-21"),
        *("2026-11-21T08:00:00.5/1h", "2026-11-21/0.5s", "yesterday/24h", "1969-12-31/24h", "2026-11-21/-1h"),
        *("2262-04-11/2d", "9999-12-31/24h", "2026-11-21/1h/1h", "2026-11-21/" + "9" * 400 + "d"),
    ],
)
def test_anything_else_is_no_interval(text: str):
    with pytest.raises(InputError, match="interval"):
        parse_interval_ns(text)
