"""Capture 1 million packets from a veth pair at tcpreplay's top speed, beside tcpdump and dumpcap in the same run.

    python bench/live.py [--packets N] [--rounds N] [--json OUT]

Each round sends the bundled lab capture, again and again, with whole frames, three times: to `LiveSource` (columns,
nothing written), to ``tcpdump -w`` and to ``dumpcap -w`` at their defaults, one after the other. What is sent is what
the far end of the pair counts; the sender is slowed where the capturer takes its processor, so that the rate is told
with each. Processor time is the capturer's own: of the whole process for the tools, for `LiveSource` from `open` to the
last packet (without the start of Python). Bars hold for the worst round; the tools are shown at their best. Exit status
1 when a bar is missed. Needs root, iproute2, tcpreplay, tcpdump and dumpcap.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bars.runs import run_main
from bars.traces import lab_capture
from bars.verdict import Bar, as_dict, at_most, equal, finish, has_passed, show
from bars.veth import Sent, VethPair, veth_pair

from nsstream.capture.live import LiveSource
from nsstream.errors import InputError
from nsstream.wire.pcap import HEADER_BYTES, RECORD_HEADER_BYTES, pcap_header

CPU_S_PER_MILLION = 0.3
QUIET_S = 0.5  # a tool's file has not grown for so long: it has written all that it got
START_S = 60.0  # numba may have to compile


@dataclass(frozen=True, slots=True)
class Capture:
    """What one capturer got of what was sent."""

    sent_count: int
    captured_count: int
    cpu_s: float
    sent_per_s: float
    counts: dict[str, object]

    @property
    def lost_count(self) -> int:
        return self.sent_count - self.captured_count

    @property
    def cpu_s_per_million(self) -> float | None:
        return 1e6 * self.cpu_s / self.captured_count if self.captured_count else None


Capturer = Callable[[VethPair, Path, int], Capture]


def write_capture(path: Path) -> int:
    """The lab capture's frames, whole: what its snaplen cut off is zeros. Gives how many they are."""
    with lab_capture() as packed:
        octets = lzma.decompress(packed.read_bytes())
    order = "<" if octets[:4] in (b"\x4d\x3c\xb2\xa1", b"\xd4\xc3\xb2\xa1") else ">"
    count, at = 0, HEADER_BYTES
    with path.open("wb") as file:
        file.write(pcap_header())
        while at < len(octets):
            _, _, captured, length = struct.unpack_from(order + "IIII", octets, at)
            at += RECORD_HEADER_BYTES
            file.write(struct.pack("<IIII", 1_700_000_000, count, length, length))
            file.write(octets[at : at + captured].ljust(length, b"\0"))
            at += captured
            count += 1
    return count


