"""Our nfcapd files as nfdump itself reads them: alone, as a directory, and sent on by nfreplay."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from collectors import collect_with_nfcapd, facts_of_nfcapd
from made_traffic import made_table
from nfdump_tools import NEEDS_NFDUMP, nfdump
from test_netflow_sink import metered, texts

from nsstream.assemble import Assembler
from nsstream.assemble.frames import Frames
from nsstream.replay.registry import make_sink
from nsstream.replay.sink import Sink, SinkContext, check_counters
from nsstream.trace import FlowTable
from nsstream.trace.fields import ICMP, ICMPV6

pytestmark = NEEDS_NFDUMP
FORMAT = "fmt:%ts|%te|%pr|%sa|%da|%sp|%dp|%pkt|%byt|%tos|%flg"


@pytest.fixture(scope="module")
def frames() -> Frames:
    return Assembler(np.random.default_rng(2)).assemble(made_table(count=300))


def play(frames: Frames, **fields: object) -> Sink:
    sink = make_sink({"kind": "nfcapd", "active_timeout_s": 5.0, "idle_timeout_s": 2.0, **fields}, SinkContext())
    sink.open()
    for start in range(0, len(frames), 300):
        sink.write(frames.slice(start, start + 300))
        check_counters(sink.counters)
    sink.close()
    check_counters(sink.counters)
    return sink


def told(flows: FlowTable, path: Path, *options: str) -> None:
    """Hold what nfdump prints to the flows."""
    lines = nfdump("-q", "-N", "-6", *options, str(path), "-o", FORMAT).splitlines()
    came = Counter(tuple(cell.strip() for cell in line.split("|")) for line in lines if line.count("|") == 10)
    is_icmp = (flows.protocol_identifier == ICMP) | (flows.protocol_identifier == ICMPV6)
    kinds = flows.icmp_type_code.tolist()
    ports = [
        f"{kind >> 8}.{kind & 0xFF}" if icmp else str(port)
        for kind, icmp, port in zip(kinds, is_icmp, flows.destination_transport_port.tolist(), strict=True)
    ]
    assert came == Counter(
        zip(
            map(stamp, flows.flow_start_ns),
            map(stamp, flows.flow_end_ns),
            map(str, flows.protocol_identifier.tolist()),
            texts(flows.source_address),
            texts(flows.destination_address),
            map(str, flows.source_transport_port.tolist()),
            ports,
            map(str, flows.packet_delta_count.tolist()),
            map(str, flows.octet_delta_count.tolist()),
            map(str, flows.ip_class_of_service.tolist()),
            map(flags, flows.tcp_control_bits.tolist()),
            strict=True,
        )
    )


def stamp(at_ns: np.int64) -> str:
    return str(np.datetime64(int(at_ns) // 10**6, "ms")).replace("T", " ")


def flags(bits: int) -> str:
    return "".join(letter if bits >> at & 1 else "." for at, letter in zip(range(7, -1, -1), "CEUAPRSF", strict=True))


def test_nfdump_reads_our_file_as_its_own(tmp_path: Path, frames: Frames) -> None:
    path = tmp_path / "flows"
    play(frames, path=str(path))
    flows = metered(frames, 10)
    told(flows, path, "-r")
    facts = facts_of_nfcapd(path)
    assert (facts["Flows"], facts["Sequence failures"]) == (len(flows), 0)
    assert facts["Packets"] == int(flows.packet_delta_count.sum())
    assert facts["Bytes"] == int(flows.octet_delta_count.sum())
    assert facts["Flows_tcp"] == int((flows.protocol_identifier == 6).sum())
    assert int(facts["First"]) == int(flows.flow_start_ns.min()) // 10**9
    assert facts["msec_last"] == int(flows.flow_end_ns.max()) // 10**6 % 1000
    checked = subprocess.run(["nfdump", "-v", str(path)], check=True, capture_output=True, text=True, timeout=300)
    assert "corrupt" not in (checked.stdout + checked.stderr).lower()


def test_nfdump_reads_a_directory_of_our_files(tmp_path: Path, frames: Frames) -> None:
    sink = play(frames, path=str(tmp_path), rotate_s=20)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == sink.counters["files"] == 3
    assert names[0] == "nfcapd.20230328104000"
    told(metered(frames, 10), tmp_path, "-R")


def test_nfreplay_sends_our_file_to_nfcapd(tmp_path: Path, frames: Frames) -> None:
    path = tmp_path / "flows"
    play(frames, path=str(path))
    came = collect_with_nfcapd(
        tmp_path / "nfcapd",
        lambda port: (
            subprocess.run(  # type: ignore[arg-type, return-value]
                ["nfreplay", "-r", str(path), "-H", "127.0.0.1", "-p", str(port), "-v", "9", "-d", "1000"],
                check=True,
                capture_output=True,
                timeout=300,
            )
            and None
        ),
    )
    flows = metered(frames, 10)
    facts = facts_of_nfcapd(came)
    assert (facts["Flows"], facts["Packets"]) == (len(flows), int(flows.packet_delta_count.sum()))
