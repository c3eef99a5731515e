"""AddressMap: real addresses to other ones, keyed, the same way every time, prefixes kept together.

What it promises
- The same key maps the same address to the same address; without the key the map cannot be computed either way.
- IPv4 unicast goes into `ipv4_range`, and the /64 of IPv6 unicast into `ipv6_range`. Of a range of /p, two addresses
  that share their first k >= p bits, and no more, share k bits after the map too, and no more: each bit behind the
  range's is flipped by a keyed function of all bits before it (Crypto-PAn's construction, Xu et al. 2002, with
  BLAKE2b). The first p bits have no room in the range, but decide on the flips of the others: what differs in them is
  mapped each in its own way, and may meet. Interface identifiers go by keyed hash; link-local addresses stay so.
- Roles stay in IPv4: a last octet of 0, 1, 254 or 255 stays, so that a directed broadcast of a /24 is one after the map
  too, and a gateway stands where gateways do. For that nothing is flipped below a prefix of the last octet that is all
  zeros or all ones; so its first two bits always stay.
- Multicast, limited broadcast, unspecified and loopback addresses are public constants and stay, but for the host bits
  of solicited-node multicast (RFC 4291 2.7.1), which are replaced.

It is applied before a model sees a host, so no checkpoint holds a real unicast address.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nsstream.errors import InputError

_Network = TypeVar("_Network", ipaddress.IPv4Network, ipaddress.IPv6Network)
_Tables = dict[bytes, int]  # what was hashed in one call, by the octets that many addresses begin with
_V4_MAPPED = bytes(10) + b"\xff\xff"
_NO_UNICAST = [ipaddress.ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/64", "ff00::/8")]
_SOLICITED_NODE = bytes.fromhex("ff02" + "00" * 9 + "01ff")


@dataclass(frozen=True)
class AddressMap:
    """A keyed map into two ranges.

    Attributes:
        key: 16 to 64 octets, secret.
        ipv4_range: network of /16 or shorter, for example ``10.0.0.0/8``.
        ipv6_range: network of /48 or shorter, for example ``fd00::/8``.

    Raises:
        InputError: a range that is not a network, is too narrow, or has addresses in it that are no unicast.
    """

    key: bytes
    ipv4_range: str = "10.0.0.0/8"
    ipv6_range: str = "fd00::/8"

    def __post_init__(self) -> None:
        if not 16 <= len(self.key) <= 64:
            raise InputError(f"the address key must have 16 to 64 octets, got {len(self.key)}")
        _ = self._v4, self._v6

    @cached_property
    def _v4(self) -> ipaddress.IPv4Network:
        return _network(self.ipv4_range, ipaddress.IPv4Network, longest=16)

    @cached_property
    def _v6(self) -> ipaddress.IPv6Network:
        return _network(self.ipv6_range, ipaddress.IPv6Network, longest=48)

    @property
    def networks(self) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
        """Both ranges as (16 octets, how many leading bits count), IPv4 as ::ffff:a.b.c.d."""
        v4 = _V4_MAPPED + self._v4.network_address.packed, 96 + self._v4.prefixlen
        return v4, (self._v6.network_address.packed, self._v6.prefixlen)

    def map(self, addresses: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map addresses (n, 16), IPv4 as ::ffff:a.b.c.d, to addresses (n, 16) of the same families."""
        if not len(addresses):
            return addresses.copy()
        distinct, where = np.unique(addresses, axis=0, return_inverse=True)
        tables: _Tables = {}
        mapped = b"".join(self._map_one(a.tobytes(), tables) for a in distinct)
        return np.frombuffer(mapped, np.uint8).reshape(-1, 16)[where.reshape(-1)]

    def _map_one(self, address: bytes, tables: _Tables) -> bytes:
        if address.startswith(_V4_MAPPED):
            return _V4_MAPPED + self._map_v4(address[12:], tables)
        real = ipaddress.IPv6Address(address)
        if address.startswith(_SOLICITED_NODE):
            return _SOLICITED_NODE + self._hash(b"solicited", address, 3)
        if real.is_multicast or real.is_unspecified or real.is_loopback:
            return address
        identifier = self._hash(b"interface", address, 8)
        if real.is_link_local:
            return address[:8] + identifier
        subnet = self._flip(b"subnet", address[:8], self._v6.prefixlen, tables)
        return _inside(self._v6, subnet + identifier)

    def _map_v4(self, octets: bytes, tables: _Tables) -> bytes:
        real = ipaddress.IPv4Address(octets)
        if real.is_multicast or real.is_loopback or octets[0] == 0 or octets == b"\xff\xff\xff\xff":
            return octets
        turned = self._flip(b"v4", octets, self._v4.prefixlen, tables)
        return _inside(self._v4, turned[:3] + bytes([_keep_role(octets[3], turned[3])]))

    def _flip(self, purpose: bytes, octets: bytes, first: int, tables: _Tables) -> bytes:
        """Flip each bit from the first-th on, or not, by a keyed function of all bits before it."""
        out = bytearray(octets)
        for i in range(first // 8, len(octets)):
            before = purpose + octets[:i]
            table = tables.get(before)  # 255 bits: of the tree of what an octet begins with, one a node
            if table is None:
                table = tables[before] = int.from_bytes(self._hash(purpose, octets[:i], 32), "big")
            node = 1
            for bit in range(7, -1, -1):
                if 8 * i + 7 - bit >= first:
                    out[i] ^= (table >> node & 1) << bit
                node = node << 1 | octets[i] >> bit & 1
        return bytes(out)

    def _hash(self, purpose: bytes, data: bytes, size: int) -> bytes:
        return hashlib.blake2b(data, key=self.key, person=purpose, digest_size=size).digest()


def _keep_role(octet: int, turned: int) -> int:
    """The turned last octet, without the flips below a prefix that is all zeros or all ones."""
    behind = octet ^ 0xFF if octet & 0x80 else octet  # 1 where the first differing bit is, 0 before it
    free = (1 << max(behind.bit_length() - 1, 0)) - 1
    return octet ^ (octet ^ turned) & free


def _network(text: str, kind: type[_Network], longest: int) -> _Network:
    try:
        network = kind(text)
    except ValueError as err:
        raise InputError(f"not an address range: {text!r} ({err})") from err
    if network.prefixlen > longest:
        raise InputError(f"the address range {text} is too narrow: it must be a /{longest} or shorter")
    if any(network.version == other.version and network.overlaps(other) for other in _NO_UNICAST):
        raise InputError(f"the address range {text} is not unicast throughout: take a narrower one")
    return network


def _inside(network: ipaddress.IPv4Network | ipaddress.IPv6Network, octets: bytes) -> bytes:
    """The octets with the network's prefix in place of their first bits."""
    free = network.max_prefixlen - network.prefixlen
    value = int(network.network_address) | (int.from_bytes(octets, "big") & ((1 << free) - 1))
    return value.to_bytes(len(octets), "big")
