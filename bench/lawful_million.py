"""Hold a twin of a million packets against its real trace, by tshark. Exit status 1 when a bar is missed.

    python bench/lawful_million.py [REAL] [--checkpoint DIR ...] [--packets N] [--payload KIND] [--keep FILE]

REAL is the bundled lab capture unless given. The twin is made of the real trace's own conversations, assembled anew
again and again under other addresses (a keyed map a round), so that what differs is the assembler's work alone; with
--checkpoint, it is what a replay plays of models of REAL, in the order given, looped. Bars: 0 bad checksums, 0
malformed packets and 0 frames with a fault; `tcp.completeness` of its conversations, each value's share within 5 points
of the real capture's; no kind of warning or error of ``tshark -z expert`` that the real capture lacks; and for each
service port of the real capture what tshark says is spoken there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np
from bars.runs import run_main
from bars.traces import lab_capture
from bars.verdict import Bar, as_dict, at_most, equal, finish, has_passed, show

from nsstream.assemble import Assembler, Frames
from nsstream.capture import read_trace
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError
from nsstream.replay.framing import Framing
from nsstream.replay.messages import Payload
from nsstream.replay.scenario import ModelsSpec, Scenario
from nsstream.replay.stream import FrameBlock, open_stream
from nsstream.score import verify_trace
from nsstream.score.plain import plain_file
from nsstream.trace import ConversationTable
from nsstream.trace.grouping import group_conversations
from nsstream.wire.pcap import pcap_header, write_records

SEED: Final = 1
POINTS: Final = 5.0
FEWEST_PACKETS: Final = 20  # of a service port of the real trace, to be asked about
_SERVICE_PORTS: Final = 1024  # ports below are services wherever they stand
_MOST_NAMED: Final = 12
_WIDEST_GAP_NS: Final = 60_000_000_000
_CHECKS: Final = tuple(f"-o{protocol}.check_checksum:TRUE" for protocol in ("ip", "tcp", "udp"))


def rounds_of(table: ConversationTable) -> Iterator[ConversationTable]:
    """The table again and again, each time under other addresses and later."""
    span_ns = int(table.observation_time_ns.max() - table.observation_time_ns.min()) + _WIDEST_GAP_NS
    for k in count():
        if k == 0:
            yield table
            continue
        other = AddressMap(hashlib.blake2b(bytes([SEED, k % 256, k // 256]), digest_size=32).digest())
        yield replace(
            table,
            initiator_address=other.map(table.initiator_address),
            responder_address=other.map(table.responder_address),
            observation_time_ns=table.observation_time_ns + k * span_ns,
        )


def assembled(
    tables: Iterator[ConversationTable], payload: Payload, tally: Counter[str]
) -> Generator[Frames, None, None]:
    """The frames of each table, and what was repaired and dropped in making them."""
    for k, table in enumerate(tables):
        assembler = Assembler(np.random.default_rng([SEED, k]), payload=payload)
        yield assembler.assemble(table)
        tally.update(assembler.tally)


def played(checkpoints: Sequence[Path], payload: Payload, tally: Counter[str]) -> Generator[Frames, None, None]:
    """What a replay plays of these models, again and again: conversations go on from chunk to chunk."""
    spec = ModelsSpec(models=[str(path.absolute()) for path in checkpoints])
    with closing(open_stream(spec, Scenario(), SEED, Framing(payload=payload), loop=None)) as stream:
        while isinstance(block := stream.read(), FrameBlock):
            tally.clear()
            tally.update(block.tally)
            yield block.frames


def write_twin(parts: Generator[Frames, None, None], packet_count: int, output: Path) -> None:
    """Write frames, part after part in time, until there are so many."""
    written, last_ns = 0, -1
    with output.open("wb") as file, closing(parts):
        file.write(pcap_header())
        for frames in parts:
            assert frames.observation_time_ns[0] > last_ns
            last_ns = int(frames.observation_time_ns[-1])
            file.write(write_records(frames.observation_time_ns, frames.offset, frames.octets))
            written += len(frames)
            if written >= packet_count:
                return


def completeness(lines: Iterator[list[str]]) -> tuple[dict[int, float], dict[str, Counter[str]]]:
    """Share of TCP conversations by `tcp.completeness` in points, and packets by protocol name for each service."""
    of_stream: dict[str, int] = {}
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for stream, value, tcp_from, tcp_to, udp_from, udp_to, name in lines:
        if stream:  # the outermost; an ICMP error quotes others
            of_stream[stream.split(",")[0]] = int(value.split(",")[0] or 0)
        for layer, pair in (("tcp", (tcp_from, tcp_to)), ("udp", (udp_from, udp_to))):
            ports = [int(port.split(",")[0]) for port in pair if port]
            if ports and min(ports) < _SERVICE_PORTS and name not in ("ICMP", "ICMPv6"):
                names[f"{layer} {min(ports)}"][name] += 1
    shares = Counter(of_stream.values())
    return {value: 100 * n / len(of_stream) for value, n in shares.items()}, names


def fields_of(capture: Path) -> Iterator[list[str]]:
    """What tshark says of each packet, in its second pass."""
    fields = ("tcp.stream", "tcp.completeness", "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport")
    command = ["tshark", "-n", "-2", "-r", str(capture), "-T", "fields", *(f"-e{f}" for f in fields)]
    with _tshark([*command, "-e_ws.col.Protocol"]) as child:
        assert child.stdout is not None
        for line in child.stdout:
            yield line.rstrip("\n").split("\t")


def expert_kinds(capture: Path) -> dict[str, int]:
    """Warnings and errors of tshark's experts, by what they say; numbers in it are left out."""
    found: dict[str, int] = {}
    severity = ""
    with _tshark(["tshark", "-n", "-r", str(capture), *_CHECKS, "-q", "-z", "expert,warn"]) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if heading := re.match(r"(\w+) \(\d+\)", line):
                severity = heading[1]
            elif row := re.match(r"\s+(\d+)\s+(\S+)\s+(\S+)\s+(.*)", line):
                kind = f"{severity} {row[3]}: {re.sub(r'[0-9]+', '#', row[4]).strip()}"
                found[kind] = found.get(kind, 0) + int(row[1])
    return found


