"""Renewal: a recorded frame as a frame of another pass, which belongs to a flow that was not there before.

What is changed, in all frames of a flow alike:
- TCP and UDP: the ephemeral port, which is the higher of the two where it is 1024 or more, becomes one that makes a
  five-tuple that no pass has had, as far as `flow_memory` reaches. TCP also gets new sequence numbers in both
  directions, with acknowledgements and SACK blocks (RFC 2018).
- ICMP and ICMPv6 echo: the identifier. ICMP errors: the same in the datagram that they quote.

Checksums are updated by the difference (RFC 1624), so that a right one stays right and a wrong one wrong, and fragments
need not be put together. Addresses, IP identifications, TCP timestamps and payload are those of the recording. Flows of
other protocols, of two equal ports, or of two ports below 1024 stay as they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.chance import mix
from nsstream.replay.streams.flow_memory import FlowMemory, note, port_of
from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP
from nsstream.wire.octets import u8, u16, u32

_DYNAMIC: Final = 1024  # from here on a port may be a client's
_ECHO_STEP: Final = 40_503  # odd, so that 65,536 passes have identifiers of their own
_SACK: Final = 5  # TCP option kinds: RFC 9293 section 3.2, RFC 2018
_TCP_CHECKSUM: Final = 16


@njit(cache=True, nogil=True)
def renew(
    octets: NDArray[np.uint8],
    start: int,
    end: int,
    version: int,
    protocol: int,
    addresses: int,
    key: np.uint64,
    turn: int,
    memory: FlowMemory,
) -> bool:
    """Renew the message ``octets[start:end]`` behind an IP header; whether there was anything to renew.

    Args:
        octets: written.
        start: of the transport header, which is there as far as it is fixed.
        end: of the captured octets.
        version: of IP.
        protocol: of the message.
        addresses: index of the source address, which the destination follows.
        key: of the stream.
        turn: the pass; in pass 0 the flow is noted, and nothing changed.
        memory: of the stream.
    """
    if protocol in (TCP, UDP):
        side = ephemeral_side(u16(octets, start), u16(octets, start + 2))
        if turn == 0:
            if side >= 0:
                note(
                    memory, _pair(octets, addresses, start, version, protocol, side, key), u16(octets, start + 2 * side)
                )
            return True
        delta = 0
        if protocol == TCP:
            delta = _renew_numbers(octets, start, end, version, addresses, key, turn)
        if side >= 0:
            delta += _renew_port(octets, start, version, protocol, addresses, side, key, turn, memory, start)
        _settle(octets, start + (_TCP_CHECKSUM if protocol == TCP else 6), delta, protocol == UDP)
        return side >= 0 or protocol == TCP
    if (protocol == ICMP and version == 4) or (protocol == ICMPV6 and version == 6):
        return turn == 0 or _renew_icmp(octets, start, end, version, key, turn, memory)
    return turn == 0


@njit(cache=True, nogil=True)
def ephemeral_side(source_port: int, destination_port: int) -> int:
    """Which port was chosen freely: 0 the source's, 1 the destination's, -1 neither."""
    if max(source_port, destination_port) < _DYNAMIC or source_port == destination_port:
        return -1
    return 0 if source_port > destination_port else 1


@njit(cache=True, nogil=True)
def _pair(
    octets: NDArray[np.uint8], addresses: int, ports: int, version: int, protocol: int, side: int, key: np.uint64
) -> np.uint64:
    """A hash of a five-tuple without its ephemeral port, the same in both directions."""
    size = 4 if version == 4 else 16
    own, other = addresses + size * side, addresses + size * (1 - side)
    value = mix(key ^ np.uint64(protocol << 16 | u16(octets, ports + 2 * (1 - side))))
    for k in range(size):
        value = mix(value ^ np.uint64(u8(octets, own + k) << 8 | u8(octets, other + k)))
    return value


@njit(cache=True, nogil=True)
def _renew_port(
    octets: NDArray[np.uint8],
    ports: int,
    version: int,
    protocol: int,
    addresses: int,
    side: int,
    key: np.uint64,
    turn: int,
    memory: FlowMemory,
    base: int,
) -> int:
    """Renew the ephemeral port; what that adds to the sum of 16-bit words that starts at `base`."""
    pair = _pair(octets, addresses, ports, version, protocol, side, key)
    at = ports + 2 * side
    return int(_put_u16(octets, at, port_of(memory, pair, u16(octets, at), turn), base))


@njit(cache=True, nogil=True)
def _shift(
    octets: NDArray[np.uint8], addresses: int, ports: int, version: int, back: int, key: np.uint64, turn: int
) -> int:
    """What is added to the sequence numbers of one direction: a hash of its ends, sender first, as recorded."""
    size = 4 if version == 4 else 16
    value = mix(key ^ np.uint64(turn))
    first, second = addresses + size * back, addresses + size * (1 - back)
    for k in range(size):
        value = mix(value ^ np.uint64(u8(octets, first + k) << 8 | u8(octets, second + k)))
    value = mix(value ^ np.uint64(u16(octets, ports + 2 * back) << 16 | u16(octets, ports + 2 * (1 - back))))
    return int(np.int64(value & np.uint64(0xFFFFFFFF)))


@njit(cache=True, nogil=True)
def _renew_numbers(
    octets: NDArray[np.uint8], start: int, end: int, version: int, addresses: int, key: np.uint64, turn: int
) -> int:
    """Renew sequence and acknowledgement numbers; what that adds to the segment's sum."""
    forward = _shift(octets, addresses, start, version, 0, key, turn)
    back = _shift(octets, addresses, start, version, 1, key, turn)
    delta = _put_u32(octets, start + 4, u32(octets, start + 4) + forward, start)
    if u8(octets, start + 13) & 0x10:
        delta += _put_u32(octets, start + 8, u32(octets, start + 8) + back, start)
        delta += _renew_sack(octets, start, min(end, start + ((u8(octets, start + 12) >> 4) << 2)), back)
    return delta


