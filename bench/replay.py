"""Measure replay: how it sends, tcpreplay in the same run; and all other bars, by the benchmarks that they have.

    python bench/replay.py [timing] [throughput] [stop] [--seconds S] [--passes N] [--rounds N] [--trace PCAP]
    python bench/replay.py assemble draw lawful exports control      # each as it stands, with its peers
    python bench/replay.py fuzz soak                                 # a million messages; four hours
    python bench/replay.py all

Timing, throughput and stop, which are run unless others are named, are over veth pairs in namespaces made for it;
nothing leaves the machine. They need root, iproute2 and tcpreplay. Who else uses the processors shows: run it with
``nice -n -5``, alone. Exit status 1 when a bar is missed.

timing: a trace of 60 s (the lab capture's minutes laid over each other, or --trace) at its own pace, received by a raw
socket with the kernel's stamps. Our offsets count from the instants that were asked for, tcpreplay's from its first
receipt or so that their median is 0, whichever suits it better. tcpreplay runs with the trace's times, and with --pps
at the trace's mean rate, whose instants are evenly spaced. Then both with SCHED_FIFO, which on a machine that others
use makes the difference. Those that are compared take turns for --passes rounds, of which the medians count.

throughput: a million packets from one file, in rounds that alternate the order. Both counted at the other end.

stop: how long after it was told to stop the last frame of a run comes; bar 100 ms.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bars.replay_parts import PARTS, measure_part
from bars.replay_stop import measure_stop
from bars.replay_throughput import measure_throughput
from bars.replay_timing import measure_timing
from bars.runs import run_main
from bars.verdict import Bar, as_dict, finish, has_passed, show

Measured = tuple[list[Bar], dict[str, object]]

MEASURES: dict[str, tuple[str, str, Callable[[Path, argparse.Namespace], Measured]]] = {
    "timing": (
        "A trace at its own pace over a veth pair",
        "tcpreplay",
        lambda directory, given: measure_timing(directory, given.seconds, given.trace, given.passes),
    ),
    "throughput": (
        "As fast as it goes over a veth pair, a million packets from the same file",
        "",
        lambda directory, given: measure_throughput(directory, given.rounds, given.trace),
    ),
    "stop": (
        "The last frame after a stop",
        "",
        lambda directory, given: measure_stop(directory, given.rounds),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*MEASURES, *PARTS, "all")
    parser.add_argument(
        "what", nargs="*", metavar="WHAT", help=f"of {', '.join(names)}; {', '.join(MEASURES)} unless told"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the trace that is made")
    parser.add_argument("--trace", type=Path, help="an Ethernet pcap, not compressed, instead of the made trace")
    parser.add_argument("--passes", type=int, default=3, help="of the trace, by ours and by --pps in turn")
    parser.add_argument("--rounds", type=int, default=5, help="of the throughput and of the stops")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    if unknown := set(given.what) - set(names):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    wanted = [*MEASURES, *PARTS] if "all" in given.what else given.what or [*MEASURES]
    figures: dict[str, object] = {}
    everything: list[Bar] = []
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        for name in [name for name in wanted if name in MEASURES]:
            title, beside, measure = MEASURES[name]
            bars, told = measure(Path(directory), given)
            show(title, bars, beside=beside)
            everything += bars
            figures[name] = as_dict(bars) | {"figures": told}
    others = [bar for name in wanted if name in PARTS for bar in measure_part(name)]
    if others:
        show("Bars that other benchmarks measured", others)
        everything += others
        figures["others"] = as_dict(others)
    return finish(figures, given.json, passed=has_passed(everything))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
