"""Skip-gram with negative sampling (Mikolov et al. 2013), by gensim: the same sentences in, the same vectors out.

One thread, a seed of its own, and a vocabulary whose order follows from the sentences: nothing is left to chance. Every
word of a sentence is company of every other one, for our sentences have no order. gensim takes a second to load, and
is loaded when something is learned.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SEED: Final = 20171  # Ring et al. 2017
_NEGATIVE: Final = 5
_RATE: Final = 0.05
_LAST_RATE: Final = 1e-4


def learn_words(
    sentences: Sequence[Sequence[str]],
    dimensions: int,
    epochs: int,
    held: Mapping[str, NDArray[np.float32]] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """The vector (dimensions,) of each word of these sentences, not of any length in particular.

    Args:
        sentences: at least one, of at least two words each; their order matters.
        dimensions: of the vectors.
        epochs: how often each sentence is read.
        held: words whose vectors are known and stay, so that others find their place among them.
    """
    from gensim.models import Word2Vec  # takes a second, and few processes learn words

    model = Word2Vec(
        vector_size=dimensions,
        window=max(map(len, sentences)),
        shrink_windows=False,
        min_count=1,
        sample=0,
        sg=1,
        negative=_NEGATIVE,
        alpha=_RATE,
        min_alpha=_LAST_RATE,
        seed=_SEED,
        hashfxn=_hash,
        workers=1,
    )
    model.build_vocab(sentences)
    index: dict[str, int] = model.wv.key_to_index
    known = [word for word in held or {} if word in index]
    if held and known:
        rows = [index[word] for word in known]
        learns = np.ones(len(index), np.float32)
        learns[rows] = 0
        model.wv.vectors[rows] = np.stack([held[word] for word in known])
        model.wv.vectors_lockf = learns
    model.train(sentences, total_examples=model.corpus_count, epochs=epochs)
    return {word: np.asarray(model.wv.vectors[at], np.float32) for word, at in index.items()}


def _hash(word: str) -> int:
    """As Python's, but the same in each process."""
    return zlib.crc32(word.encode())
