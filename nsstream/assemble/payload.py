"""Payload of TCP, of UDP and of protocols without ports, written from the service table."""

from __future__ import annotations

from typing import Any

from numba import njit

from nsstream.assemble.octets import Octets, put_run, put_u16, signed
from nsstream.assemble.services import PatchKind, ServiceTable
from nsstream.wire.checksum import internet_checksum


@njit(cache=True)
def write_payload(
    octets: Octets, at: int, packet: Any, conversation: Any, services: ServiceTable, pseudo: int
) -> tuple[int, int]:
    """Write ``packet.payload`` octets; `pseudo` is the sum of the pseudo-header.

    Returns:
        how many of the last octets are equal, starting at an even position, and their value: a checksum need not read
        them.
    """
    length = signed(packet.payload)
    service = conversation.service
    fill = signed(services.fill[service])
    kind = 1 if packet.direction == conversation.server else 0
    for k in range(services.message_range[service, kind, 0], services.message_range[service, kind, 1]):
        if length >= services.message_minimum[k]:
            return _write_message(octets, at, length, signed(packet.serial), k, services, pseudo)
    put_run(octets, at, length, fill)
    return length, fill


@njit(cache=True)
def _write_message(
    octets: Octets, at: int, length: int, serial: int, k: int, services: ServiceTable, pseudo: int
) -> tuple[int, int]:
    start, end = services.head_range[k, 0], services.head_range[k, 1]
    head = end - start
    for i in range(head):
        octets[at + i] = services.octets[start + i]
    tail_start, tail_end = services.tail_range[k, 0], services.tail_range[k, 1]
    tail = tail_end - tail_start
    fill = signed(services.message_fill[k])
    put_run(octets, at + head, length - head - tail, fill)
    for i in range(tail):
        octets[at + length - tail + i] = services.octets[tail_start + i]
    for p in range(services.patch_range[k, 0], services.patch_range[k, 1]):
        where = at + services.patches[p, 0]
        kind = services.patches[p, 1]
        rest = length - services.patches[p, 2]
        if kind == PatchKind.LENGTH_8:
            octets[where] = rest & 0xFF
        elif kind == PatchKind.LENGTH_16:
            put_u16(octets, where, rest)
        elif kind == PatchKind.SERIAL_16:
            put_u16(octets, where, serial + 1)
        elif kind == PatchKind.CHECKSUM:
            put_u16(octets, where, internet_checksum(octets, at, length, 0))
        elif kind == PatchKind.PSEUDO_CHECKSUM:
            put_u16(octets, where, internet_checksum(octets, at, length, pseudo))
        else:
            for digit in range(3, -1, -1):
                octets[where + digit] = 48 + rest % 10
                rest //= 10
    if tail:
        return 0, 0
    return max(length - ((head + 1) & ~1), 0), fill
