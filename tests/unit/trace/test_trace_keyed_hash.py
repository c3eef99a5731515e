"""The keyed hash: SipHash-1-3 of five words, against a plain account of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.trace.keyed_hash import keyed_hash, random_key

WORDS = st.integers(-(2**63), 2**63 - 1)
MASK = 2**64 - 1


def slowly_hashed(key, words):
    constants = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573
    v = [k ^ c for k, c in zip(key * 2, constants, strict=True)]

    def turn(x, by):
        return (x << by | x >> (64 - by)) & MASK

    def mix():
        v[0] = (v[0] + v[1]) & MASK
        v[1] = turn(v[1], 13) ^ v[0]
        v[0] = turn(v[0], 32)
        v[2] = (v[2] + v[3]) & MASK
        v[3] = turn(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & MASK
        v[3] = turn(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & MASK
        v[1] = turn(v[1], 17) ^ v[2]
        v[2] = turn(v[2], 32)

    for word in words:
        v[3] ^= word & MASK
        mix()
        v[0] ^= word & MASK
    v[2] ^= 0xFF
    for _ in range(3):
        mix()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@given(st.tuples(*[st.integers(0, MASK)] * 2), st.tuples(*[WORDS] * 5))
def test_hash_is_siphash_of_one_round_a_word_and_three_to_finish(key, words):
    assert int(keyed_hash(np.uint64(key[0]), np.uint64(key[1]), *words)) == slowly_hashed(key, words)


@pytest.mark.parametrize("place", range(5))
def test_neighbouring_five_tuples_spread_over_the_buckets(place):
    k0, k1 = np.uint64(1), np.uint64(2)
    buckets = np.zeros(1024, int)
    for i in range(8192):
        words = [0, 0, 0, 0, 0]
        words[place] = i << 48 if i % 2 else i
        buckets[int(keyed_hash(k0, k1, *words)) % 1024] += 1
    assert buckets.max() < 32  # 8 are expected; chance gives 32 once in 10 ** 6 tables


def test_keys_differ():
    assert random_key() != random_key()
