"""WordVectors: IP2Vec's embedding of ports and protocols (Ring et al. 2017, as NetShare uses it), as unit vectors.

A conversation is a sentence of its two ports and its protocol; words that keep the same company lie near one another.
The vectors are learned by skip-gram (`skip_gram`) on the chunk's own sentences: the same rows, in whatever order, give
the same vectors. A child's words keep the vectors that the parent knew, and new words find their place among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.skip_gram import learn_words

DIMENSIONS: Final = 10
_JITTER: Final = 0.05  # words in the same company must not have the same vector
_SEED: Final = 20221
_MOST_SAID: Final = 20_000  # sentences that an epoch reads, or each different one once
_READ: Final = 60_000  # sentences that are read in all, where these epochs do:
_FEWEST_EPOCHS: Final = 5  # as gensim has it, and NetShare
_MOST_EPOCHS: Final = 200


@dataclass(frozen=True)
class WordVectors:
    """Words and their vectors.

    Attributes:
        words: (w,) distinct integers, rising.
        vectors: (w, DIMENSIONS) of length 1.
    """

    words: NDArray[np.int64]
    vectors: NDArray[np.float32]

    @classmethod
    def fit(cls, sentences: NDArray[np.int64], weight: NDArray[np.integer], parent: Self | None = None) -> Self:
        """Embed the words of sentences (n, k), each of which was said `weight` (n,) times."""
        words = np.unique(sentences)
        kept = {} if parent is None else {str(w): v for w, v in zip(parent.words, parent.vectors, strict=True)}
        if all(str(word) in kept for word in words):
            learned = kept
        else:
            said = _said(sentences, weight)
            epochs = int(np.clip(_READ // len(said), _FEWEST_EPOCHS, _MOST_EPOCHS))
            learned = learn_words(said, DIMENSIONS, epochs, held=kept)
        vectors = np.array([learned[str(word)] for word in words]).reshape(len(words), DIMENSIONS)
        is_new = np.array([str(word) not in kept for word in words], bool)
        vectors[is_new] = _unit(_unit(vectors[is_new]) + _noise(words[is_new]))
        return cls(words, vectors.astype(np.float32))

    def encode(self, words: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors (n, DIMENSIONS) of words (n,) that were fitted."""
        out: NDArray[np.float32] = self.vectors[np.searchsorted(self.words, words)]
        return out

    def nearest(self, vectors: NDArray[np.float32], among: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The word (n,) nearest by angle to each vector (n, DIMENSIONS), of those that the mask (w,) allows."""
        known = self.vectors[among]
        rows = max(1, (1 << 22) // max(len(known), 1))
        pieces = [(vectors[at : at + rows] @ known.T).argmax(axis=1) for at in range(0, len(vectors), rows)]
        out: NDArray[np.int64] = self.words[among][np.concatenate([np.zeros(0, np.int64), *pieces])]
        return out

    def as_json(self) -> dict[str, Any]:
        """Words and vectors."""
        return {"words": self.words.tolist(), "vectors": self.vectors.tolist()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`."""
        words = np.array(data["words"], np.int64)
        return cls(words, np.array(data["vectors"], np.float32).reshape(len(words), DIMENSIONS))


def _said(sentences: NDArray[np.int64], weight: NDArray[np.integer]) -> list[list[str]]:
    """Each different sentence as often as its share of `_MOST_SAID` says, once at least; shuffled always alike."""
    different, which = np.unique(sentences, axis=0, return_inverse=True)
    times = np.bincount(which.reshape(-1), weights=weight, minlength=len(different))
    times = np.maximum(np.rint(times * min(1.0, _MOST_SAID / times.sum())), 1).astype(np.int64)
    texts = [[str(word) for word in sentence] for sentence in different.tolist()]
    order = np.random.default_rng(_SEED).permutation(np.repeat(np.arange(len(texts)), times))
    return [texts[i] for i in order]


def _noise(words: NDArray[np.int64]) -> NDArray[np.float64]:
    """A small vector for each word that depends on the word alone."""
    rows = [np.random.default_rng([_SEED, int(word) & 0xFFFFFFFF]).standard_normal(DIMENSIONS) for word in words]
    return _JITTER * np.array(rows).reshape(len(words), DIMENSIONS)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return out
