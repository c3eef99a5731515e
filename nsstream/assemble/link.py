"""Link-layer addresses: from IP addresses to MACs.

Promises: a host's MAC is unicast and locally administered, and depends on its IP address alone; a group's is the
one that RFC 1112 (IPv4), RFC 2464 (IPv6) or the limited broadcast asks for.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_LOCAL_UNICAST: Final = 0x02


def group_addresses(address: NDArray[np.uint8], version: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which addresses are multicast or the limited broadcast, which nothing can come from.

    Args:
        address: (n, 2, 16) uint8, IPv4 in the last four octets.
        version: (n,) uint8, 4 or 6.

    Returns:
        (n, 2).
    """
    is_multicast_4 = (address[..., 12] & 0xF0) == 0xE0
    is_broadcast = (address[..., 12:] == 0xFF).all(axis=-1)
    is_group_4: NDArray[np.bool_] = is_multicast_4 | is_broadcast
    is_4 = (version == 4)[:, None]
    is_group: NDArray[np.bool_] = (is_group_4 & is_4) | ((address[..., 0] == 0xFF) & ~is_4)
    return is_group


def link_addresses(address: NDArray[np.uint8], version: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The MAC of each address: (n, 2, 6) for (n, 2, 16)."""
    words = np.ascontiguousarray(address).view(">u8")[..., 0], np.ascontiguousarray(address).view(">u8")[..., 1]
    mixed = (words[0].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ words[1].astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    mac = np.ascontiguousarray(mixed.astype(">u8")[..., None]).view(np.uint8)[..., :6].copy()
    mac[..., 0] = _LOCAL_UNICAST
    is_group = group_addresses(address, version)
    is_4 = (version == 4)[:, None]
    multicast_4 = is_group & is_4
    mac[multicast_4, :3] = (0x01, 0x00, 0x5E)
    mac[multicast_4, 3:] = address[multicast_4, 13:] & np.array([0x7F, 0xFF, 0xFF], np.uint8)
    mac[multicast_4 & (address[..., 12] == 0xFF)] = 0xFF
    multicast_6 = is_group & ~is_4
    mac[multicast_6, :2] = 0x33
    mac[multicast_6, 2:] = address[multicast_6, 12:]
    return mac
