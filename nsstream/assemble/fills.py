"""Ports whose dissectors need another fill octet than `DEFAULT_FILL`, or a least length, to find nothing malformed.

Each row is (octet, least payload, ports); the least payload binds UDP only. Made by `bench/payload_sweep.py`.
"""

from __future__ import annotations

from typing import Final

DEFAULT_FILL: Final = 0x7F

TCP_FILLS: Final[tuple[tuple[int, int, tuple[int, ...]], ...]] = ()
UDP_FILLS: Final[tuple[tuple[int, int, tuple[int, ...]], ...]] = ()
