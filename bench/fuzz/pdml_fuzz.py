"""Fuzz what reads tshark's PDML with atheris: whatever it says, rows and counts and no error; the laws hold.

    python bench/fuzz/pdml_fuzz.py [CORPUS] [--seconds N]

Needs the extras `fuzz` and `pyshark`, and tshark for the seeds. The loops run as plain Python (NUMBA_DISABLE_JIT), so
that coverage guides the fuzzer through them. libFuzzer holds each input to 10 s and the process to 1 GiB. New inputs
are kept in CORPUS, a temporary folder if none is named; a crash leaves its input in the working directory and exits
with a status other than 0. The corpus starts with what tshark says of our own lab capture, as it is and in GRE.

The first octet of an input says which IP header is asked for, the second how the rest is read: an even one, as PDML in
pieces of so many octets; an odd one, as choices that make PDML of known names with numbers that lie. Held are: a split
stream gives the packets that the whole one gives; each packet is a row or counted once; a frame takes no more octets
than its bound.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from xml.sax.saxutils import quoteattr

os.environ["NUMBA_DISABLE_JIT"] = "1"

import atheris

with atheris.instrument_imports(include=["nsstream.wire", "pyshark"]):
    from nsstream.wire.pdml import PdmlSplitter
    from nsstream.wire.pdml_packet import DETAILED_PROTOCOLS, MAX_FRAME_BYTES, Frame, read_packet, read_packets

from lab_frames import lab_frames

from nsstream.counters import Tally
from nsstream.wire.pcap import pcap_header

LAYERS = [*DETAILED_PROTOCOLS.split(), "eth", "wlan", "arp", "llc", "gre", "mpls", "_ws.short", "_ws.malformed", ""]
FIELDS = ["ip.version", "ipv6.version", "vlan.id", "ieee8021ad.id", "ip.len", "tcp.port", "x", ""]
NUMBERS = [
    "",
    "0",
    "14",
    "18",
    "34",
    "-1",
    "4095",
    "4096",
    "65536",
    "0x10",
    "9" * 25,
    "1e3",
    " 2",
    "1_0",
    "\u0663",
    "q",
]
TEXTS = ["45", "6", "0800", " 4 ", "zz", "0", "45000028000100004006", "00" * 40, "a0" * 5000, "4 5 ", "\u0663\u0663"]
TIMES = ["1.5", "", "1", "-1.5", "9223372036.9", "1.\u0663", "\u00b2.1", "9" * 5000, "1795232164.886504864", "1.2.3"]


def check(octets: bytes) -> None:
    """Raise AssertionError where a law is broken, and whatever the reader raises."""
    if len(octets) < 2:
        return
    ip_header = octets[0] % 5 - 2
    step = 16 + octets[1] // 2
    stream = made_pdml(octets[2:]) if octets[1] % 2 else octets[2:]
    pieces = packets_of([stream])
    assert pieces == packets_of([stream[at : at + step] for at in range(0, len(stream), step)])
    tally = Tally()
    columns = read_packets(pieces, ip_header, tally)
    tally.check()
    assert tally.offered == len(pieces)
    assert len(columns["ip_ttl"]) == tally.kept
    for piece in pieces[:1]:
        found = read_packet(piece, ip_header)
        assert not isinstance(found, Frame) or len(found.octets) <= MAX_FRAME_BYTES


def packets_of(pieces: list[bytes]) -> list[bytes | None]:
    splitter = PdmlSplitter()
    return [packet for piece in pieces for packet in splitter.feed(piece)]


def made_pdml(choices: bytes) -> bytes:
    """Packets of known layers and fields, with numbers and texts that the octets choose."""
    take = atheris.FuzzedDataProvider(choices)

    def field(name: str, at: str, size: str, show: str, value: str) -> str:
        which = "unmaskedvalue" if take.ConsumeIntInRange(0, 9) == 0 else "value"
        words = {"name": name, "pos": at, "size": size, "show": show, which: value}
        return "<field " + " ".join(f"{key}={quoteattr(word)}" for key, word in words.items()) + "/>"

    packets = []
    while take.remaining_bytes() and len(packets) < 3:
        general = [
            field("num", "0", "1", "1", "1"),
            field("len", "0", "1", take.PickValueInList(NUMBERS), "1"),
            field("caplen", "0", "1", take.PickValueInList(NUMBERS), "1"),
            field("timestamp", "0", "1", "now", take.PickValueInList(TIMES)),
        ]
        protocols = [f'<proto name="geninfo">{"".join(general)}</proto><proto name="frame"/>']
        for _ in range(take.ConsumeIntInRange(0, 6)):
            name = take.PickValueInList(LAYERS)
            fields = [field(f"{name}.version", take.PickValueInList(NUMBERS), "1", "4", "45")]
            for _ in range(take.ConsumeIntInRange(0, 6)):
                text = take.PickValueInList(TEXTS)
                is_honest = take.ConsumeBool()
                size = str(len(text) // 2) if is_honest else take.PickValueInList(NUMBERS)
                at = str(take.ConsumeIntInRange(0, 200)) if is_honest else take.PickValueInList(NUMBERS)
                fields.append(field(take.PickValueInList(FIELDS), at, size, take.PickValueInList(NUMBERS), text))
            protocols.append(f"<proto name={quoteattr(name)}>{''.join(fields)}</proto>")
        packets.append(f"<packet>{''.join(protocols)}</packet>")
    return "".join(packets).encode()


def seeds() -> list[bytes]:
    """What tshark says of some frames of our own capture; of the same in GRE; and XML that is not good."""
    frames = lab_frames(2000)[::25]
    outer = bytes.fromhex("020000000002 020000000001 0800 4500 0000 0001 0000 402f 0000 c0000201 c6336407 0000")
    tunnelled = [outer + frame[12:] for frame in frames]
    with tempfile.TemporaryDirectory() as directory:
        packets = [*pdml(frames, Path(directory)), *pdml(tunnelled, Path(directory))]
    bad = [
        b'<packet><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><proto name="&c;"/></packet>',
        b"<packet>" + b"<proto>" * 300 + b"</packet>",
        b"<packet></packet>\xff<packet><proto name='ip'</packet></packet>",
    ]
    return [*[packet for packet in packets if len(packet) < 6000][::4], b"".join(packets[:2]), *bad]


def pdml(frames: list[bytes], directory: Path) -> list[bytes]:
    """tshark's words for each frame."""
    capture = directory / "frames.pcap"
    records = (struct.pack("<4I", 1_700_000_000, i, len(frame), len(frame)) + frame for i, frame in enumerate(frames))
    capture.write_bytes(pcap_header() + b"".join(records))
    tshark = shutil.which("tshark")
    if tshark is None:
        raise SystemExit("tshark is not installed, or not in PATH; it comes with Wireshark")
    command = [tshark, "-n", "-T", "pdml", "-j", DETAILED_PROTOCOLS, "-r", str(capture)]
    octets = subprocess.run(command, check=True, capture_output=True).stdout
    return [packet for packet in packets_of([octets]) if packet is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path, nargs="?", default=None)
    parser.add_argument("--seconds", type=int, default=180)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # of 64-bit words that wrap, as they are meant to
    corpus = arguments.corpus or Path(tempfile.mkdtemp(prefix="pdml_fuzz_"))
    corpus.mkdir(parents=True, exist_ok=True)
    for i, packets in enumerate(seeds()):
        (corpus / f"seed-{i}").write_bytes(bytes([1, 2 * (i % 128)]) + packets)
        (corpus / f"made-{i}").write_bytes(bytes([i % 5, 1]) + packets[:300])
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=8192", f"-max_total_time={arguments.seconds}"]
    atheris.Setup([sys.argv[0], str(corpus), *limits], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
