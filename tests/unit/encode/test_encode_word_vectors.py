"""Word vectors: the same company, nearby vectors; the same rows, the same vectors."""

import json

import numpy as np
import pytest
from made_traffic import made_table

from nsstream.encode.sentences import is_stack_word, ports_of, sentences_of, stacks_of
from nsstream.encode.word_vectors import DIMENSIONS, WordVectors

DNS, WEB, UDP, TCP = 53, 443, 1_000_068, 1_000_024
CLIENTS = np.arange(100, 120)


@pytest.fixture(scope="module")
def sentences():
    rng = np.random.default_rng(1)
    ports = rng.choice(CLIENTS, 400)
    is_web = ports % 2 == 0  # even ports ask the web, odd ones ask for names
    return np.stack([ports, np.where(is_web, WEB, DNS), np.where(is_web, TCP, UDP)], axis=1)


def fitted(sentences, parent=None):
    return WordVectors.fit(sentences, np.ones(len(sentences), np.int64), parent)


def test_vectors_have_length_one_and_are_the_same_again(sentences):
    one, again = fitted(sentences), fitted(sentences[::-1])
    assert one.vectors.shape == (len(one.words), DIMENSIONS)
    np.testing.assert_allclose(np.linalg.norm(one.vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(one.words, again.words)
    np.testing.assert_allclose(one.vectors, again.vectors, atol=1e-5)


def test_words_that_keep_the_same_company_lie_near_one_another(sentences):
    vectors = fitted(sentences)
    even, odd = (vectors.encode(CLIENTS[side::2]) for side in (0, 1))
    assert (even @ even.T).min() > 0.8
    assert (even @ odd.T).max() < 0.5


def test_each_word_is_nearest_to_itself(sentences):
    vectors = fitted(sentences)
    everything = np.ones(len(vectors.words), bool)
    np.testing.assert_array_equal(vectors.nearest(vectors.vectors, everything), vectors.words)
    is_port = vectors.words < 1000
    assert set(vectors.nearest(vectors.vectors, is_port)) <= set(vectors.words[is_port])
    assert len(vectors.nearest(np.zeros((0, DIMENSIONS), np.float32), everything)) == 0


def test_a_child_keeps_what_the_parent_knew_and_puts_new_words_among_their_company(sentences):
    parent = fitted(sentences)
    child = fitted(np.concatenate([sentences, [[120, WEB, TCP]] * 5]), parent)
    np.testing.assert_array_equal(child.encode(parent.words), parent.vectors)
    new = child.encode(np.array([120]))
    assert (new @ child.encode(np.array([WEB])).T).item() > (new @ child.encode(np.array([DNS])).T).item()


def test_vectors_survive_json(sentences):
    vectors = fitted(sentences)
    again = WordVectors.from_json(json.loads(json.dumps(vectors.as_json())))
    np.testing.assert_array_equal(again.words, vectors.words)
    np.testing.assert_array_equal(again.vectors, vectors.vectors)


def test_a_conversation_is_three_words_and_rare_ports_share_one():
    table = made_table(count=72)
    sentences = sentences_of(table)
    ports, is_free = ports_of(sentences[:, 1], np.random.default_rng(0))
    np.testing.assert_array_equal(ports[~is_free], table.responder_port[~is_free])
    protocol, version, is_fragment = stacks_of(sentences[:, 2])
    np.testing.assert_array_equal(protocol, table.protocol_identifier)
    np.testing.assert_array_equal(version, table.ip_version)
    np.testing.assert_array_equal(is_fragment, table.is_fragment)
    assert is_stack_word(sentences).any(axis=0).tolist() == [False, False, True]
    ports, is_free = ports_of(sentences[:, 0], np.random.default_rng(0))
    np.testing.assert_array_equal(ports // 1024, table.initiator_port // 1024)
    assert is_free[table.initiator_port > 1024].all()
