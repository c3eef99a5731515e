"""WordVectors: IP2Vec's embedding of ports and protocols (Ring et al. 2017, as NetShare uses it), as unit vectors.

A conversation is a sentence of its two ports and its protocol; words that keep the same company lie near one another.
The vectors are the leading eigenvectors of the words' positive pointwise mutual information, the matrix that skip-gram
with negative sampling factorises implicitly (Levy and Goldberg 2014): the same rows give the same vectors, and nothing
has to be trained. A child's words keep the vectors that the parent knew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

DIMENSIONS: Final = 10
_JITTER: Final = 0.05  # words in the same company must not have the same vector
_ITERATIONS: Final = 8
_SEED: Final = 20221


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
        words, at = np.unique(sentences, return_inverse=True)
        at = at.reshape(sentences.shape)
        company = np.zeros((len(words), len(words)))
        for i in range(sentences.shape[1]):
            for j in range(sentences.shape[1]):
                if i != j:
                    np.add.at(company, (at[:, i], at[:, j]), weight)
        vectors = _unit(_factors(company) + _noise(words))
        if parent is not None:
            known = np.isin(words, parent.words)
            inherited = np.zeros_like(vectors)
            inherited[known] = parent.vectors[np.searchsorted(parent.words, words[known])]
            met = company @ inherited  # a new word stands among the words that it was met with
            vectors = np.where(known[:, None], inherited, _unit(_unit(met) + _noise(words)))
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


def _factors(company: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scaled leading eigenvectors (w, DIMENSIONS) of positive mutual information, by subspace iteration."""
    total, alone = company.sum(), company.sum(axis=1)
    expected = np.outer(alone, alone) / max(total, 1)
    information = np.log(np.maximum(company, 1e-12) / np.maximum(expected, 1e-12))
    information = np.where(company > 0, np.maximum(information, 0), 0)
    basis = np.random.default_rng(_SEED).standard_normal((len(company), DIMENSIONS))
    for _ in range(_ITERATIONS):
        basis, _ = np.linalg.qr(information @ basis)
    width = basis.shape[1]  # fewer than DIMENSIONS where there are fewer words
    scale = np.sqrt(np.abs(np.einsum("wk,wv,vk->k", basis, information, basis, optimize=True)))
    out = np.zeros((len(company), DIMENSIONS))
    out[:, :width] = basis * scale
    return out


def _noise(words: NDArray[np.int64]) -> NDArray[np.float64]:
    """A small vector for each word that depends on the word alone."""
    rows = [np.random.default_rng([_SEED, int(word) & 0xFFFFFFFF]).standard_normal(DIMENSIONS) for word in words]
    return _JITTER * np.array(rows).reshape(len(words), DIMENSIONS)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return out
