"""A made capture of whole flows: connections that open and close, and UDP exchanges, over IPv4 and IPv6, interleaved.

Sizes have a heavy tail, from one packet to some thousand; gaps are from a tenth of a millisecond to half a minute, so
that flows end by FIN, by any usual timeout, and at the end. A classic pcap of microseconds, 80 octets of each frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.fields import ACK, FIN, SYN, TCP, UDP

PACKETS_A_SECOND = 8_000
START_S = 1_700_000_040
CAPTURED = 80
SERVER_PORTS = (22, 80, 443, 8080)
_AT_ONCE = 100_000
_ETHERNET = 14
_V4, _V6 = _ETHERNET + 20, _ETHERNET + 40  # where the transport header begins


def write_flow_capture(path: Path, packets: int, *, seed: int = 0) -> None:
    """Write so many packets, in time order; the same seed gives the same file."""
    rng = np.random.default_rng(seed)
    sizes = np.minimum(1 + rng.pareto(1.2, packets // 4 + 100) * 4, 5000).astype(np.int64)
    first = np.cumsum(sizes) - sizes  # row of each flow's first packet
    sizes = sizes[first < packets]
    flow = np.repeat(np.arange(len(sizes)), sizes)[:packets]
    position = np.arange(packets) - first[flow]
    left = sizes[flow] - 1 - position

    gap_us = (10 ** rng.uniform(2, 7.5, len(sizes)) / np.sqrt(sizes)).astype(np.int64)
    time_us = rng.integers(0, packets * 10**6 // PACKETS_A_SECOND, len(sizes))[flow] + position * gap_us[flow]
    is_back = rng.random(packets) < 0.5
    is_back[(position == 0) | (left == 1)] = False
    is_back[(position == 1) | (left == 0) & (position > 0)] = True
    control_bits = np.where(position < 2, SYN, np.where(left < 2, FIN, 0)) | np.where(position > 0, ACK, 0)

    is_6, is_tcp = rng.random(len(sizes)) < 0.2, rng.random(len(sizes)) < 0.7
    frames = _frames(rng, is_6, is_tcp)  # (2, flows, CAPTURED): forth and back
    order = np.argsort(time_us, kind="stable")
    with path.open("wb") as file:
        file.write(np.array([0xA1B2C3D4, 2 | 4 << 16, 0, 0, CAPTURED, 1], "<u4").tobytes())
        for start in range(0, packets, _AT_ONCE):
            rows = order[start : start + _AT_ONCE]
            of = flow[rows]
            records = np.empty((len(rows), 16 + CAPTURED), np.uint8)
            records[:, 16:] = frames[is_back[rows].astype(np.int64), of]
            lengths = rng.integers(80, 1500, len(rows))  # of the IP packet
            _fill(records[:, 16:], lengths, control_bits[rows], is_6[of], is_tcp[of])
            header = np.empty((len(rows), 4), "<u4")
            header[:, 0], header[:, 1] = START_S + time_us[rows] // 10**6, time_us[rows] % 10**6
            header[:, 2], header[:, 3] = CAPTURED, _ETHERNET + lengths
            records[:, :16] = header.view(np.uint8)
            file.write(records.tobytes())


def _frames(rng: np.random.Generator, is_6: NDArray[np.bool_], is_tcp: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A frame of each flow and direction; lengths and control bits are to be filled in."""
    n = len(is_6)
    frames = np.zeros((2, n, CAPTURED), np.uint8)
    frames[:, :, [5, 11]] = 1
    frames[:, :, [0, 6]] = 2
    frames[:, :, 12:14] = np.where(is_6[:, None], [0x86, 0xDD], [8, 0])
    protocol = np.where(is_tcp, TCP, UDP)
    hosts = rng.integers(0, 256, (2, n, 3), np.uint8)
    ports = np.stack([1024 + rng.integers(0, 60_000, n), rng.choice(SERVER_PORTS, n)])
    for direction in (0, 1):
        frame = frames[direction]
        ends = hosts[[direction, 1 - direction]].transpose(1, 0, 2)  # (n, 2, 3)
        wires = np.hstack([_wire(ports[direction]), _wire(ports[1 - direction])])
        for is_it, at in ((~is_6, _V4), (is_6, _V6)):
            frame[is_it, at : at + 4] = wires[is_it]
            frame[np.ix_(is_it & is_tcp, [at + 12])] = 0x50
        frame[np.ix_(~is_6, [14])], frame[np.ix_(~is_6, [22])] = 0x45, 64
        frame[~is_6, 23] = protocol[~is_6]
        frame[np.ix_(is_6, [14])], frame[np.ix_(is_6, [21])] = 0x60, 64
        frame[is_6, 20] = protocol[is_6]
        for end, (at_4, at_6) in enumerate(((26, 22), (30, 38))):
            frame[np.ix_(~is_6, [at_4])] = 10
            frame[~is_6, at_4 + 1 : at_4 + 4] = ends[~is_6, end]
            frame[is_6, at_6 : at_6 + 4] = [0x20, 0x01, 0x0D, 0xB8]
            frame[is_6, at_6 + 13 : at_6 + 16] = ends[is_6, end]
    return frames


def _fill(
    frames: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    control_bits: NDArray[np.int64],
    is_6: NDArray[np.bool_],
    is_tcp: NDArray[np.bool_],
) -> None:
    for is_it, at, length_at, header in ((~is_6, _V4, 16, 0), (is_6, _V6, 18, 40)):
        frames[is_it, length_at : length_at + 2] = _wire(lengths[is_it] - header)
        is_datagram = is_it & ~is_tcp
        frames[is_datagram, at + 4 : at + 6] = _wire(lengths[is_datagram] - (at - _ETHERNET))
        frames[is_it & is_tcp, at + 13] = control_bits[is_it & is_tcp]


def _wire(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    return values.astype(">u2").view(np.uint8).reshape(-1, 2)
