"""Payload of TCP, of UDP and of protocols without ports, written from the service table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from nsstream.assemble.chance import mix
from nsstream.assemble.octets import Octets, copy_run, put_run, put_u16, put_u64, signed, sum_run
from nsstream.assemble.services import PatchKind, ServiceTable
from nsstream.wire.checksum import internet_checksum, ones_complement_sum


@njit(cache=True, inline="always")
def write_payload(octets: Octets, at: int, packet: Any, conversation: Any, services: ServiceTable, pseudo: int) -> int:
    """Write ``packet.payload`` octets; returns their ones' complement sum. `pseudo` is that of the pseudo-header."""
    length = signed(packet.payload)
    service = np.uintp(conversation.service)
    kind = np.uintp(1 if packet.direction == conversation.server else 0)
    for k in range(services.message_range[service, kind, 0], services.message_range[service, kind, 1]):
        if length >= services.message_minimum[k] and not (services.message_is_first[k] and packet.serial):
            seed = _seed(packet, conversation)
            return _write_message(octets, at, length, signed(packet.serial), k, services, pseudo, seed)
    if services.is_random[service]:
        put_random(octets, at, length, _seed(packet, conversation))
        return ones_complement_sum(octets, at, length, 0)
    fill = signed(services.fill[service])
    put_run(octets, at, length, fill)
    return sum_run(fill, length)


@njit(cache=True, inline="always")
def _write_message(
    octets: Octets, at: int, length: int, serial: int, k: int, services: ServiceTable, pseudo: int, seed: np.uint64
) -> int:
    start, end = services.head_range[k, 0], services.head_range[k, 1]
    head = signed(end) - start
    copy_run(octets, at, services.octets, start, head)
    tail_start, tail_end = services.tail_range[k, 0], services.tail_range[k, 1]
    tail = signed(tail_end) - tail_start
    fill = signed(services.message_fill[k])
    is_random = services.message_is_random[k]
    if is_random:
        put_random(octets, at + head, length - head - tail, seed)
    else:
        put_run(octets, at + head, length - head - tail, fill)
    copy_run(octets, at + length - tail, services.octets, tail_start, tail)
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
    if is_random:
        return ones_complement_sum(octets, at, length, 0)
    # Of the run between head and tail the sum is known: it is not read again.
    before = (head + 1) & ~1
    run = max(length - before - tail, 0) & ~1
    total = ones_complement_sum(octets, at, min(before, length), sum_run(fill, run))
    return ones_complement_sum(octets, at + before + run, max(length - before - run, 0), total)


@njit(cache=True, inline="always")
def _seed(packet: Any, conversation: Any) -> np.uint64:
    """Of the random octets of a packet; what is repeated is copied, not made anew."""
    return mix(np.uint64(packet.time_ns) ^ (np.uint64(conversation.flow_label) << np.uint64(44)))


@njit(cache=True, nogil=True)
def put_random(octets: Octets, at: int, length: int, seed: np.uint64) -> None:
    """Write `length` random octets."""
    state = seed
    for k in range(length >> 3):
        state = mix(state)
        put_u64(octets, at + 8 * k, np.int64(state))  # type: ignore[arg-type]  # numba's int is numpy's int64
    state = mix(state)
    for k in range(length & ~7, length):
        octets[at + k] = state & np.uint64(0xFF)
        state >>= np.uint64(8)
