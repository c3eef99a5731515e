"""Judge a twin by the real tools: tshark, capinfos, and tcpreplay over a veth pair. Exit status 1 when a bar is missed.

    python bench/lawful.py [TWIN [REAL]] [--no-send] [--mtu 1500] [--json OUT]

TWIN is the demo's (out/twin.pcap) unless given, and REAL the capture that the demo takes. Sending needs root: it makes
two network namespaces and removes them; --no-send leaves that part out.

tshark's flags of TCP analysis are counted in both captures. The bar of each kind is the real capture's rate a TCP
packet, with the margin that `nsstream.score.verify` allows (1.25 times, and 0.1 % of TCP packets); a kind that the real
capture lacks is allowed none. Kinds above the bare real rate are named all the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bars.runs import run_main
from bars.traces import count_frames, lab_capture
from bars.verdict import Bar, as_dict, equal, finish, has_passed, show
from bars.veth import veth_pair

from nsstream.errors import InputError
from nsstream.score import Verification, verify_trace
from nsstream.score.plain import plain_file
from nsstream.score.verify import RATE_FACTOR, RATE_MARGIN

DEMO_TWIN = Path("out/twin.pcap")


def verification_bars(found: Verification) -> list[Bar]:
    """What our own check, tshark and capinfos say; tshark must be installed."""
    if found.twin is None or found.real is None:
        raise InputError("tshark is not installed: apt-get install tshark")
    twin, real = found.twin, found.real
    above = [kind for kind in twin.analysis_count if twin.rate(kind) > real.rate(kind)]
    return [
        Bar("packets", found.packet_count, beside=real.packet_count),
        equal("frames with a fault, by our own check", sum(found.fault_count.values()), 0),
        equal("packets not later than the one before", found.not_rising_count, 0),
        equal("capinfos reads it", _yes(found.is_readable_by_capinfos), "yes"),
        equal("tshark: packets read", twin.packet_count, found.packet_count, real.packet_count),
        equal("tshark: bad checksums", *_bad(twin.bad_checksum_count), _bad(real.bad_checksum_count)[0]),
        equal("tshark: malformed packets", twin.malformed_count, 0, real.malformed_count),
        *(_analysis_bar(found, kind) for kind in sorted(twin.analysis_count | real.analysis_count)),
        Bar("kinds above the bare real rate", ", ".join(above) or "none"),
    ]


def sending_bars(twin: Path, mtu: int) -> list[Bar]:
    """Send the twin over a veth pair as fast as it goes; every packet and octet must arrive."""
    frames, octets = count_frames(twin)
    with plain_file(twin) as plain, veth_pair(mtu) as pair:
        sent = pair.send(plain, "--topspeed")
    return [
        equal("tcpreplay: packets attempted", sent.attempted_count, frames),
        equal("tcpreplay: Failed packets", sent.failed_count, 0),
        equal("packets received at the other end", sent.received_count, frames),
        equal("octets received at the other end", sent.received_bytes, octets),
    ]


def _analysis_bar(found: Verification, kind: str) -> Bar:
    assert found.twin is not None
    assert found.real is not None
    ours, theirs = (f"{a.analysis_count.get(kind, 0):,} ({a.rate(kind):.3%})" for a in (found.twin, found.real))
    has_kind = bool(found.real.analysis_count.get(kind))
    wanted = f"<= {RATE_FACTOR * found.real.rate(kind) + RATE_MARGIN:.3%}" if has_kind else "0"
    return Bar(f"tcp.analysis.{kind}", ours, wanted, found.is_within(kind), theirs)


def _bad(counts: dict[str, int]) -> tuple[str, str]:
    return ", ".join(f"{n:,} {protocol}" for protocol, n in counts.items()) or "0", "0"


def _yes(is_so: bool | None) -> str | None:
    return None if is_so is None else "yes" if is_so else "no"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("twin", type=Path, nargs="?", default=DEMO_TWIN)
    parser.add_argument("real", type=Path, nargs="?", help="the capture that the twin was made of")
    parser.add_argument("--no-send", action="store_true", help="leave tcpreplay out")
    parser.add_argument("--mtu", type=int, default=1500, help="of the veth pair")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    if not given.twin.is_file():
        raise InputError(f"there is no twin {given.twin}; `nsstream demo` makes the demo's")
    with ExitStack() as stack:
        found = verify_trace(given.real or stack.enter_context(lab_capture()), given.twin)
    bars = verification_bars(found)
    if not given.no_send:
        bars += sending_bars(given.twin, given.mtu)
    show(f"{given.twin}", bars, beside="real capture")
    figures = as_dict(bars) | {"twin": str(given.twin), "verification": found.as_dict()}
    return finish(figures, given.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
