"""Laws of the distances: identity, symmetry, bounds, and agreement with scipy as an independent truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from nsstream.score.distances import earth_mover, jensen_shannon, rank_jensen_shannon, standard_earth_mover

CATEGORIES = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 12))
NUMBERS = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6))


@given(CATEGORIES)
def test_a_sample_of_categories_is_at_distance_zero_from_itself_reordered(sample: NDArray[np.int64]) -> None:
    assert jensen_shannon(sample, sample[::-1]) == pytest.approx(0, abs=1e-12)
    assert rank_jensen_shannon(sample, sample[::-1]) == pytest.approx(0, abs=1e-12)


@given(NUMBERS)
def test_a_sample_of_numbers_is_at_distance_zero_from_itself_reordered(sample: NDArray[np.float64]) -> None:
    assert earth_mover(sample, sample[::-1]) == 0
    assert standard_earth_mover(sample, sample[::-1]) == 0


@given(CATEGORIES, CATEGORIES)
def test_jensen_shannon_is_symmetric_and_bounded(a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    for distance in (jensen_shannon, rank_jensen_shannon):
        there, back = distance(a, b), distance(b, a)
        assert there == pytest.approx(back)
        assert there is not None
        assert 0 <= there <= math.log(2) + 1e-12


@given(CATEGORIES, CATEGORIES)
def test_jensen_shannon_is_scipys_squared(a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    p, q = (np.bincount(x, minlength=13) / len(x) for x in (a, b))
    assert jensen_shannon(a, b) == pytest.approx(float(jensenshannon(p, q)) ** 2, abs=1e-9)


@given(NUMBERS, NUMBERS)
def test_earth_mover_is_symmetric_and_scipys(a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
    there = earth_mover(a, b)
    assert there == pytest.approx(earth_mover(b, a))
    assert there == pytest.approx(float(wasserstein_distance(a, b)), abs=1e-6)


@given(CATEGORIES, st.permutations(range(13)))
def test_rank_jensen_shannon_does_not_see_which_value_is_which(sample: NDArray[np.int64], names: list[int]) -> None:
    assert rank_jensen_shannon(sample, np.array(names)[sample]) == pytest.approx(0, abs=1e-12)