@njit(cache=True, nogil=True)
def _renew_sack(octets: NDArray[np.uint8], start: int, end: int, shift: int) -> int:
    delta = 0
    at = start + 20
    while at < end:
        kind = u8(octets, at)
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 1 >= end:
            break
        length = u8(octets, at + 1)
        if length < 2 or at + length > end:
            break
        if kind == _SACK:
            for edge in range(at + 2, at + length - 3, 4):
                delta += _put_u32(octets, edge, u32(octets, edge) + shift, start)
        at += length
    return delta


@njit(cache=True, nogil=True)
def _renew_icmp(
    octets: NDArray[np.uint8], start: int, end: int, version: int, key: np.uint64, turn: int, memory: FlowMemory
) -> bool:
    if start + 8 > end:
        return False
    kind = u8(octets, start)
    is_echo = kind in (0, 8) if version == 4 else kind in (128, 129)
    is_error = kind in (3, 4, 5, 11, 12) if version == 4 else kind in (1, 2, 3, 4)
    delta = 0
    if is_echo:
        delta = _put_u16(octets, start + 4, (u16(octets, start + 4) + turn * _ECHO_STEP) & 0xFFFF, start)
    elif is_error:
        delta = _renew_quoted(octets, start, start + 8, end, version, key, turn, memory)
    _settle(octets, start + 2, delta, False)
    return is_echo or is_error


@njit(cache=True, nogil=True)
def _renew_quoted(
    octets: NDArray[np.uint8],
    base: int,
    at: int,
    end: int,
    version: int,
    key: np.uint64,
    turn: int,
    memory: FlowMemory,
) -> int:
    """Renew the head of a datagram that an error quotes; what that adds to the sum of the message from `base` on."""
    header = 40
    if at + 20 > end or u8(octets, at) >> 4 != version:
        return 0
    if version == 4:
        header = (u8(octets, at) & 0x0F) << 2
        if u16(octets, at + 6) & 0x1FFF:
            return 0
    if header < 20 or at + header + 8 > end:
        return 0
    protocol = u8(octets, at + (9 if version == 4 else 6))
    addresses = at + (12 if version == 4 else 8)
    ports = at + header
    if protocol != TCP and protocol != UDP:
        return 0
    delta = 0
    if protocol == TCP:
        shift = _shift(octets, addresses, ports, version, 0, key, turn)
        delta += _put_u32(octets, ports + 4, u32(octets, ports + 4) + shift, base)
    side = ephemeral_side(u16(octets, ports), u16(octets, ports + 2))
    if side >= 0:
        delta += _renew_port(octets, ports, version, protocol, addresses, side, key, turn, memory, base)
    # Headers are of even length, so that words are the same in the quoted datagram as in the message around it.
    checksum = ports + (_TCP_CHECKSUM if protocol == TCP else 6)
    if checksum + 2 <= end:
        before = u16(octets, checksum)
        _settle(octets, checksum, delta, protocol == UDP)
        delta += u16(octets, checksum) - before
    return delta


@njit(cache=True, nogil=True)
def _put_u16(octets: NDArray[np.uint8], at: int, value: int, base: int) -> int:
    """Write 16 bits; what that adds to the sum of 16-bit words that starts at `base`."""
    delta = 0
    for k in range(2):
        new = (value >> (8 - 8 * k)) & 0xFF
        weight = 1 if (at + k - base) & 1 else 256
        delta += (new - u8(octets, at + k)) * weight
        octets[at + k] = new
    return delta


@njit(cache=True, nogil=True)
def _put_u32(octets: NDArray[np.uint8], at: int, value: int, base: int) -> int:
    """Write the low 32 bits of a value, as `_put_u16`."""
    return _put_u16(octets, at, (value >> 16) & 0xFFFF, base) + _put_u16(octets, at + 2, value & 0xFFFF, base)


@njit(cache=True, nogil=True)
def _settle(octets: NDArray[np.uint8], at: int, delta: int, is_udp: bool) -> None:
    """Update the checksum at `at` for a sum that has grown by `delta` (RFC 1624 equation 3)."""
    old = u16(octets, at)
    if is_udp and old == 0:  # none was sent
        return
    total = (0xFFFF - old + delta) % 0xFFFF
    new = 0xFFFF - total if total else 0
    if is_udp and new == 0:
        new = 0xFFFF
    octets[at] = new >> 8
    octets[at + 1] = new & 0xFF
