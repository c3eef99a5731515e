"""Settle loads: each busy client has as many large records as it had.

Which service a large record is of is counted, and whose it is the network says alone: a host that had 62 % of an edge's
packets had 50 % of its twin's. So records of one kind change sizes, durations and flags with one another until each
client that has a slot, and all others together, have as many of each octave as was counted; each with the one next in
the order of starts that will do.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_encoding import LEAST_OCTAVE, client_class, octave_of
from nsstream.encode.flow_schema import FIELD_INDEX, HOST_SLOTS
from nsstream.encode.flow_urns import OCTAVES

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
    lack = np.zeros((HOST_SLOTS + 1, OCTAVES), np.int64)  # of each client and octave, how many there still should be
    lack[codec.loads[:, 0], codec.loads[:, 1]] = codec.loads[:, 2]
    client, octave = client_class(attributes), octave_of(fields, codec)
    np.add.at(lack, (client, octave), -1)
    for size in range(OCTAVES - 1, LEAST_OCTAVE - 1, -1):
        for row in rng.permutation(np.flatnonzero((octave == size) & (lack[client, size] < 0))).tolist():
            if lack[client[row], size] >= 0:
                continue
            may = np.flatnonzero((kind == kind[row]) & (octave < size) & (lack[client, size] > 0))
            if not len(may):
                continue
            other = int(may[np.argmin(abs(may - row))])
            pair, swapped = [row, other], [other, row]
            for one in pair:
                lack[client[one], octave[one]] += 1
            fields[np.ix_(pair, CHANGED)] = fields[np.ix_(swapped, CHANGED)]
            octave[pair] = octave[swapped]
            for one in pair:
                lack[client[one], octave[one]] -= 1
