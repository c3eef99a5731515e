"""The cache file of tcpprep: which of a capture's packets tcpreplay sends on which of two interfaces. Sans-IO.

Promises: tcpreplay 4 and tcpprep read what `cache_file` gives, and it is what tcpprep itself would write of that split.

Source: version 04 of the format, as tcpprep 4.4.3 writes it: a header of big-endian numbers, a comment, and two bits a
packet, the first packet in the lowest bits of the first octet: 2 to send it, 1 for the primary interface.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAGIC: Final = b"tcpprep\0"
VERSION: Final = b"04\0\0"
PACKETS_PER_OCTET: Final = 4
MAX_COMMENT: Final = 0xFFFF


def cache_file(is_primary: NDArray[np.bool_], comment: str = "") -> bytes:
    """The octets of a cache of m packets (m,), all of them sent, on the primary interface (--intf1) or the other."""
    pairs = np.where(is_primary, 3, 2).astype(np.uint8)
    padded = np.zeros(-(-len(pairs) // PACKETS_PER_OCTET) * PACKETS_PER_OCTET, np.uint8)
    padded[: len(pairs)] = pairs
    by_octet = padded.reshape(-1, PACKETS_PER_OCTET)
    data = by_octet[:, 0] | by_octet[:, 1] << 2 | by_octet[:, 2] << 4 | by_octet[:, 3] << 6
    told = comment.encode("ascii", "replace")[:MAX_COMMENT]
    header = MAGIC + VERSION + struct.pack(">QHH", len(pairs), PACKETS_PER_OCTET, len(told))
    return header + told + data.astype(np.uint8).tobytes()
