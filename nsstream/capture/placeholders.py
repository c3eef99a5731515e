"""Addresses for flows whose table has none: a name such as ``10074_40`` or ``DNS``, or an AS number.

Each gets one address of 240.0.0.0/4 (reserved, RFC 1112 section 4: no host has one), the same in every file and on
every run. ``10074_40``, CIDDS's form for host 40 of an anonymised /24, keeps its structure: hosts of one network get
addresses of one /24. An AS number keeps its order. Any other name gets one of 255.0.0.0/8, by its hash.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

_BASE: Final = 240 << 24
_NAMES: Final = 255 << 24
_MAX_NETWORK: Final = 0xEFFFF  # so that all stays below 255.0.0.0
_MAX_AS: Final = (15 << 24) - 1
_NETWORK_AND_HOST: Final = re.compile(r"(\d{1,7})_(\d{1,3})")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def placeholder_of_name(name: str) -> int | None:
    """The IPv4 address, as a number, that stands for a name; None where it is no name of letters or digits."""
    if match := _NETWORK_AND_HOST.fullmatch(name):
        network, host = int(match[1]), int(match[2])
        if network <= _MAX_NETWORK and host <= 255:
            return _BASE + (network << 8) + host
        return _of_hash(name)
    return _of_hash(name) if _NAME.fullmatch(name) else None


def placeholder_of_as(number: int) -> int:
    """The IPv4 address, as a number, that stands for an autonomous system."""
    return _BASE + number if number <= _MAX_AS else _of_hash(str(number))


def _of_hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return _NAMES + int.from_bytes(digest, "big") % ((1 << 24) - 1)  # never 255.255.255.255