def by_live_source(pair: VethPair, capture: Path, loops: int) -> Capture:
    command = [sys.executable, __file__, "--capture", "rx"]
    child = _start(pair, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    _wait_for(child, child.stdout.fileno(), "ready")
    sent = _send(pair, capture, loops)
    child.stdin.close()
    told = json.loads(child.stdout.read())
    child.wait()
    return Capture(sent.received_count, told["read"], told["cpu_s"], _rate(sent), told)


def by_tcpdump(pair: VethPair, capture: Path, loops: int) -> Capture:
    output = capture.with_name("tcpdump.pcap")
    command = ["tcpdump", "-i", "rx", "-Z", "root", "-w", str(output)]
    return _by_tool(pair, capture, loops, command, output, "listening on", r"(\d+) packets? captured")


def by_dumpcap(pair: VethPair, capture: Path, loops: int) -> Capture:
    output = capture.with_name("dumpcap.pcapng")
    return _by_tool(
        pair, capture, loops, ["dumpcap", "-q", "-i", "rx", "-w", str(output)], output, "File:", r"captured: (\d+)"
    )


CAPTURERS: dict[str, Capturer] = {"nsstream": by_live_source, "tcpdump": by_tcpdump, "dumpcap": by_dumpcap}


def _by_tool(
    pair: VethPair, capture: Path, loops: int, command: list[str], output: Path, started: str, captured: str
) -> Capture:
    output.touch(mode=0o666)
    child = _start(pair, command, stderr=subprocess.PIPE)
    assert child.stderr is not None
    _wait_for(child, child.stderr.fileno(), started)
    sent = _send(pair, capture, loops)
    size, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < QUIET_S:
        if (now := output.stat().st_size) != size:
            size, since_s = now, time.monotonic()
        time.sleep(0.05)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child.send_signal(signal.SIGINT)
    report = child.stderr.read()
    child.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    output.unlink()
    found = re.search(captured, report)
    if found is None:
        raise InputError(f"{command[0]} does not say what it captured: {report.strip()!r}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Capture(sent.received_count, int(found[1]), cpu_s, _rate(sent), {"report": report})


def _start(pair: VethPair, command: list[str], **streams: int) -> subprocess.Popen[str]:
    if shutil.which(command[0]) is None:
        raise InputError(f"{command[0]} is not installed")
    # `ip netns exec` becomes the command: signals and processor times are its own.
    return subprocess.Popen(["ip", "netns", "exec", pair.receiver, *command], text=True, **streams)


def _wait_for(child: subprocess.Popen[str], descriptor: int, word: str) -> None:
    """Read a stream of a child until it says a word."""
    said = b""
    deadline_s = time.monotonic() + START_S
    while word.encode() not in said:
        if not select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            child.kill()
            raise InputError(f"{child.args!r} does not start: {said.decode(errors='replace').strip()!r}")
        octets = os.read(descriptor, 4096)
        if not octets:
            raise InputError(f"{child.args!r} ended: {said.decode(errors='replace').strip()!r}")
        said += octets


def _send(pair: VethPair, capture: Path, loops: int) -> Sent:
    return pair.send(capture, "--topspeed", "--preload-pcap", f"--loop={loops}")


def _rate(sent: Sent) -> float:
    return sent.successful_count / max(sent.sending_s, 1e-9)


def capture_until_told(interface: str) -> None:
    """The child: capture from now to the end of standard input, then tell what came."""
    source = LiveSource(interface)
    source.open()
    before_s = time.process_time()
    print("ready", flush=True)
    while not select.select([0], [], [], 0)[0]:
        source.read_batch()
    source.stop()
    while source.read_batch() is not None:
        pass
    cpu_s = time.process_time() - before_s
    source.close()
    source.tally.check()
    kernel = source.kernel_packet_count
    print(json.dumps({"read": source.tally.read, "cpu_s": cpu_s, "kernel": kernel, "tally": source.tally.as_dict()}))


def bars_of(rounds: list[dict[str, Capture]]) -> list[Bar]:
    ours = [one["nsstream"] for one in rounds]
    bars = [
        equal("packets lost, worst round", max(c.lost_count for c in ours), 0),
        equal("offered is the kernel's own count", _yes(all(_is_kernels_count(c) for c in ours)), "yes"),
        at_most("CPU seconds a million, worst round", max(c.cpu_s_per_million or 9 for c in ours), CPU_S_PER_MILLION),
        Bar("packets sent a second, slowest round", min(c.sent_per_s for c in ours)),
    ]
    our_cpu_s = float(np.median([c.cpu_s_per_million or 9 for c in ours]))
    for name in CAPTURERS:
        if name == "nsstream":
            continue
        best = min((one[name] for one in rounds), key=lambda c: c.lost_count)
        cpu_s = best.cpu_s_per_million
        bars += [
            Bar(f"{name}: packets lost, best round", f"{best.lost_count:,} ({best.lost_count / best.sent_count:.1%})"),
            Bar(f"{name}: CPU seconds a million captured", cpu_s, beside=f"{(cpu_s or 0) / our_cpu_s:.1f} x ours"),
            Bar(f"{name}: packets sent a second", best.sent_per_s),
        ]
    return bars


def _is_kernels_count(capture: Capture) -> bool:
    tally = capture.counts["tally"]
    assert isinstance(tally, dict)
    return bool(tally["offered"] == capture.counts["kernel"])


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=1_000_000, help="at least so many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--capture", metavar="INTERFACE", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.capture:
        capture_until_told(given.capture)
        return 0
    rounds: list[dict[str, Capture]] = []
    with tempfile.TemporaryDirectory() as directory, veth_pair() as pair:
        Path(directory).chmod(0o755)
        capture = Path(directory, "sent.pcap")
        frames = write_capture(capture)
        loops = -(-given.packets // frames)
        for _ in range(given.rounds):
            rounds.append({name: capturer(pair, capture, loops) for name, capturer in CAPTURERS.items()})
    bars = bars_of(rounds)
    show(f"{loops * frames:,} packets over a veth pair", bars, beside="ratio")
    figures = as_dict(bars) | {"rounds": [{name: asdict(c) for name, c in one.items()} for one in rounds]}
    return finish(figures, given.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
