"""IP2Vec: a public vector for every port of TCP and UDP, and for protocols without ports; and who is like whom.

After Ring et al. 2017, on public data alone, as NetShare trains it for private use: `make_ip2vec` learns the words by
skip-gram from the capture that we ship and from our dictionary (`ip2vec_corpus`), and the file beside this one holds
them. Nothing here depends on a user's chunk, so a rare private port is neither a special token nor a copy of anything.

A service of the dictionary has its own vector. Any other port has that of its protocol's range (system, user, dynamic
ports, RFC 6335), drawn towards the nearest ports of the dictionary below and above, the more the nearer they are: so
each has one, near its neighbours'. Vectors are centred (those of skip-gram share a direction) and of length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.ip2vec_corpus import RANGES, SERVICES, TRANSPORTS, range_word, service_word

IP2VEC_FILE: Final = "ip2vec.txt"
DIMENSIONS: Final = 16
PORTS: Final = 1 << 16
_SPREAD: Final = 4  # ports, at which distance a neighbour says half of what it says beside it
_TEMPERATURE: Final = 0.1  # of cosines
_APART: Final = 0.5  # how much less alike are services of another protocol or IP version, or fragments and none


def words_of_services() -> list[str]:
    """All words that have a vector: of the dictionary's services, of TCP and UDP, and of the ranges of their ports."""
    ranges = [f"{name}/{part}" for name in TRANSPORTS.values() for part in RANGES]
    return [*(service_word(*service) for service in SERVICES), *TRANSPORTS.values(), *ranges]


@dataclass(frozen=True)
class IP2Vec:
    """Words and their vectors.

    Attributes:
        words: all of `words_of_services`.
        vectors: (w, DIMENSIONS), of length 1.
    """

    words: tuple[str, ...]
    vectors: NDArray[np.float32]

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Of the text format of word2vec: how many words and dimensions, then a word and its numbers a line.

        Raises ValueError where words or numbers are missing.
        """
        head, *lines = text.splitlines()
        words, numbers = zip(*(line.split(" ", 1) for line in lines), strict=True)
        vectors = np.array([row.split(" ") for row in numbers], np.float32)
        if head != f"{len(words)} {vectors.shape[1]}" or set(words) != set(words_of_services()):
            raise ValueError("not the vectors of this dictionary's services")
        return cls(words, _unit(vectors))

    def as_text(self) -> str:
        """The inverse of `from_text`, to four decimals."""
        rows = (" ".join(f"{x:.4f}" for x in vector) for vector in self.vectors.tolist())
        lines = (f"{word} {row}" for word, row in zip(self.words, rows, strict=True))
        return "\n".join((f"{len(self.words)} {self.vectors.shape[1]}", *lines)) + "\n"

    def known(self, protocol: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these protocols (n,) have vectors."""
        return np.isin(protocol, [p for p, _ in SERVICES])

    def encode(self, protocol: NDArray[np.int64], port: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors (n, DIMENSIONS) of services; zeros where the protocol is not known.

        Args:
            protocol: (n,) numbers of IP protocols.
            port: (n,); of TCP and UDP 0 or less is no port in particular, of all others it is not read.
        """
        out = np.zeros((len(protocol), self.vectors.shape[1]), np.float32)
        for one in np.unique(protocol[self.known(protocol)]).tolist():
            rows = protocol == one
            if one in TRANSPORTS:
                named = np.maximum(port[rows], 0)
                ports = self._tables[one]
                out[rows] = np.where(named[:, None] > 0, ports[named], self._vector(TRANSPORTS[one]))
            else:
                out[rows] = self._vector(service_word(one, 0))
        return out

    @cached_property
    def _tables(self) -> dict[int, NDArray[np.float32]]:
        """The vector of each port (PORTS, DIMENSIONS), by protocol."""
        return {protocol: self._table(protocol) for protocol in TRANSPORTS}

    def _table(self, protocol: int) -> NDArray[np.float32]:
        listed = np.array([port for other, port in SERVICES if other == protocol])
        own = np.stack([self._vector(service_word(protocol, port)) for port in listed.tolist()])
        ports = np.arange(PORTS)
        out = np.stack([self._vector(range_word(protocol, port)) for port in (0, 1024, PORTS - 1)])
        out = out[(ports >= 1024).astype(int) + (ports >= 49152)]
        above = np.searchsorted(listed, ports)
        for at in (above - 1, above):  # the neighbours; none below the first, none above the last
            inside = np.clip(at, 0, len(listed) - 1)
            away = np.abs(ports - listed[inside])
            out = out + np.where(inside == at, _SPREAD / (_SPREAD + away), 0)[:, None] * own[inside]
        out = _unit(out)
        out[listed] = own
        return out

    def _vector(self, word: str) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self.vectors[self._index[word]]
        return row

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}


@cache
def ip2vec() -> IP2Vec:
    """The vectors that we ship."""
    return IP2Vec.from_text((resources.files("nsstream.encode") / IP2VEC_FILE).read_text())


def service_shares(fresh: NDArray[np.int64], used: NDArray[np.int64]) -> NDArray[np.float32]:
    """How much of each service in use (u, 4) goes into what a newcomer (f, 4) starts from: (f, u), rows add up to 1.

    Services as of `codec.service_values`. The softmax of how alike they are; alike are all, where nobody knows.
    """
    vectors, known = ip2vec(), ip2vec().known(fresh[:, 0])
    alike = vectors.encode(fresh[:, 0], fresh[:, 3]) @ vectors.encode(used[:, 0], used[:, 3]).T
    alike = alike - _APART * (fresh[:, None, :3] != used[None, :, :3]).sum(axis=2)
    shares = np.exp((alike - alike.max(axis=1, keepdims=True)) / _TEMPERATURE)
    shares[~known] = 1
    out: NDArray[np.float32] = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return out


def centred(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (n, d) less their mean, of length 1."""
    return _unit(vectors - vectors.mean(axis=0))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    out: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return out.astype(np.float32)
