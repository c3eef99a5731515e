"""Fuzz the capture readers with atheris: whatever the octets, packets, counts, or WireError; and the laws hold.

    python bench/fuzz/capture_fuzz.py pcap|pcapng [CORPUS] [--seconds N]

Needs the extra `fuzz`. The loops run as plain Python (NUMBA_DISABLE_JIT), so that coverage guides the fuzzer through
them and an index beyond the octets is an IndexError. libFuzzer holds each input to 10 s and the process to 1 GiB. New
inputs are kept in CORPUS, a temporary folder if none is named; a crash leaves its input in the working directory and
exits with a status other than 0.

The first two octets of an input say how the rest is split and how large the buffer is. Held are: no error but
WireError; the tally adds up and counts the rows given; the split stream gives what the whole one gives; memory for one
stream is bounded by the largest block that the format allows.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"

import atheris

with atheris.instrument_imports(include=["nsstream.wire"]):
    from nsstream.wire import PcapReader

import numpy as np

from nsstream.errors import WireError
from nsstream.wire.pcap import pcap_header
from nsstream.wire.pcapng import MAX_BLOCK_BYTES
from nsstream.wire.pcapng_writer import pcapng_header

MACS = bytes.fromhex("020000000002 020000000001")


def check(octets: bytes) -> None:
    """Raise AssertionError where a law is broken, and whatever a reader raises that is no WireError."""
    if len(octets) < 2:
        return
    buffer_bytes = 64 + 16 * octets[1]
    rng = random.Random(octets[0])
    stream = octets[2:]
    pieces = []
    at = 0
    while at < len(stream):
        size = rng.choice([1, 3, 16, 100, 1000])
        pieces.append(stream[at : at + size])
        at += size
    whole, parted = read([stream], 1 << 16), read(pieces, buffer_bytes)
    assert whole == parted, f"the whole stream gives {whole}, the split one {parted}"


def read(pieces: list[bytes], buffer_bytes: int) -> tuple[dict[str, bytes], dict[str, object], str]:
    """Columns as octets, tally, and what the WireError said."""
    reader = PcapReader(buffer_bytes)
    given: list[dict[str, np.ndarray]] = []
    told = ""
    try:
        for piece in pieces:
            given.append(reader.feed(piece))
            assert len(reader.get_buffer()) <= 2 * MAX_BLOCK_BYTES + buffer_bytes
        given.append(reader.feed(b""))  # a complaint that waits behind the last rows
        reader.finish()
    except WireError as err:
        told = str(err)
    reader.tally.check()
    names = given[0] if given else {}
    columns = {name: b"".join(columns[name].tobytes() for columns in given) for name in names}
    assert len(columns.get("ip_ttl", b"")) == reader.tally.kept
    return {name: column for name, column in columns.items() if column}, reader.tally.as_dict(), told


def seeds(kind: str) -> list[bytes]:
    """Streams that are right, or nearly, of every feature that the readers know."""
    frames = [MACS + frame for frame in made_frames()]
    if kind == "pcap":
        little = b"".join(struct.pack("<IIII", 9, 9, len(f), len(f)) + f for f in frames)
        big = b"".join(struct.pack(">IIII", 9, 9, len(f), 2000) + f for f in frames)
        headers = [pcap_header(link_type) for link_type in (0, 1, 12, 101, 108, 113, 228, 229, 276)]
        return [header + little for header in headers] + [struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 96, 1) + big]
    streams = []
    for order in "<>":
        head = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        for resolution in (6, 9, 0x80 | 20, 0x80 | 63, 27, 100):
            options = struct.pack(order + "HHB3xHHqHH", 9, 1, resolution, 14, 8, 5, 0, 0)
            interfaces = b"".join(
                block(order, 1, struct.pack(order + "HHI", link_type, 0, 96) + options) for link_type in (1, 101, 105)
            )
            packets = b"".join(
                block(order, 6, struct.pack(order + "IIIII", i % 3, 1, 2, len(f), len(f)) + f)
                + block(order, 2, struct.pack(order + "HHIIII", i % 3, 0, 1, 2, len(f), len(f)) + f)
                + block(order, 3, struct.pack(order + "I", len(f)) + f)
                for i, f in enumerate(frames)
            )
            statistics = block(order, 5, struct.pack(order + "IIIHHQHH", 0, 1, 2, 5, 8, 77, 0, 0))
            streams.append(head + interfaces + packets + statistics + block(order, 4, bytes(8)) + head + interfaces)
    return [*streams, pcapng_header()]


def made_frames() -> list[bytes]:
    tcp = struct.pack("!HHIIHHHH", 40_000, 80, 1, 2, 0x5018, 500, 0, 0)
    udp = struct.pack("!HHHH", 53, 40_000, 8, 0)
    frames = []
    for protocol, load in ((6, tcp), (17, udp), (1, bytes(8)), (132, bytes(12))):
        ipv4 = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(load), 7, 0x2000, 64, protocol, 0, 1, 2) + load
        frames += [b"\x08\x00" + ipv4, b"\x81\x00\x00\x07\x08\x00" + ipv4]
        for first, extension in (
            (protocol, b""),
            (44, bytes([protocol, 0, 0, 1, 0, 0, 0, 9])),
            (0, bytes([protocol] + [0] * 7)),
        ):
            size = len(extension) + len(load)
            frames.append(b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, size, first, 64) + bytes(32) + extension + load)
    return frames


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=["pcap", "pcapng"])
    parser.add_argument("corpus", type=Path, nargs="?", default=None)
    parser.add_argument("--seconds", type=int, default=180)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # of 64-bit words that wrap, as they are meant to
    corpus = arguments.corpus or Path(tempfile.mkdtemp(prefix="capture_fuzz_"))
    corpus.mkdir(parents=True, exist_ok=True)
    for i, stream in enumerate(seeds(arguments.kind)):
        (corpus / f"seed-{i}").write_bytes(bytes([i, i % 64]) + stream)
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=8192", f"-max_total_time={arguments.seconds}"]
    atheris.Setup([sys.argv[0], str(corpus), *limits], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
