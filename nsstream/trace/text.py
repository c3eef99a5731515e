"""Addresses as text: a.b.c.d, or IPv6 as RFC 5952 has it."""

from __future__ import annotations

import ipaddress

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def address_texts(addresses: NDArray[np.uint8]) -> pa.Array:
    """Addresses (n, 16) as an array of texts, each distinct one made once; IPv4 as a.b.c.d."""
    distinct, at = np.unique(np.ascontiguousarray(addresses).view("V16").ravel(), return_inverse=True)
    texts = [_text_of(octets.tobytes()) for octets in distinct]
    return pa.array(texts, pa.string()).take(pa.array(at.ravel()))


def _text_of(octets: bytes) -> str:
    address = ipaddress.IPv6Address(octets)
    return str(address.ipv4_mapped or address)
