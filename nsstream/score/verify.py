"""Verification: is every frame of a twin complete and lawful, and does its TCP behave as the real trace's does?

Two judges. Our own check (`lawful`) always runs: lengths, headers and checksums of every frame, and strictly rising
times. tshark, where it is installed, is asked the same and more: malformed packets at any layer, and its analysis of
TCP.

A twin passes when no frame has a fault or a bad checksum or is malformed, times rise strictly, and tshark's analysis
flags stay within what the real trace shows: no kind that the real trace does not have, and of each kind no more a TCP
packet than 1.25 times the real rate plus 0.1 %. By itself (`verify_alone`) it is held to all but those rates, and
nothing of the real trace is looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from nsstream.score.frames import frame_blocks
from nsstream.score.lawful import Fault, faults
from nsstream.score.plain import plain_file
from nsstream.score.tshark import Analysis, analyse, is_installed, is_readable_by_capinfos

RATE_FACTOR: Final = 1.25
RATE_MARGIN: Final = 0.001
_ETHERNET: Final = 1


@dataclass(frozen=True, slots=True)
class Verification:
    """What both judges found; the fields of tshark and capinfos are None where the tool is not installed.

    `real` is None, too, where the twin was verified by itself.
    """

    packet_count: int
    fault_count: dict[str, int]  # by `Fault`, in lower case; only those that occur
    not_rising_count: int  # packets that are not later than the one before
    is_readable_by_capinfos: bool | None
    twin: Analysis | None
    real: Analysis | None

    @property
    def passed(self) -> bool:
        """Whether nothing is to be complained of."""
        return not self.complaints()

    def complaints(self) -> tuple[str, ...]:
        """Why the twin does not pass, a phrase each; empty if it does."""
        out = [f"{n} frames with fault {fault}" for fault, n in self.fault_count.items()]
        if self.not_rising_count:
            out.append(f"{self.not_rising_count} packets not later than the one before")
        if self.is_readable_by_capinfos is False:
            out.append("capinfos cannot read it")
        if self.twin is not None:
            out += [f"tshark: {n} bad {protocol} checksums" for protocol, n in self.twin.bad_checksum_count.items()]
            if self.twin.malformed_count:
                out.append(f"tshark: {self.twin.malformed_count} malformed packets")
            out += [f"tshark: {_rates(kind, self)}" for kind in self.twin.analysis_count if not self.is_within(kind)]
        return tuple(out)

    def is_within(self, kind: str) -> bool:
        """Whether the twin has no more of this kind of tcp.analysis flag than the real trace allows."""
        if self.twin is None or self.real is None or not self.twin.analysis_count.get(kind):
            return True
        has_kind = bool(self.real.analysis_count.get(kind))
        return has_kind and self.twin.rate(kind) <= RATE_FACTOR * self.real.rate(kind) + RATE_MARGIN

    def as_dict(self) -> dict[str, object]:
        """A plain mapping for JSON."""
        return {
            "passed": self.passed,
            "complaints": list(self.complaints()),
            "packets": self.packet_count,
            "faults": dict(self.fault_count),
            "not_rising": self.not_rising_count,
            "readable_by_capinfos": self.is_readable_by_capinfos,
            "tshark": {"twin": _analysis_dict(self.twin), "real": _analysis_dict(self.real)},
        }


def verify_trace(real: Path, twin: Path) -> Verification:
    """Verify every frame of a twin of Ethernet frames (pcap or pcapng, compressed or not) beside its real trace.

    Raises InputError if either cannot be read.
    """
    alone = verify_alone(twin)
    with plain_file(real) as plain_real:
        return replace(alone, real=analyse(plain_real) if is_installed() else None)


def verify_alone(twin: Path) -> Verification:
    """Verify every frame of a twin as `verify_trace`, with no real trace beside it; raises InputError."""
    packet_count, not_rising_count = 0, 0
    fault_count: Counter[str] = Counter()
    last_ns = -1
    with plain_file(twin) as plain_twin:
        for block in frame_blocks(plain_twin):
            index, count = block.index, block.count
            times = np.concatenate([[last_ns], index.time_ns[:count]])
            not_rising_count += int((np.diff(times) <= 0).sum())
            last_ns = int(times[-1])
            found = faults(block.octets, index.start[:count], index.captured_length[:count])
            found[index.captured_length[:count] < index.original_length[:count]] = Fault.CUT
            found[index.link_type[:count] != _ETHERNET] = Fault.NOT_IP
            for fault, n in zip(*np.unique(found[found != Fault.NONE], return_counts=True), strict=True):
                fault_count[Fault(fault).name.lower()] += int(n)
            packet_count += count
        is_readable = is_readable_by_capinfos(plain_twin)
        analysis = analyse(plain_twin) if is_installed() else None
    return Verification(packet_count, dict(fault_count), not_rising_count, is_readable, analysis, None)


def _rates(kind: str, verification: Verification) -> str:
    twin, real = verification.twin, verification.real
    assert twin is not None
    assert real is not None
    return f"{kind} {twin.rate(kind):.2%} of TCP packets, {real.rate(kind):.2%} in the real trace"


def _analysis_dict(analysis: Analysis | None) -> dict[str, object] | None:
    if analysis is None:
        return None
    return {
        "packets": analysis.packet_count,
        "tcp_packets": analysis.tcp_packet_count,
        "malformed": analysis.malformed_count,
        "bad_checksums": dict(analysis.bad_checksum_count),
        "analysis": {kind: {"packets": n, "rate": analysis.rate(kind)} for kind, n in analysis.analysis_count.items()},
    }