def twin_bars(real: Path, twin: Path) -> list[Bar]:
    """Every figure of the twin beside that of the real trace."""
    found = verify_trace(real, twin)
    if found.twin is None or found.real is None:
        raise InputError("tshark is not installed: apt-get install tshark")
    with plain_file(real) as plain:
        real_shares, real_names = completeness(fields_of(plain))
        real_kinds = expert_kinds(plain)
    shares, names = completeness(fields_of(twin))
    kinds = expert_kinds(twin)
    bars = [
        Bar("packets", found.packet_count, beside=found.real.packet_count),
        equal("frames with a fault, by our own check", sum(found.fault_count.values()), 0),
        equal("tshark: bad checksums", sum(found.twin.bad_checksum_count.values()), 0),
        equal("tshark: malformed packets", found.twin.malformed_count, 0, found.real.malformed_count),
    ]
    for value in sorted(shares | real_shares):
        ours, theirs = shares.get(value, 0.0), real_shares.get(value, 0.0)
        bars.append(at_most(f"tcp.completeness {value}: {ours:.2f} points; off by", abs(ours - theirs), POINTS, theirs))
    for kind in sorted(found.twin.analysis_count | found.real.analysis_count):
        ours, theirs = found.twin.rate(kind), found.real.rate(kind)
        bars.append(Bar(f"tcp.analysis.{kind}", f"{ours:.3%}", beside=f"{theirs:.3%}"))
    new = sorted(set(kinds) - set(real_kinds))
    bars.append(equal("tshark -z expert: new warnings and errors", ", ".join(new[:_MOST_NAMED]) or "none", "none"))
    asked = [port for port, seen in real_names.items() if seen.total() >= FEWEST_PACKETS]
    spoken = {port: _services(seen) for port, seen in real_names.items()}
    missed = [
        f"{port} ({'/'.join(sorted(spoken[port]))})"
        for port in asked
        if spoken[port] and not spoken[port] & _services(names[port])
    ]
    bars.append(Bar("service ports of the real capture", len(asked)))
    bars.append(equal("of them not recognised in the twin", ", ".join(sorted(missed)[:_MOST_NAMED]) or "none", "none"))
    return bars


def _services(seen: Counter[str]) -> set[str]:
    """The services behind protocol names: those of TLS name its version."""
    return {re.sub(r"^(TLS|SSL)v.*", "TLS", name) for name in seen.keys() - {"TCP", "UDP"}}


def _tshark(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "LC_ALL": "C", "WIRESHARK_CONFIG_DIR": tempfile.gettempdir()}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True, env=environment)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, nargs="?", help="the real trace; the lab capture unless given")
    parser.add_argument("--checkpoint", type=Path, nargs="+", help="play the twin from these models of the real trace")
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--payload", default="template", choices=["template", "zero", "random"])
    parser.add_argument("--keep", type=Path, help="leave the twin here")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        real = given.real or stack.enter_context(lab_capture())
        twin = given.keep or folder / "twin.pcap"
        tally: Counter[str] = Counter()
        if given.checkpoint:
            parts = played(given.checkpoint, given.payload, tally)
        else:
            parts = assembled(rounds_of(group_conversations(read_trace(real)[0])[0]), given.payload, tally)
        write_twin(parts, given.packets, twin)
        bars = twin_bars(real, twin)
    show(f"a twin of {real.name}, payload {given.payload}", bars, beside="real capture")
    print("repairs and drops:", dict(tally))
    return finish(as_dict(bars) | {"tally": dict(tally)}, given.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
