"""Evening out: values of completeness come as often as they are wanted, as far as candidates show them."""

import json

import numpy as np
import pytest

from nsstream.draw import Drawer
from nsstream.draw.even_out import shown_by, weights
from nsstream.encode.endings import Endings
from nsstream.model.checkpoint import load_checkpoint
from nsstream.model.conversations import draw_conversations
from nsstream.model.sample_packets import draw_packets
from nsstream.trace.completeness import COMPLETENESS


def expected(scores, shown, logarithms):
    chance = np.exp(scores + logarithms[shown])
    chance /= chance.sum(axis=1, keepdims=True)
    return np.bincount(shown.ravel(), chance.ravel(), minlength=COMPLETENESS)


def wanted_of(**counts):
    out = np.zeros(COMPLETENESS, np.int64)
    for name, count in counts.items():
        out[int(name[1:])] = count
    return out


def test_what_candidates_show_comes_as_often_as_wanted():
    rng = np.random.default_rng(1)
    shown = rng.choice([31, 63, 15], (1000, 8), p=[0.4, 0.5, 0.1])
    scores = rng.normal(size=shown.shape)
    found = expected(scores, shown, weights(scores, shown, wanted_of(c31=90, c63=9, c15=1)))
    assert found[31] == pytest.approx(900, abs=5)
    assert found[63] == pytest.approx(90, abs=5)
    assert found[15] == pytest.approx(10, abs=5)


def test_what_nobody_shows_cannot_come_and_what_is_not_wanted_stays_where_there_is_no_choice():
    shown = np.array([[31, 31], [15, 31], [3, 3]])
    logarithms = weights(np.zeros((3, 2)), shown, wanted_of(c31=2, c7=1))
    assert np.isfinite(logarithms).all()
    found = expected(np.zeros((3, 2)), shown, logarithms)
    assert found[31] == pytest.approx(2, abs=0.1)
    assert found[3] == pytest.approx(1)
    assert found[7] == 0


def test_nothing_wanted_or_nothing_drawn_weighs_nothing():
    shown = np.array([[31, 63]])
    assert not weights(np.zeros((1, 2)), shown, np.zeros(COMPLETENESS, np.int64)).any()
    assert not weights(np.zeros((0, 8)), np.zeros((0, 8), np.int64), wanted_of(c31=5)).any()


def test_a_drawing_is_as_complete_as_its_table_says(checkpoints):
    """What the tokens show is what the table of the same drawing shows."""
    model = load_checkpoint(checkpoints[0])
    rng = np.random.default_rng(3)
    drawn = draw_conversations(model.attributes, model.codec, rng)
    given = model.packets, model.codec, drawn.attributes, drawn.ends.stack, drawn.start_ns, drawn.counts
    shown = shown_by(draw_packets(*given, rng), model.codec)
    assert ((shown > 0) == (drawn.ends.stack % 3 == 1)).all()


def test_models_that_have_learned_nothing_come_closer_to_how_the_chunk_ended_its_connections(checkpoints):
    codec = json.loads((checkpoints[0] / "codec.json").read_text())
    real = np.array(codec["endings"]["completeness"])

    def off(candidates):
        drawn = [Drawer(seed, candidates=candidates).draw(checkpoints[0]) for seed in range(8)]
        counts = np.sum([Endings.fit(table).completeness for table in drawn], axis=0)
        return np.abs(counts / counts.sum() - real / real.sum()).sum()

    assert off(8) < off(1)
