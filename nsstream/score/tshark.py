"""What tshark says about a capture: bad checksums, malformed packets and each kind of TCP analysis flag, counted.

Promises: the same judgement as ``tshark -2`` with checksum validation on and no user's preferences; the capture is only
read. tshark is Wireshark's; it must be installed (`is_installed`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nsstream.errors import InputError

_CHECKSUMS: Final = ("ip", "tcp", "udp", "sctp", "icmp", "icmpv6")
_ANALYSIS: Final = (
    "retransmission",
    "fast_retransmission",
    "spurious_retransmission",
    "out_of_order",
    "lost_segment",
    "ack_lost_segment",
    "duplicate_ack",
    "reused_ports",
    "window_update",
    "window_full",
    "zero_window",
    "zero_window_probe",
    "zero_window_probe_ack",
    "keep_alive",
    "keep_alive_ack",
)
_BAD: Final = "0"  # PROTO_CHECKSUM_E_BAD in epan/proto.h
_FIELDS: Final = (
    "tcp.stream",
    "_ws.malformed",
    *(f"{protocol}.checksum.status" for protocol in _CHECKSUMS),
    *(f"tcp.analysis.{kind}" for kind in _ANALYSIS),
)


@dataclass(frozen=True, slots=True)
class Analysis:
    """Counts over one capture."""

    packet_count: int
    tcp_packet_count: int
    malformed_count: int
    bad_checksum_count: dict[str, int]  # by protocol; only those that occur
    analysis_count: dict[str, int]  # by kind, as in tcp.analysis.<kind>; only those that occur

    def rate(self, kind: str) -> float:
        """Flags of this kind a TCP packet."""
        return self.analysis_count.get(kind, 0) / max(self.tcp_packet_count, 1)


def is_installed() -> bool:
    """Whether tshark is on the path."""
    return shutil.which("tshark") is not None


def analyse(path: Path) -> Analysis:
    """Count what tshark finds in an uncompressed capture; raises InputError if it cannot read it."""
    counts: Counter[str] = Counter()
    packet_count = 0
    with (
        tempfile.TemporaryDirectory() as no_preferences,
        tempfile.TemporaryFile("w+") as complaints,
    ):
        options = [f"-o{protocol}.check_checksum:TRUE" for protocol in ("ip", "tcp", "udp")]
        fields = [f"-e{field}" for field in _FIELDS]
        child = subprocess.Popen(
            ["tshark", "-n", "-2", "-r", path, *options, "-T", "fields", *fields],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env={**os.environ, "LC_ALL": "C", "WIRESHARK_CONFIG_DIR": no_preferences},
        )
        with child:
            assert child.stdout is not None
            for line in child.stdout:
                packet_count += 1
                _count(counts, line.rstrip("\n").split("\t"))
        if child.returncode:
            complaints.seek(0)
            last = complaints.read().strip().splitlines()[-1:] or ["no message"]
            raise InputError(f"{path}: tshark cannot read it (exit {child.returncode}): {last[0]}")
    return Analysis(
        packet_count=packet_count,
        tcp_packet_count=counts["tcp.stream"],
        malformed_count=counts["_ws.malformed"],
        bad_checksum_count={p: n for p in _CHECKSUMS if (n := counts[f"{p}.checksum.status"])},
        analysis_count={k: n for k in _ANALYSIS if (n := counts[f"tcp.analysis.{k}"])},
    )


def is_readable_by_capinfos(path: Path) -> bool | None:
    """Whether capinfos reads every packet of an uncompressed capture; None if it is not installed."""
    if shutil.which("capinfos") is None:
        return None
    return subprocess.run(["capinfos", "-c", path], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def _count(counts: Counter[str], values: list[str]) -> None:
    """Add one packet; a field that occurs several times in it (tunnels, ICMP errors) is a comma-separated list."""
    for field, value in zip(_FIELDS, values, strict=True):
        if field.endswith(".status"):
            counts[field] += _BAD in value.split(",")
        else:
            counts[field] += value != ""
