"""Conversations of flow records as rows of bins, for baselines that know tables only; and records of such rows.

Every bound is public: a known service or none of them, ports in blocks, addresses in buckets of a hash, parts of the
interval, grids of packets, octets a packet and seconds. Of a conversation's records, one is told; the others that are
made of a row have the packets, octets and duration of other rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_conversations import FlowConversations
from nsstream.encode.flow_schema import RARE_PORT
from nsstream.encode.public_flow_codec import FLOW_SERVICES
from nsstream.encode.vocabulary import Vocabulary
from nsstream.trace import FlowTable
from nsstream.trace.fields import ICMP, ICMPV6, SCTP, TCP, UDP

HOSTS = 256  # buckets that addresses fall into by a hash
TIMES = 64  # parts of the interval
DURATIONS = np.concatenate([[0.0], 10.0 ** (np.arange(-12, 17) / 4)])  # seconds
PACKETS = np.concatenate([np.arange(1, 9), np.geomspace(9, 10**7, 49)])
SIZES = np.concatenate([np.arange(20, 100, 4), np.geomspace(100, 65_535, 60)])  # octets a packet


def bins_of(flows: FlowConversations, interval_ns: tuple[int, int]) -> dict[str, tuple[NDArray[np.int64], int]]:
    """Every field of each conversation as a bin (n,), and how many bins there are."""
    table, first = flows.records, flows.first
    one = first + np.arange(len(flows)) % flows.record_count
    known = Vocabulary(FLOW_SERVICES, (1,) * len(FLOW_SERVICES))
    columns = (table.protocol_identifier[first], table.ip_version[first], flows.service_port)
    services = np.stack([column.astype(np.int64) for column in columns], axis=1)
    services[known.tokens(services) < 0, 2] = RARE_PORT
    start_ns, end_ns = interval_ns
    packets = (table.packet_delta_count + table.reverse_packet_delta_count)[one].astype(np.int64)
    octets = (table.octet_delta_count + table.reverse_octet_delta_count)[one].astype(np.int64)
    seconds = (table.flow_end_ns - table.flow_start_ns)[one] * 1e-9
    is_answered = np.add.reduceat(flows.from_service != np.repeat(flows.from_service[first], flows.record_count), first)
    when = (table.flow_start_ns[first] - start_ns) * TIMES // (end_ns - start_ns)
    return {
        "client": (_bucket(flows.client_address), HOSTS),
        "server": (_bucket(flows.server_address), HOSTS),
        "service": (known.nearest(services, exact=2), len(FLOW_SERVICES)),
        "port": (flows.client_port >> 8, 256),
        "start": (np.clip(when, 0, TIMES - 1), TIMES),
        "records": (np.minimum(flows.record_count, 32) - 1, 32),
        "answered": ((is_answered > 0).astype(np.int64), 2),
        "packets": (np.searchsorted(PACKETS, packets, side="right") - 1, len(PACKETS)),
        "size": (np.clip(np.searchsorted(SIZES, octets / packets, side="right") - 1, 0, None), len(SIZES)),
        "duration": (np.searchsorted(DURATIONS, seconds, side="right") - 1, len(DURATIONS)),
    }


def records_of(
    drawn: dict[str, NDArray[np.int64]], count: int, interval_ns: tuple[int, int], rng: np.random.Generator
) -> FlowTable:
    """Records, by start, of rows of bins: of each field (count,)."""
    owner = np.repeat(np.arange(count), drawn["records"] + 1)
    n = len(owner)
    service = np.array(FLOW_SERVICES)[drawn["service"]][owner]
    index = np.arange(n) - np.searchsorted(owner, owner)
    is_back = (index % 2 == 1) & (drawn["answered"][owner] == 1)
    has_ports = np.isin(service[:, 0], (TCP, UDP, SCTP))
    here = np.where(service[:, 2] == RARE_PORT, rng.integers(1024, 65_536, count)[owner], service[:, 2])
    there = ((drawn["port"] << 8) + rng.integers(0, 256, count))[owner]
    ends = [_addresses(drawn[name][owner], service[:, 1], role) for role, name in enumerate(("client", "server"), 1)]
    start_ns, end_ns = interval_ns
    begin_ns = start_ns + ((drawn["start"] + rng.random(count)) / TIMES * (end_ns - start_ns)).astype(np.int64)[owner]
    shuffled = {name: drawn[name][rng.permutation(count)[owner]] for name in ("packets", "size", "duration")}
    for name, values in shuffled.items():
        values[index == 0] = drawn[name]
    packets = np.floor(_inside(PACKETS, shuffled["packets"], rng)).astype(np.int64).clip(1, 10**7)
    octets = np.rint(packets * _inside(SIZES, shuffled["size"], rng)).astype(np.int64)
    least = np.where(service[:, 1] == 6, 40, 20) + np.where(
        service[:, 0] == TCP, 20, np.where(service[:, 0] == UDP, 8, 0)
    )
    lasts_ns = (_inside(DURATIONS, shuffled["duration"], rng) * 1e9).astype(np.int64)
    columns = {
        "flow_start_ns": begin_ns,
        "flow_end_ns": np.minimum(begin_ns + lasts_ns, end_ns - 1),
        "ip_version": service[:, 1].astype(np.uint8),
        "protocol_identifier": service[:, 0].astype(np.uint8),
        "source_address": np.where(is_back[:, None], ends[1], ends[0]),
        "destination_address": np.where(is_back[:, None], ends[0], ends[1]),
        "source_transport_port": np.where(has_ports, np.where(is_back, here, there), 0).astype(np.uint16),
        "destination_transport_port": np.where(has_ports, np.where(is_back, there, here), 0).astype(np.uint16),
        "icmp_type_code": np.where(np.isin(service[:, 0], (ICMP, ICMPV6)), service[:, 2], 0).astype(np.uint16),
        "packet_delta_count": packets.astype(np.uint64),
        "octet_delta_count": np.clip(octets, packets * least, packets * 65_535).astype(np.uint64),
    }
    return FlowTable.from_columns(columns).take(np.argsort(begin_ns, kind="stable"))


def _bucket(addresses: NDArray[np.uint8]) -> NDArray[np.int64]:
    return (addresses.astype(np.int64) * (2 * np.arange(16) + 37)).sum(axis=1) % HOSTS


def _inside(edges: NDArray[np.float64], bins: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    upper = np.append(edges[1:], edges[-1] * 2)
    return edges[bins] + (upper[bins] - edges[bins]) * rng.random(len(bins)) * 0.999


def _addresses(bucket: NDArray[np.int64], version: NDArray[np.int64], role: int) -> NDArray[np.uint8]:
    out = np.zeros((len(bucket), 16), np.uint8)
    is_4 = version == 4
    out[is_4, 10:14] = (255, 255, 10, role)
    out[~is_4, :2] = (0xFD, role)
    out[:, 14], out[:, 15] = 1 + bucket // 200, 1 + bucket % 200
    return out
