"""What whoever writes a source or a sink tests it with: the rules as checks, and frames to try it on.

    from nsstream.testing import SourceCase, check_source

    def test_my_source(tmp_path):
        check_source(SourceCase(make=lambda directory: MySource(...), expected={"ip_ttl": ...}), tmp_path)

A broken rule raises AssertionError, which says what was expected and what came; no test framework is needed. What is
here stays as it is from one release to the next. `docs/plugins.md` shows it at work; what is installed into a tool is
checked by `nsstream_plugins.testing`.
"""

from __future__ import annotations

import struct

import numpy as np

from nsstream.assemble.frames import Frames
from nsstream.capture.contract import RULES as SOURCE_RULES
from nsstream.capture.contract import SourceCase, StreamOutcome, check_any_split, check_refusal, check_source
from nsstream.replay.contract import RULES as SINK_RULES
from nsstream.replay.contract import SinkCase, check_sink_case
from nsstream.wire.checksum import internet_checksum

__all__ = [
    "SINK_RULES",
    "SOURCE_RULES",
    "SinkCase",
    "SourceCase",
    "StreamOutcome",
    "check_any_split",
    "check_refusal",
    "check_sink_case",
    "check_source",
    "udp_frames",
]


def udp_frames(count: int = 40, payload: int = 26, gap_ns: int = 1_000_000) -> Frames:
    """Datagrams from 192.0.2.1 to 198.51.100.2 port 53 in Ethernet, the n-th from port 1024 + n, `gap_ns` apart."""
    octets = b"".join(_udp_frame(1024 + n, payload) for n in range(count))
    offset = np.arange(count + 1, dtype=np.int64) * (42 + payload)
    times = 1_700_000_000_000_000_000 + np.arange(count, dtype=np.int64) * gap_ns
    return Frames(times, offset, np.frombuffer(octets, np.uint8).copy())


def _udp_frame(port: int, payload: int) -> bytes:
    addresses = bytes([192, 0, 2, 1, 198, 51, 100, 2])
    network = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 28 + payload, 0, 0, 64, 17, 0) + addresses)
    checksum = internet_checksum(np.frombuffer(bytes(network), np.uint8), 0, 20, 0)
    network[10:12] = int(checksum).to_bytes(2, "big")
    transport = struct.pack(">HHHH", port, 53, 8 + payload, 0)  # 0: no checksum, RFC 768
    return bytes.fromhex("020000000002020000000001" + "0800") + bytes(network) + transport + bytes(payload)
