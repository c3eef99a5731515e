"""Skip-gram by gensim: what is learned is the same in every process, and what is held stays."""

import subprocess
import sys

import numpy as np

from nsstream.encode.skip_gram import learn_words

SENTENCES = [["a", "left"], ["b", "left"], ["c", "right"], ["d", "right"]] * 50
TELL = """
import sys, numpy as np
from nsstream.encode.skip_gram import learn_words
learned = learn_words([["a", "left"], ["b", "left"], ["c", "right"], ["d", "right"]] * 50, 8, 20)
sys.stdout.write(repr({word: vector.tobytes().hex() for word, vector in sorted(learned.items())}))
"""


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_words_of_the_same_company_come_near_one_another():
    learned = learn_words(SENTENCES, 8, 40)
    assert set(learned) == {"a", "b", "c", "d", "left", "right"}
    assert all(vector.shape == (8,) and vector.dtype == np.float32 for vector in learned.values())
    assert cosine(learned["a"], learned["b"]) > 0.9
    assert cosine(learned["a"], learned["c"]) < 0.5


def test_processes_with_other_hashes_learn_the_same_octets():
    told = [
        subprocess.run(
            [sys.executable, "-c", TELL], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0] == told[1] != ""


def test_held_words_stay_and_new_ones_come_to_their_company():
    parent = learn_words(SENTENCES, 8, 40)
    child = learn_words([*SENTENCES, *[["e", "left"]] * 20], 8, 40, held=parent | {"unheard": parent["a"]})
    assert set(child) == {*parent, "e"}
    for word, vector in parent.items():
        np.testing.assert_array_equal(child[word], vector)
    assert cosine(child["e"], child["a"]) > cosine(child["e"], child["c"]) + 0.3
