"""Make the file of public vectors that `ip2vec` reads: ``python -m nsstream.encode.make_ip2vec CAPTURE [-o FILE]``.

CAPTURE is the one that we ship, and must be public. The same capture gives the same file on the same machine; another
processor's rounding may change a last decimal.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np

from nsstream.capture import read_trace
from nsstream.encode.encoding import sort_by_start
from nsstream.encode.ip2vec import DIMENSIONS, IP2VEC_FILE, IP2Vec, centred, words_of_services
from nsstream.encode.ip2vec_corpus import corpus
from nsstream.encode.skip_gram import learn_words
from nsstream.trace import ConversationTable
from nsstream.trace.grouping import group_conversations

EPOCHS: Final = 12
_SEED: Final = 20171


def learn_ip2vec(table: ConversationTable) -> IP2Vec:
    """The vectors of all services, from a public capture's conversations and the dictionary."""
    sentences = corpus(table)
    order = np.random.default_rng(_SEED).permutation(len(sentences))
    learned = learn_words([sentences[i] for i in order], DIMENSIONS, EPOCHS)
    words = tuple(words_of_services())
    # The ranges of which the corpus never speaks stand where their protocol does.
    rows = [learned[word] if word in learned else learned[word.split("/")[0]] for word in words]
    return IP2Vec(words, centred(np.stack(rows)))


def main() -> int:
    """Learn and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / IP2VEC_FILE)
    given = parser.parse_args()
    table, _ = group_conversations(read_trace(given.capture)[0])
    given.output.write_text(learn_ip2vec(sort_by_start(table)).as_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
