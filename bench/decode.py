"""Measure how fast capture files become columns, and in how much memory, beside tcpdump, dpkt and scapy.

    python bench/decode.py [--directory DIR] [--gib N] [--rounds N] [--json OUT]

Makes its own input of the bundled lab capture, again and again, and removes it: `snap` has 96 octets of each frame at
most, `full` has whole frames (their payload, which the lab capture has not, is zeros) and is at least `--gib` large.
Both are read once before anything is timed, so that all find them in the page cache. Readers take turns; the figure is
the best of the rounds. dpkt and scapy, which take long, read a shorter file of the same frames.

Rates and ratios are of CPU time, of one thread, system calls included: on a shared machine the wall clock, which stands
beside it, tells of the neighbours. Ours is the time in `read_batch`, without the start of Python and of what numba has
compiled before; tcpdump's is that of its whole process (its start takes 5 ms). Peak memory is that of a process of its
own that reads the `full` file.
"""

from __future__ import annotations

import argparse
import lzma
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import dpkt
from bars.verdict import Bar, as_dict, at_most, finish, has_passed, show

from nsstream.capture import PcapFileSource

SNAPLEN = 96
SHORT_PACKETS = 100_000
SCAPY_PACKETS = 5_000
SNAP_PPS, FULL_PPS = 20e6, 6e6
TCPDUMP_RATIO, DPKT_RATIO, SCAPY_RATIO = 2.0, 40.0, 2000.0
MAX_MIB = 250.0
PEAK_SCRIPT = """
import sys
from pathlib import Path
from nsstream.capture import PcapFileSource
source = PcapFileSource(sys.argv[1])
source.open()
while source.read_batch() is not None:
    pass
source.close()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(source.tally.offered, status["VmHWM"].split()[0])  # ru_maxrss would be the parent's, if that is larger
"""


@dataclass(frozen=True, slots=True)
class Speed:
    """Packets of one reading, and the best of its times."""

    packets: int
    cpu_s: float
    wall_s: float

    @property
    def packets_per_cpu_s(self) -> float:
        return self.packets / self.cpu_s

    @property
    def packets_per_wall_s(self) -> float:
        return self.packets / self.wall_s


def run(directory: Path, *, gib: float, rounds: int) -> tuple[list[Bar], dict[str, Speed]]:
    """Measure everything in a directory, which is left as it was."""
    snap, full, short = (directory / f"{name}.pcap" for name in ("snap", "full", "short"))
    try:
        packets = write_captures(snap, full, short, int(gib * 2**30))
        speeds = {}
        for path in snap, full:
            read_ours(path)
            turns = [(f"nsstream {path.stem}", read_ours), (f"tcpdump {path.stem}", read_tcpdump)]
            speeds |= best_of(rounds, path, packets, turns)
        speeds |= best_of(2, short, SHORT_PACKETS, [("dpkt raw", read_dpkt_raw), ("dpkt", read_dpkt)])
        speeds |= best_of(1, short, SCAPY_PACKETS, [("scapy", read_scapy)])
        size = full.stat().st_size / 2**30
        offered, peak_kib = map(int, in_child(PEAK_SCRIPT, full).split())
        assert offered == packets
    finally:
        for path in snap, full, short:
            path.unlink(missing_ok=True)
    return judged(speeds, peak_kib / 1024, size), speeds


def judged(speeds: dict[str, Speed], peak_mib: float, gib: float) -> list[Bar]:
    rate = {name: speed.packets_per_cpu_s for name, speed in speeds.items()}
    ours = {path: rate[f"nsstream {path}"] for path in ("snap", "full")}
    return [
        at_least("snaplen 96, packets/CPU-s", ours["snap"], SNAP_PPS, speeds["nsstream snap"].packets_per_wall_s),
        at_least("full frames, packets/CPU-s", ours["full"], FULL_PPS, speeds["nsstream full"].packets_per_wall_s),
        at_least("times tcpdump -w /dev/null, snaplen 96", ours["snap"] / rate["tcpdump snap"], TCPDUMP_RATIO),
        at_least("times tcpdump -w /dev/null, full frames", ours["full"] / rate["tcpdump full"], TCPDUMP_RATIO),
        at_least("times dpkt.pcap.Reader + struct", ours["snap"] / rate["dpkt raw"], DPKT_RATIO),
        Bar("times dpkt.ethernet", ours["snap"] / rate["dpkt"]),
        at_least("times scapy.PcapReader", ours["snap"] / rate["scapy"], SCAPY_RATIO),
        at_most(f"peak memory, {gib:.2f} GiB of full frames, MiB", peak_mib, MAX_MIB),
    ]


def at_least(name: str, gave: float, limit: float, wall: float | str = "") -> Bar:
    return Bar(name, gave, f">= {limit:,.0f}", gave >= limit, wall)


