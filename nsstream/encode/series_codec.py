"""SeriesCodec: conversations as DoppelGANger sees them, metadata and a series of packets in numbers from -1 to 1.

Metadata (attributes) of a conversation: both addresses bit by bit, ports and protocol as word vectors, flow tags, TTLs,
classes of service, and the start as a place in the chunk. A packet's features: what kind of packet it is (one of the
`KIND_RANKS` most frequent of its protocol stack), gap and size, and whether another packet follows.

Auto-normalisation (Lin et al. 2020, section 4.1.3): gap and size of a series lie between that series' own least and
greatest value, and those two, as middle and half range, are metadata beside the others. All scales are the chunk's own
least and greatest value; gaps are taken as the logarithm of microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import kind_values
from nsstream.encode.sentences import sentences_of
from nsstream.encode.vocabulary import Vocabulary
from nsstream.encode.word_vectors import WordVectors
from nsstream.trace.conversations import ConversationTable

SERIES_SCHEMA_ID: Final = "series-1"
STACKS: Final = 6  # as of `codec.stack_of`
KIND_RANKS: Final = 16
MOST_KEPT_ADDRESSES: Final = 1024


@dataclass(frozen=True)
class Scale:
    """A number between the least and the greatest that the chunk shows, as 0..1."""

    least: float
    most: float

    @classmethod
    def fit(cls, values: NDArray[np.float64]) -> Self:
        """The range of values (n,); of none, 0 to 1."""
        return cls(float(values.min()), float(values.max())) if len(values) else cls(0.0, 1.0)

    def to_unit(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (n,) as 0..1."""
        return np.clip((values - self.least) / max(self.most - self.least, 1e-9), 0, 1)

    def from_unit(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `to_unit`."""
        return self.least + places * (self.most - self.least)


@dataclass(frozen=True)
class SeriesCodec:
    """What the numbers of one chunk mean; JSON and nothing else.

    Attributes:
        start_ns, end_ns: the chunk's interval.
        first_ns, last_ns: times of its first packet and its last.
        conversation_count, packet_count: of the chunk.
        gap, size: scales, of log1p of microseconds and of octets.
        words: vectors of port and stack words.
        kinds: one vocabulary of `KIND_RANKS` packet kinds a stack.
        kept_address: (k, 16) addresses of the chunk that the address map leaves as they are, multicast and the like.
        network: the prefix, and how many bits of it count, into which all other addresses are put, of IPv4 and IPv6.
        vlan_id: the most frequent.
    """

    start_ns: int
    end_ns: int
    first_ns: int
    last_ns: int
    conversation_count: int
    packet_count: int
    gap: Scale
    size: Scale
    words: WordVectors
    kinds: tuple[Vocabulary, ...]
    kept_address: NDArray[np.uint8]
    network: tuple[tuple[bytes, int], tuple[bytes, int]]
    vlan_id: int

    @classmethod
    def fit(
        cls,
        table: ConversationTable,
        start_ns: int,
        end_ns: int,
        networks: tuple[tuple[bytes, int], tuple[bytes, int]],
        parent: Self | None = None,
    ) -> Self:
        """Fit on a chunk's conversations, addresses mapped into `networks` already."""
        kinds = kind_values(table)
        vocabularies = [
            Vocabulary.fit(kinds[kinds[:, 0] == stack], KIND_RANKS, parent=parent.kinds[stack] if parent else None)
            for stack in range(STACKS)
        ]
        hosts = np.unique(np.concatenate([table.initiator_address, table.responder_address]), axis=0)
        return cls(
            start_ns=start_ns,
            end_ns=end_ns,
            first_ns=int(table.observation_time_ns.min()),
            last_ns=int(table.observation_time_ns.max()),
            conversation_count=len(table),
            packet_count=len(table.observation_time_ns),
            gap=Scale.fit(log_gaps(table)[is_later(table)]),
            size=Scale.fit(table.ip_total_length.astype(np.float64)),
            words=WordVectors.fit(sentences_of(table), table.packet_count, parent.words if parent else None),
            kinds=tuple(vocabularies),
            kept_address=hosts[~_is_inside(hosts, networks)][:MOST_KEPT_ADDRESSES],
            network=networks,
            vlan_id=int(np.bincount(table.vlan_id).argmax()),
        )

    @property
    def kind(self) -> Vocabulary:
        """All kinds as one vocabulary: rank r of a stack has the token ``stack * KIND_RANKS + r``."""
        return Vocabulary(
            tuple(slot for one in self.kinds for slot in one.slots), tuple(n for one in self.kinds for n in one.counts)
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            **{name: getattr(self, name) for name in _NUMBERS},
            "gap": [self.gap.least, self.gap.most],
            "size": [self.size.least, self.size.most],
            "words": self.words.as_json(),
            "kinds": [one.as_json() for one in self.kinds],
            "kept_address": self.kept_address.tolist(),
            "network": [[prefix.hex(), bits] for prefix, bits in self.network],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`; raises LookupError, TypeError or ValueError on anything else."""
        v4, v6 = ((bytes.fromhex(prefix), int(bits)) for prefix, bits in data["network"])
        if len(data["kinds"]) != STACKS or len(v4[0]) != 16 or len(v6[0]) != 16:
            raise ValueError("not the codec of a series model")
        return cls(
            **{name: int(data[name]) for name in _NUMBERS},
            gap=Scale(*map(float, data["gap"])),
            size=Scale(*map(float, data["size"])),
            words=WordVectors.from_json(data["words"]),
            kinds=tuple(Vocabulary.from_json(one) for one in data["kinds"]),
            kept_address=np.array(data["kept_address"], np.uint8).reshape(-1, 16),
            network=(v4, v6),
        )


_NUMBERS: Final = ("start_ns", "end_ns", "first_ns", "last_ns", "conversation_count", "packet_count", "vlan_id")


def is_later(table: ConversationTable) -> NDArray[np.bool_]:
    """Which packets (m,) are not the first of their conversation."""
    later = np.ones(len(table.observation_time_ns), bool)
    later[table.packet_offset[:-1]] = False
    return later


def log_gaps(table: ConversationTable) -> NDArray[np.float64]:
    """log1p of the microseconds (m,) since the packet before; 0 for the first of a conversation."""
    gaps = np.diff(table.observation_time_ns, prepend=table.observation_time_ns[:1])
    return np.log1p(np.maximum(gaps, 0) * 1e-3) * is_later(table)


def _is_inside(hosts: NDArray[np.uint8], networks: tuple[tuple[bytes, int], tuple[bytes, int]]) -> NDArray[np.bool_]:
    """Which addresses (n, 16) lie in the network of their family."""
    bits = np.unpackbits(hosts, axis=1)
    inside = np.zeros(len(hosts), bool)
    for prefix, length in networks:
        wanted = np.unpackbits(np.frombuffer(prefix, np.uint8))
        inside |= (bits[:, :length] == wanted[:length]).all(axis=1)
    return inside
