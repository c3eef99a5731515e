"""New conversations of a chunk, before their packets: attributes, ends, starts and lengths."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.decoding import Endpoints, decode_endpoints
from nsstream.encode.schema import ATTRIBUTE_INDEX, LENGTH_GRID
from nsstream.model.networks import AttributeNetwork
from nsstream.model.sample_attributes import draw_attributes
from nsstream.model.settle_lengths import settle_lengths
from nsstream.model.settle_partners import settle_partners

VOLUME_MARGIN: Final = 0.02  # of a chunk's packets, within which long conversations keep their measured lengths
MOST_STRETCHED: Final = 2.0  # times as long, or as short, as measured
WIDEST_MARGIN: Final = 0.2  # beyond which all lengths are replaced


@dataclass(frozen=True)
class Conversations:
    """n conversations in order of start.

    Attributes:
        attributes: (n, a) tokens.
        ends: what they mean.
        start_ns: (n,) time of the first packet.
        counts: (n,) packets of each, at least 1.
    """

    attributes: NDArray[np.int64]
    ends: Endpoints
    start_ns: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, rows: NDArray[np.int64]) -> Conversations:
        """The conversations at these indices, in this order."""
        ends = replace(self.ends, **{f.name: getattr(self.ends, f.name)[rows] for f in fields(self.ends)})
        return Conversations(self.attributes[rows], ends, self.start_ns[rows], self.counts[rows])


def draw_conversations(network: AttributeNetwork, codec: Codec, rng: np.random.Generator) -> Conversations:
    """Draw one chunk's conversations."""
    attributes, start_ns = draw_attributes(network, codec, rng)
    attributes[:, ATTRIBUTE_INDEX["packet_count"]] = settle_lengths(attributes, start_ns, codec, rng)
    settle_partners(attributes, start_ns, codec, rng)
    ends = decode_endpoints(attributes, codec, rng)
    lengths = codec.length.draw(attributes[:, ATTRIBUTE_INDEX["packet_count"]], rng)
    return Conversations(attributes, ends, start_ns, fit_volume(lengths, codec, rng))


def fit_volume(counts: NDArray[np.int64], codec: Codec, rng: np.random.Generator) -> NDArray[np.int64]:
    """Give long conversations the chunk's own lengths, the longest to the one drawn longest, and so on: (n,).

    Drawn lengths are right on the whole, but one elephant too many is a chunk's worth of packets; so the ranks of those
    beyond the grid's exact lengths are kept, and their values taken from the measured distribution. Equal lengths are
    ranked by lot. Short ones stay as they are, since other attributes agree with them (who is never answered has said
    once what another says twice, a question over UDP has one answer); the long ones make up for them. Only where that
    is not enough are all replaced alike.
    """
    measured = codec.length.counts.copy()
    measured[: LENGTH_GRID.exact + 1] = 0
    wanted = round(len(counts) * measured.sum() / max(codec.length.counts.sum(), 1))
    rank = np.lexsort((rng.random(len(counts)), counts))
    found = min(wanted, int((counts > LENGTH_GRID.exact).sum()))
    out = np.maximum(counts, 1)
    if found:
        out[rank[-found:]] = replace(codec.length, counts=measured).sample(wanted)[-found:]
    is_long = out > LENGTH_GRID.exact
    spare = out[is_long] - LENGTH_GRID.exact
    if len(spare) and abs(int(out.sum()) - codec.packet_count) > VOLUME_MARGIN * codec.packet_count:
        wanted_spare = int(spare.sum()) + codec.packet_count - int(out.sum())
        factor = np.clip(wanted_spare / spare.sum(), 1 / MOST_STRETCHED, MOST_STRETCHED)
        out[is_long] = LENGTH_GRID.exact + np.maximum(np.rint(spare * factor), 1).astype(np.int64)
    if abs(int(out.sum()) - codec.packet_count) > WIDEST_MARGIN * codec.packet_count:
        out[rank] = np.maximum(codec.length.sample(len(counts)), 1)
    return out
