"""Frames through the NetFlow sink to nfcapd and nfacctd: no sequence errors, the same flows, packets, octets, times."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from collectors import NEEDS_NFACCTD, collect_with_nfacctd, collect_with_nfcapd, facts_of_nfcapd
from made_traffic import made_table
from nfdump_tools import NEEDS_NFDUMP, nfdump
from test_netflow_against_nfdump import flow_of

from nsstream.assemble import Assembler
from nsstream.assemble.frames import Frames
from nsstream.replay.frame_meter import FrameMeter
from nsstream.replay.netflow_sink import NetflowSink, NetflowSinkSpec
from nsstream.replay.sink import SinkContext, check_counters
from nsstream.trace import FlowTable
from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP

TIMEOUTS = {"active_timeout_s": 5.0, "idle_timeout_s": 2.0}
BLOCK = 250
PROTOCOLS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "ipv6-icmp"}  # as nfacctd names them


@pytest.fixture(scope="module")
def frames() -> Frames:
    return Assembler(np.random.default_rng(1)).assemble(made_table(count=300))


def metered(frames: Frames, version: int, sampling_interval: int = 1) -> FlowTable:
    meter = FrameMeter(sampling_interval=sampling_interval, **TIMEOUTS)
    flows = FlowTable.concatenate([meter.push(frames), meter.flush()])
    return flows.take(flows.ip_version == 4) if version == 5 else flows


def send(frames: Frames, port: int, **fields: object) -> NetflowSink:
    """Play frames into the sink; its counters add up all the way, and nothing failed."""
    spec = NetflowSinkSpec.model_validate(
        {"address": "127.0.0.1", "port": port, "mtu": 1400, "datagrams_per_s": 2000.0, **TIMEOUTS, **fields}
    )
    sink = NetflowSink(spec, SinkContext())
    sink.open()
    for start in range(0, len(frames), BLOCK):
        sink.write(frames.slice(start, start + BLOCK))
        check_counters(sink.counters)
    sink.close()
    check_counters(sink.counters)
    assert sink.counters["frames"] == len(frames)
    for name in ("flows_failed", "flows_waiting", "datagrams_failed", "refusals"):
        assert sink.counters[name] == 0
    return sink


def texts(octets: np.ndarray) -> list[str]:
    addresses = (ipaddress.IPv6Address(one.tobytes()) for one in octets)
    return [str(one.ipv4_mapped or one) for one in addresses]


@NEEDS_NFDUMP
@pytest.mark.parametrize("version", [5, 9, 10])
@pytest.mark.parametrize("uptime_s", [600.0, 2**32 / 1000 - 30.0], ids=["young", "wraps"])
def test_nfcapd_has_the_flows_that_were_metered(tmp_path: Path, frames: Frames, version: int, uptime_s: float) -> None:
    flows = metered(frames, version)
    path = collect_with_nfcapd(
        tmp_path / "nfcapd",
        lambda port: send(frames, port, version=version, uptime_s=uptime_s, template_refresh_packets=3) and None,
    )
    # nfcapd 1.7.1 takes a v9 flow that ended before a wrap, and was exported behind it, for one of 49.7 days later.
    modulo_ms = 2**32 if version == 9 and uptime_s > 10**6 else 2**62
    facts = facts_of_nfcapd(path)
    assert facts["Sequence failures"] == 0
    assert facts["Flows"] == len(flows)
    assert facts["Packets"] == int(flows.packet_delta_count.sum())
    assert facts["Bytes"] == int(flows.octet_delta_count.sum())
    is_icmp = (flows.protocol_identifier == ICMP) | (flows.protocol_identifier == ICMPV6)
    lines = nfdump("-q", "-N", "-6", "-r", str(path), "-o", "fmt:%ts|%te|%pr|%sa|%da|%sp|%dp|%pkt|%byt").splitlines()
    came = [flow_of(line.split("|")) for line in lines if line.count("|") == 8]
    assert Counter((start % modulo_ms, end % modulo_ms, *rest) for start, end, *rest in came) == Counter(
        zip(
            (flows.flow_start_ns // 10**6 % modulo_ms).tolist(),
            (flows.flow_end_ns // 10**6 % modulo_ms).tolist(),
            flows.protocol_identifier.tolist(),
            texts(flows.source_address),
            texts(flows.destination_address),
            flows.source_transport_port.tolist(),
            np.where(is_icmp, 0, flows.destination_transport_port).tolist(),
            flows.packet_delta_count.tolist(),
            flows.octet_delta_count.tolist(),
            strict=True,
        )
    )


@NEEDS_NFDUMP
def test_nfcapd_scales_what_was_sampled(tmp_path: Path, frames: Frames) -> None:
    flows = metered(frames, 5, 10)
    path = collect_with_nfcapd(
        tmp_path / "nfcapd", lambda port: send(frames, port, version=5, sampling_interval=10) and None
    )
    facts = facts_of_nfcapd(path)
    assert (facts["Sequence failures"], facts["Flows"]) == (0, len(flows))
    assert facts["Packets"] == 10 * int(flows.packet_delta_count.sum())
    assert facts["Bytes"] == 10 * int(flows.octet_delta_count.sum())


@NEEDS_NFACCTD
@pytest.mark.parametrize("version", [5, 9, 10])
@pytest.mark.parametrize("sampling_interval", [1, 10])
def test_nfacctd_has_the_flows_that_were_metered(
    tmp_path: Path, frames: Frames, version: int, sampling_interval: int
) -> None:
    flows = metered(frames, version, sampling_interval)
    expected: dict[tuple[str, ...], list[int]] = {}
    is_icmp = (flows.protocol_identifier == ICMP) | (flows.protocol_identifier == ICMPV6)
    for *key, packets, octets in zip(
        texts(flows.source_address),
        texts(flows.destination_address),
        map(str, flows.source_transport_port.tolist()),
        map(str, np.where(is_icmp, flows.icmp_type_code, flows.destination_transport_port).tolist()),
        [PROTOCOLS[protocol] for protocol in flows.protocol_identifier.tolist()],
        map(str, flows.ip_class_of_service.tolist()),
        [as_nfacctd_tells(at, version) for at in flows.flow_start_ns.tolist()],
        [as_nfacctd_tells(at, version) for at in flows.flow_end_ns.tolist()],
        flows.packet_delta_count.tolist(),
        flows.octet_delta_count.tolist(),
        strict=True,
    ):
        counts = expected.setdefault(tuple(key), [0, 0])
        counts[0] += packets * sampling_interval
        counts[1] += octets * sampling_interval
    rows, complaints = collect_with_nfacctd(
        tmp_path / "nfacctd",
        lambda port: (
            send(frames, port, version=version, template_refresh_packets=3, sampling_interval=sampling_interval)
            and None
        ),
        len(expected),
    )
    assert complaints == []
    assert rows == Counter((*key, str(packets), str(octets)) for key, (packets, octets) in expected.items())


def as_nfacctd_tells(at_ns: int, version: int) -> str:
    """nfacctd 1.7.7 takes times by uptime to the second, those of v5 and v9 rounded up."""
    seconds, rest_us = divmod(at_ns // 10**6 * 1000, 10**6)
    if version != 10:
        seconds, rest_us = seconds + (rest_us > 0), 0
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{rest_us:06d}"
