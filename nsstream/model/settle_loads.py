"""Settle loads: each busy host sends and gets as many large records as it did.

Which service a large record is of is counted, and whose it is the network says alone: a host that had 62 % of an edge's
packets had 50 % of its twin's. So records of one kind change sizes, durations and flags with one another
(`exchange_sizes`) until each host that has a slot, and all others together, have as many of each octave as were
counted, as client and as server, of what they send and of what they get.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import LEAST_OCTAVE, octave_of, parties_of
from nsstream.encode.flow_schema import FIELD_INDEX, PARTIES
from nsstream.encode.flow_urns import OCTAVES
from nsstream.model.exchange_sizes import exchange_sizes

CHANGED: Final = [
    FIELD_INDEX[name] for name in ("flags", "packets", "reverse_packets", "octets", "reverse_octets", "duration")
]


def settle_loads(
    fields: NDArray[np.int64],
    attributes: NDArray[np.int64],
    kind: NDArray[np.int64],
    codec: FlowCodec,
    rng: np.random.Generator,
) -> None:
    """Exchange what m records say of sizes, in place.

    Args:
        fields: (m, f) tokens, in order of the conversations' starts.
        attributes: (m, a) of each record's conversation.
        kind: (m,) numbers of kinds (`flow_urns`): only records of the same change with one another.
        codec: the chunk's.
        rng: of all chance.
    """
    wanted = np.zeros((PARTIES, OCTAVES), np.int64)
    wanted[codec.loads[:, 0], codec.loads[:, 1]] = codec.loads[:, 2]
    parties, octave = parties_of(attributes, fields), octave_of(fields, codec)
    come_from = exchange_sizes(parties, octave, kind, wanted, LEAST_OCTAVE, rng)
    fields[:, CHANGED] = fields[come_from][:, CHANGED]
