"""Frames to replay: the lab capture's six minutes laid over each other, or any capture, as frames and as a pcap."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np

from bars.traces import lab_capture
from nsstream.assemble.frames import Frames
from nsstream.errors import InputError
from nsstream.wire.link import ETHERNET
from nsstream.wire.pcap import HEADER_BYTES, PcapHeader, pcap_header, scan_records, write_records
from nsstream.wire.records import RecordIndex

ETHERNET_BYTES = 14


def lab_frames(seconds: float) -> Frames:
    """The bundled capture, its minutes at the same time: bursts as they are, six times as dense (640 packets a second).

    Frames are whole (what the capture's snaplen cut off is zeros) and at most 1514 octets.
    """
    with lab_capture() as packed:
        frames = _parse(np.frombuffer(lzma.decompress(packed.read_bytes()), np.uint8), "lab capture")
    times = frames.observation_time_ns
    folded = (times - times[0]) % round(seconds * 1e9)
    order = np.argsort(folded, kind="stable")
    rank = np.arange(len(order))
    risen = np.maximum.accumulate(folded[order] - rank) + rank
    octets = [frames.frame(i)[:1514] for i in order]
    return _frames(risen - risen[0] + 1_700_000_000 * 10**9, octets)


def read_frames(path: Path) -> Frames:
    """The frames of a pcap of Ethernet that is not compressed."""
    return _parse(np.fromfile(path, np.uint8), str(path))


def mtu_for(frames: Frames) -> int:
    """An MTU that lets all of them pass, 1500 at least."""
    return max(1500, int(np.diff(frames.offset).max()) - ETHERNET_BYTES)


def write_frames(path: Path, frames: Frames) -> None:
    path.write_bytes(pcap_header() + write_records(frames.observation_time_ns, frames.offset, frames.octets))


def _parse(octets: np.ndarray, name: str) -> Frames:
    header = PcapHeader.parse(octets[:HEADER_BYTES].tobytes())
    index = RecordIndex.with_room_for(len(octets) // 16)
    count, _, _ = scan_records(octets, HEADER_BYTES, len(octets), header, index)
    if header.link_type != ETHERNET or count == 0:
        raise InputError(f"{name}: holds no Ethernet frames")
    whole = octets.tobytes()
    starts, captured, original = (
        a[:count].tolist() for a in (index.start, index.captured_length, index.original_length)
    )
    frames = [whole[s : s + c].ljust(o, b"\0") for s, c, o in zip(starts, captured, original, strict=True)]
    times = index.time_ns[:count]
    rank = np.arange(count)
    return _frames(np.maximum.accumulate(times - rank) + rank, frames)


def _frames(times_ns: np.ndarray, octets: list[bytes]) -> Frames:
    offset = np.concatenate([[0], np.cumsum([len(f) for f in octets])]).astype(np.int64)
    return Frames(times_ns, offset, np.frombuffer(b"".join(octets), np.uint8))