def best_of(rounds: int, path: Path, packets: int, turns: list[tuple[str, Callable[[Path], int]]]) -> dict[str, Speed]:
    best = {name: (float("inf"), float("inf")) for name, _ in turns}
    for _ in range(rounds):
        for name, read in turns:
            cpu_s, wall_s = cpu_seconds(), time.perf_counter()
            count = read(path)
            cpu_s, wall_s = cpu_seconds() - cpu_s, time.perf_counter() - wall_s
            assert count == packets, f"{name} read {count} packets of {packets}"
            best[name] = min(best[name][0], cpu_s), min(best[name][1], wall_s)
    return {name: Speed(packets, *times) for name, times in best.items()}


def cpu_seconds() -> float:
    """Of this process and of its children that have ended; children's are in whole microseconds."""
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + of_children.ru_utime + of_children.ru_stime


def in_child(script: str, path: Path) -> str:
    return subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True).stdout


def read_ours(path: Path) -> int:
    source = PcapFileSource(path)
    source.open()
    while source.read_batch() is not None:
        pass
    source.close()
    source.tally.check()
    return source.tally.offered


def read_tcpdump(path: Path) -> int:
    with path.open("rb") as file:
        subprocess.run(["tcpdump", "-r", "-", "-w", os.devnull], stdin=file, stderr=subprocess.DEVNULL, check=True)
    return packet_count[path]


def read_dpkt_raw(path: Path) -> int:
    """The fields of IPv4 TCP and UDP only, by hand: the least that a Python loop can do."""
    rows = []
    count = 0
    with path.open("rb") as file:
        for t, octets in dpkt.pcap.Reader(file):
            count += 1
            if octets[12:14] != b"\x08\x00":
                continue
            version, tos, length, ident, _, ttl, protocol, _, source, destination = struct.unpack_from(
                "!BBHHHBBH4s4s", octets, 14
            )
            at = 14 + (version & 15) * 4
            if protocol == 6:
                sport, dport, seq, ack, bits = struct.unpack_from("!HHIIH", octets, at)
                rows.append((t, source, destination, protocol, sport, dport, length, tos, ttl, ident, bits, seq, ack))
            elif protocol == 17:
                sport, dport = struct.unpack_from("!HH", octets, at)
                rows.append((t, source, destination, protocol, sport, dport, length, tos, ttl, ident, 0, 0, 0))
    return count


def read_dpkt(path: Path) -> int:
    rows = []
    count = 0
    with path.open("rb") as file:
        for t, octets in dpkt.pcap.Reader(file):
            count += 1
            ip = dpkt.ethernet.Ethernet(octets).data
            if isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6) and isinstance(ip.data, dpkt.tcp.TCP | dpkt.udp.UDP):
                rows.append((t, ip.src, ip.dst, ip.p, ip.data.sport, ip.data.dport))
    return count


def read_scapy(path: Path) -> int:
    from scapy.layers import inet, inet6
    from scapy.utils import PcapReader

    rows = []
    count = 0
    with PcapReader(str(path)) as reader:
        for packet in reader:
            ip = packet.getlayer(inet.IP) or packet.getlayer(inet6.IPv6)
            transport = packet.getlayer(inet.TCP) or packet.getlayer(inet.UDP)
            if ip is not None and transport is not None:
                rows.append((packet.time, ip.src, ip.dst, transport.sport, transport.dport))
            count += 1
            if count == SCAPY_PACKETS:
                break
    return count


packet_count: dict[Path, int] = {}  # of the files that were made


def write_captures(snap: Path, full: Path, short: Path, full_bytes: int) -> int:
    """Write the three files; how many packets the first two have."""
    capture = lzma.decompress(files("nsstream_daemon").joinpath("data/lab.pcap.xz").read_bytes())
    header = capture[:24]
    cut, whole = [], []
    at = 24
    while at < len(capture):
        seconds, fraction, captured, original = struct.unpack_from("<IIII", capture, at)
        frame = capture[at + 16 : at + 16 + captured]
        at += 16 + captured
        whole.append(struct.pack("<IIII", seconds, fraction, original, original) + frame.ljust(original, b"\0"))
        seen = frame[:SNAPLEN]
        cut.append(struct.pack("<IIII", seconds, fraction, len(seen), original) + seen)
    times = -(-full_bytes // sum(map(len, whole)))
    for path, records, count in (
        (snap, cut, times * len(cut)),
        (full, whole, times * len(whole)),
        (short, cut, SHORT_PACKETS),
    ):
        again, rest = divmod(count, len(records))
        octets = b"".join(records)
        with path.open("wb") as file:
            file.write(header)
            for _ in range(again):
                file.write(octets)
            file.write(b"".join(records[:rest]))
        packet_count[path] = count
    return packet_count[full]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", type=Path, default=None, help="where the files are made; default: temporary")
    parser.add_argument("--gib", type=float, default=1.0, help="least size of the file of whole frames")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        bars, speeds = run(Path(directory), gib=arguments.gib, rounds=arguments.rounds)
    show("capture files to columns, one thread", bars, beside="packets/s of wall clock")
    figures = as_dict(bars) | {"speeds": {name: asdict(speed) for name, speed in speeds.items()}}
    return finish(figures, arguments.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(main())
