"""Measure how fast capture files become columns, beside dpkt in the same run.

    python bench/decode.py [--packets N] [--json OUT]

Makes its own input in a temporary directory: a classic pcap of 96-octet snaplen, frames of mixed kinds and sizes in
random order. The file is read once before anything is timed, so all readers find it in the page cache. Each reader runs
on one thread; the figure is the best of its rounds. dpkt reads a shorter file of the same frames, since it takes long.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dpkt
import numpy as np
from rich.console import Console
from rich.table import Table

from nsstream.capture import PcapFileSource, read_trace
from nsstream.wire import pcap_header

SNAPLEN = 96
POOL_FRAMES = 1 << 16
FLOOR_PPS = 5_000_000
FLOOR_RATIO = 10


def run(json_path: Path | None, *, packets: int = 4_000_000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Measure all readers, print a table, and write the figures to `json_path` if there is one."""
    with tempfile.TemporaryDirectory() as directory:
        large, small = Path(directory, "large.pcap"), Path(directory, "small.pcap")
        pool = record_pool(np.random.default_rng(seed))
        write_capture(large, pool, packets)
        write_capture(small, pool, max(1, packets // 20))
        read_trace(small)  # compiles, or loads what was compiled
        large.read_bytes()
        results = {
            "nsstream, batches": measure(read_batches, large, 5),
            "nsstream, read_trace": measure(read_whole, large, 3),
            "dpkt.pcap.Reader + struct": measure(read_dpkt_struct, small, 2),
            "dpkt.pcap.Reader + dpkt.ethernet": measure(read_dpkt_ethernet, small, 1),
        }
    ours = results["nsstream, batches"]["packets_per_s"]
    for figures in results.values():
        figures["ours_is_faster_by"] = ours / figures["packets_per_s"]
    show(results)
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=2) + "\n")
    return results


def measure(read: Callable[[Path], int], path: Path, rounds: int) -> dict[str, float]:
    best_s = float("inf")
    count = 0
    for _ in range(rounds):
        start = time.perf_counter()
        count = read(path)
        best_s = min(best_s, time.perf_counter() - start)
    return {"packets": count, "seconds": best_s, "packets_per_s": count / best_s}


def read_batches(path: Path) -> int:
    source = PcapFileSource(path)
    source.open()
    while source.read_batch() is not None:
        pass
    source.close()
    source.tally.check()
    return source.tally.offered


def read_whole(path: Path) -> int:
    return read_trace(path)[1].offered


def read_dpkt_struct(path: Path) -> int:
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


def read_dpkt_ethernet(path: Path) -> int:
    rows = []
    count = 0
    with path.open("rb") as file:
        for t, octets in dpkt.pcap.Reader(file):
            count += 1
            ip = dpkt.ethernet.Ethernet(octets).data
            if isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6) and isinstance(ip.data, dpkt.tcp.TCP | dpkt.udp.UDP):
                rows.append((t, ip.src, ip.dst, ip.p, ip.data.sport, ip.data.dport))
    return count


def record_pool(rng: np.random.Generator) -> list[bytes]:
    """Records with their headers, of frames as a campus link has them, in random order."""
    kinds = [tcp4, udp4, tcp6, udp6, icmp4, tcp4_tagged, arp]
    chosen = rng.choice(len(kinds), POOL_FRAMES, p=[0.5, 0.2, 0.12, 0.08, 0.03, 0.05, 0.02])
    records = []
    for i, kind in enumerate(chosen):
        frame = kinds[kind](rng)
        seen = frame[:SNAPLEN]
        records.append(struct.pack("<IIII", 1_700_000_000, i * 1000, len(seen), len(frame)) + seen)
    return records


def write_capture(path: Path, pool: list[bytes], packets: int) -> None:
    whole, rest = divmod(packets, len(pool))
    octets = b"".join(pool)
    with path.open("wb") as file:
        file.write(pcap_header(snaplen=SNAPLEN))
        for _ in range(whole):
            file.write(octets)
        file.write(b"".join(pool[:rest]))


def ethernet(ethertype: int, payload: bytes) -> bytes:
    return (b"\x02\0\0\0\0\1\x02\0\0\0\0\2" + ethertype.to_bytes(2, "big") + payload).ljust(60, b"\0")


def ip4(rng: np.random.Generator, protocol: int, payload: bytes) -> bytes:
    addresses = b"\x0a" + rng.bytes(3) + b"\xc0\xa8" + rng.bytes(2)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0x4000, 64, protocol, 0) + addresses + payload


def ip6(rng: np.random.Generator, protocol: int, payload: bytes) -> bytes:
    prefix = socket.inet_pton(socket.AF_INET6, "2001:db8::")[:8]
    addresses = prefix + rng.bytes(8) + prefix + rng.bytes(8)
    return struct.pack("!IHBB", 0x60000000, len(payload), protocol, 64) + addresses + payload


def tcp(rng: np.random.Generator) -> bytes:
    options = b"\1\1\x08\x0a" + rng.bytes(8)
    head = rng.bytes(12) + struct.pack("!BBHHH", 0x80, 0x10 | int(rng.integers(0, 16)), 501, 0, 0)
    return head + options + bytes(int(rng.choice([0, 0, 100, 600, 1448])))


def udp(rng: np.random.Generator) -> bytes:
    size = int(rng.choice([30, 80, 300, 1200]))
    return rng.bytes(4) + struct.pack("!HH", 8 + size, 0) + bytes(size)


def tcp4(rng: np.random.Generator) -> bytes:
    return ethernet(0x0800, ip4(rng, 6, tcp(rng)))


def tcp4_tagged(rng: np.random.Generator) -> bytes:
    return ethernet(0x8100, b"\0\x2a\x08\0" + ip4(rng, 6, tcp(rng)))


def udp4(rng: np.random.Generator) -> bytes:
    return ethernet(0x0800, ip4(rng, 17, udp(rng)))


def tcp6(rng: np.random.Generator) -> bytes:
    return ethernet(0x86DD, ip6(rng, 6, tcp(rng)))


def udp6(rng: np.random.Generator) -> bytes:
    return ethernet(0x86DD, ip6(rng, 17, udp(rng)))


def icmp4(rng: np.random.Generator) -> bytes:
    return ethernet(0x0800, ip4(rng, 1, b"\x08\0\0\0" + rng.bytes(4) + bytes(56)))


def arp(rng: np.random.Generator) -> bytes:
    return ethernet(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + rng.bytes(20))


def show(results: dict[str, dict[str, float]]) -> None:
    table = Table("reader", "packets", "seconds", "packets/s", "ours is faster by")
    for name, figures in results.items():
        table.add_row(
            name,
            f"{figures['packets']:,.0f}",
            f"{figures['seconds']:.3f}",
            f"{figures['packets_per_s']:,.0f}",
            f"{figures['ours_is_faster_by']:.1f}",
        )
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=4_000_000)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    results = run(arguments.json, packets=arguments.packets)
    ours = results["nsstream, batches"]["packets_per_s"]
    slowest_margin = results["dpkt.pcap.Reader + struct"]["ours_is_faster_by"]
    return 0 if ours >= FLOOR_PPS and slowest_margin >= FLOOR_RATIO else 1


if __name__ == "__main__":
    raise SystemExit(main())
