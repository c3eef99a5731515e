"""From a real capture, its twin and maybe held-out traffic to all findings.

What a twin repeats is set beside what real traffic repeats of the same reference: held-out traffic beside the whole
capture, or, where there is none, one half of the capture beside the other (conversations whole). The same traces and
seed give the same findings. Large traces are sampled, and the findings say how many flows were looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsstream.score.compare import read_packets
from nsstream.score.observed import Observed, halves, observe
from nsstream.score.privacy import words
from nsstream.score.privacy.copies import MOST_FLOWS, copies, shapes
from nsstream.score.privacy.findings import UNSEEN, Finding, Privacy
from nsstream.score.privacy.hosts import leakage, reidentify
from nsstream.score.privacy.membership import MOST_GUESSED, MOST_KNOWN, membership
from nsstream.score.privacy.timing import MOST_RHYTHMS, recurring, rhythms
from nsstream.trace import PacketBatch

Mapping = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class _Reference:
    """What is looked for copies in, and the real traffic that is looked for beside the twin."""

    sought: Observed
    beside: Observed
    name: str


def attack_traces(
    real: Path, twin: Path, held_out: Path | None = None, mapping: Mapping | None = None, seed: int = 0
) -> Privacy:
    """Attack a twin with its real capture, other traffic of the same network and the address map, as far as given.

    `mapping` takes real addresses (h, 16) to the twin's. Raises InputError if a trace cannot be read or has no IP
    packet.
    """
    others = None if held_out is None else read_packets(held_out)
    return attack_packets(read_packets(real), read_packets(twin), others, mapping, np.random.default_rng(seed))


def attack_packets(
    real: PacketBatch,
    twin: PacketBatch,
    held_out: PacketBatch | None,
    mapping: Mapping | None,
    rng: np.random.Generator,
) -> Privacy:
    """Attack packets with packets; raises ValueError where the real trace or the twin has no packet."""
    a, b = observe(real), observe(twin)
    other = None if held_out is None else observe(held_out)
    reference = _reference(a, other, rng)
    leaked = leakage(real, twin)
    if mapping is None and leaked.addresses.count:
        mapping = np.copy  # the twin kept addresses
    findings = (
        _copies(a, b, reference, rng),
        words.about_membership(None if other is None else membership(a, b, other, rng), has_held_out=other is not None),
        words.about_addresses(leaked),
        words.about_hosts(None if mapping is None else reidentify(a, b, mapping), is_known=mapping is not None),
        _timing(a, b, reference, rng),
    )
    return Privacy(findings, _looked_at(a, b, other), UNSEEN)


def _reference(real: Observed, held_out: Observed | None, rng: np.random.Generator) -> _Reference | None:
    """None where there is no held-out traffic and the capture cannot be halved."""
    if held_out is not None:
        return _Reference(real, held_out, "held-out traffic")
    try:
        one, other = halves(real, rng)
    except ValueError:
        return None
    return _Reference(one, other, "the other half of the capture")


def _copies(real: Observed, twin: Observed, reference: _Reference | None, rng: np.random.Generator) -> Finding:
    given = shapes(twin)
    in_all = copies(shapes(real), given, rng)
    count = len(twin.flow_identity)
    short = count - len(given.identity), count
    if reference is None:
        return words.about_copies(in_all, None, in_all, short, "")
    sought = shapes(reference.sought)
    base = copies(sought, shapes(reference.beside), rng)
    found = in_all if reference.sought is real else copies(sought, given, rng)
    return words.about_copies(found, base, in_all, short, reference.name)


def _timing(real: Observed, twin: Observed, reference: _Reference | None, rng: np.random.Generator) -> Finding:
    if reference is None:
        return words.about_timing(recurring(rhythms(real, rng), rhythms(twin, rng)), None, "")
    sought = rhythms(reference.sought, rng)
    found, base = (recurring(sought, rhythms(trace, rng)) for trace in (twin, reference.beside))
    return words.about_timing(found, base, reference.name)


def _looked_at(real: Observed, twin: Observed, held_out: Observed | None) -> str:
    counts = [("the capture", real), ("the twin", twin), ("the held-out traffic", held_out)]
    told = ", ".join(f"{len(trace.flow_identity):,} flows of {name}" for name, trace in counts if trace is not None)
    return (
        f"{told}; exact copies and addresses in all of them, near copies in {MOST_FLOWS:,} of each at most, membership "
        f"of {MOST_GUESSED:,} by {MOST_KNOWN:,} at most, {MOST_RHYTHMS:,} rhythms at most, chosen at random"
    )
