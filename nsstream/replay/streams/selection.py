"""Selection: only these services, only these hosts. Vectorised tests on columns of five-tuples."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nsstream.replay.scenario import Scenario, Service, parse_service

_V4_BITS = 96  # in front of an IPv4 address, as ::ffff:a.b.c.d
_V4_MAPPED = bytes(10) + b"\xff\xff"


class Selection:
    """What a scenario leaves in.

    Args:
        services: None for all.
        hosts: prefixes, one of which one end must be of; None for all.
    """

    def __init__(self, services: Sequence[Service] | None, hosts: Sequence[str] | None) -> None:
        self._services = services
        self._prefixes = None if hosts is None else [_prefix(text) for text in hosts]

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """The selection of a scenario."""
        services = None if scenario.services is None else [parse_service(text) for text in scenario.services]
        return cls(services, scenario.hosts)

    @property
    def takes_all(self) -> bool:
        """Whether nothing is left out."""
        return self._services is None and self._prefixes is None

    def rows(
        self,
        protocol: NDArray[np.uint8],
        ports: Sequence[NDArray[np.uint16]],
        addresses: Sequence[NDArray[np.uint8]],
    ) -> NDArray[np.bool_]:
        """Which rows are left in: (n,).

        Args:
            protocol: (n,) protocol numbers.
            ports: columns (n,) of which one must be the service's.
            addresses: columns (n, 16) of which one must be of a prefix; IPv4 as ::ffff:a.b.c.d.
        """
        kept = np.ones(len(protocol), bool)
        if self._services is not None:
            kept = np.zeros(len(protocol), bool)
            for service in self._services:
                of_port = [(service.low <= port) & (port <= service.high) for port in ports]
                kept |= (protocol == service.protocol) & np.logical_or.reduce(of_port)
        if self._prefixes is not None:
            within = np.zeros(len(protocol), bool)
            for mask, value in self._prefixes:
                for column in addresses:
                    within |= ((column & mask) == value).all(axis=1)
            kept &= within
        return kept


def _prefix(text: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mask and value (16,) of a prefix."""
    network = ipaddress.ip_network(text)
    is_4 = isinstance(network, ipaddress.IPv4Network)
    octets = (_V4_MAPPED if is_4 else b"") + network.network_address.packed
    bits = network.prefixlen + (_V4_BITS if is_4 else 0)
    mask = ((1 << 128) - (1 << (128 - bits))).to_bytes(16, "big")
    return np.frombuffer(mask, np.uint8), np.frombuffer(octets, np.uint8)
