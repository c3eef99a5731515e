"""Laws of our exports: what our own decoder reads is what was exported, and sequence numbers never show a gap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_exports import EXPORTER

from nsstream.trace import FlowTable
from nsstream.trace.directions import split_directions
from nsstream.wire.netflow import ExportDecoder
from nsstream.wire.netflow.export import Datagrams, FlowExporter

NOW_NS = 1_800_000_000_123_456_789
MS = 1_000_000
SAME = [
    "ip_version", "source_address", "destination_address", "protocol_identifier", "source_transport_port",
    "destination_transport_port", "icmp_type_code", "packet_delta_count", "octet_delta_count", "tcp_control_bits",
    "ip_class_of_service", "ingress_interface", "egress_interface", "bgp_source_as_number",
    "bgp_destination_as_number", "source_prefix_length", "destination_prefix_length", "ip_next_hop_address",
]  # fmt: skip
NOT_IN_V5 = ["flow_end_reason", "flow_direction", "vlan_id"]


def flows_from(rng, n, *, is_v5=False):
    """Flows of all kinds that a version can carry whole."""
    version = np.full(n, 4, np.uint8) if is_v5 else rng.choice(np.array([4, 6], np.uint8), n)
    is_ipv4 = version == 4
    protocol = np.where(rng.random(n) < 0.3, np.where(is_ipv4, 1, 58), rng.choice([6, 17, 47], n)).astype(np.uint8)
    is_icmp = (protocol == 1) | (protocol == 58)
    small = 16 if is_v5 else 32
    end = NOW_NS - rng.integers(0, 3000 * 10**9, n)
    packets = rng.integers(1, 2**31, n).astype(np.uint64)

    def addresses():
        octets = rng.integers(0, 256, (n, 16), np.uint8)
        octets[is_ipv4, :12] = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
        octets[:, 15] |= 1
        return octets

    return FlowTable.from_columns(
        {
            "flow_start_ns": end - rng.integers(0, 10**12, n),
            "flow_end_ns": end,
            "ip_version": version,
            "source_address": addresses(),
            "destination_address": addresses(),
            "ip_next_hop_address": addresses(),
            "protocol_identifier": protocol,
            "source_transport_port": np.where(is_icmp, 0, rng.integers(0, 65536, n)).astype(np.uint16),
            "destination_transport_port": np.where(is_icmp, 0, rng.integers(0, 65536, n)).astype(np.uint16),
            "icmp_type_code": np.where(is_icmp, rng.integers(0, 65536, n), 0).astype(np.uint16),
            "packet_delta_count": packets,
            "octet_delta_count": (packets * np.uint64(1) if is_v5 else packets * np.uint64(1500)),
            "tcp_control_bits": np.where(protocol == 6, rng.integers(0, 256, n), 0).astype(np.uint16),
            "ip_class_of_service": rng.integers(0, 256, n, np.uint8),
            "flow_end_reason": rng.integers(0, 6, n, np.uint8),
            "flow_direction": rng.choice(np.array([0, 1, 255], np.uint8), n),
            "ingress_interface": rng.integers(0, 2**small, n, np.uint32),
            "egress_interface": rng.integers(0, 2**small, n, np.uint32),
            "bgp_source_as_number": rng.integers(0, 2**small, n, np.uint32),
            "bgp_destination_as_number": rng.integers(0, 2**small, n, np.uint32),
            "source_prefix_length": rng.integers(0, 33, n, np.uint8),
            "destination_prefix_length": rng.integers(0, 33, n, np.uint8),
            "vlan_id": rng.integers(0, 4096, n).astype(np.uint16),
        }
    )


def decode(parts, decoder=None):
    decoder = decoder or ExportDecoder(max_clock_error_s=1e9)
    tables = []
    for part in parts:
        n = len(part)
        exporters = np.tile(np.frombuffer(EXPORTER, np.uint8), (n, 1))
        tables.append(decoder.decode(part.octets, part.offset, exporters, np.full(n, NOW_NS, np.int64)))
        decoder.tally.check()
    return FlowTable.concatenate(tables), decoder


def sorted_rows(table, names, unit_ns):
    is_icmp = (table.protocol_identifier == 1) | (table.protocol_identifier == 58)
    told = table.columns()  # collectors look for type and code of ICMP in the port
    told["destination_transport_port"] = np.where(is_icmp, table.icmp_type_code, table.destination_transport_port)
    columns = [(table.flow_start_ns // unit_ns).tolist(), (table.flow_end_ns // unit_ns).tolist()]
    columns += [list(map(str, told[name])) for name in names]
    return sorted(zip(*columns, strict=True))


@pytest.mark.parametrize(
    ("version", "unit", "unit_ns"),
    [(5, "milliseconds", MS), (9, "milliseconds", MS), (10, "milliseconds", MS), (10, "nanoseconds", 1)],
)
@given(
    sizes=st.lists(st.integers(0, 90), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    room=st.integers(512, 9000),
    uptime_s=st.integers(4000, 2**33 // 1000),  # beyond the wrap of 32 bits, too
    refresh=st.integers(1, 30),
)
@settings(max_examples=15, deadline=None)
def test_what_is_decoded_is_what_was_exported(version, unit, unit_ns, sizes, seed, room, uptime_s, refresh):
    rng = np.random.default_rng(seed)
    tables = [flows_from(rng, n, is_v5=version == 5) for n in sizes]
    exporter = FlowExporter(
        version,
        NOW_NS - uptime_s * 10**9,
        observation_domain_id=515,
        max_datagram_bytes=room,
        template_refresh_packets=refresh,
        time_unit=unit,
    )
    parts = []
    for table in tables:
        parts.append(exporter.export(table, NOW_NS))
        parts.append(exporter.flush(NOW_NS) if rng.random() < 0.5 else Datagrams.joined([]))
    parts.append(exporter.flush(NOW_NS))
    assert exporter.waiting_count == 0
    assert all(np.diff(part.offset).max(initial=0) <= room for part in parts)
    assert sum(int(part.flow_count.sum()) for part in parts) == sum(sizes)
    came, decoder = decode(parts)
    names = SAME + ([] if version == 5 else NOT_IN_V5)
    assert sorted_rows(came, names, unit_ns) == sorted_rows(FlowTable.concatenate(tables), names, unit_ns)
    assert not came.time_quality.any()
    assert set(came.observation_domain_id.tolist()) <= {515}
    for statistics in decoder.exporters:
        assert (statistics.estimated_lost, statistics.sequence_resets) == (0, 0)
        assert statistics.datagrams == sum(map(len, parts))


@pytest.mark.parametrize("version", [5, 9, 10])
@given(seed=st.integers(0, 2**32), lost=st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_a_lost_datagram_shows_in_the_sequence_as_the_version_counts(version, seed, lost):
    rng = np.random.default_rng(seed)
    exporter = FlowExporter(version, NOW_NS - 10**13, template_refresh_packets=100)
    part = exporter.export(flows_from(rng, 3000, is_v5=version == 5), NOW_NS)
    is_kept = np.ones(len(part), np.bool_)
    is_kept[lost] = False  # not the first, which has the templates
    kept = Datagrams.joined([(np.frombuffer(part.datagram(i), np.uint8)[None], part.flow_count[i : i + 1])
                             for i in np.flatnonzero(is_kept).tolist()])  # fmt: skip
    came, decoder = decode([kept])
    (statistics,) = decoder.exporters
    assert statistics.estimated_lost == (1 if version == 9 else int(part.flow_count[lost]))
    assert len(came) == int(part.flow_count[is_kept].sum())


@pytest.mark.parametrize("version", [5, 9, 10])
@given(interval=st.integers(2, 0x3FFF))
@settings(max_examples=20, deadline=None)
def test_the_sampling_is_told(version, interval):
    rng = np.random.default_rng(interval)
    exporter = FlowExporter(version, NOW_NS - 10**13, sampling_interval=interval, template_refresh_packets=2)
    table = flows_from(rng, 200, is_v5=version == 5)
    columns = table.columns() | {"sampling_interval": np.full(200, interval, np.uint32)}
    came, decoder = decode([exporter.export(FlowTable.from_columns(columns), NOW_NS), exporter.flush(NOW_NS)])
    assert set(came.sampling_interval.tolist()) == {interval}
    assert sorted_rows(came, SAME, MS) == sorted_rows(table, SAME, MS)
    assert decoder.exporters[0].estimated_lost == 0


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_directions_split_and_counts_stay(seed):
    rng = np.random.default_rng(seed)
    table = flows_from(rng, 40)
    columns = table.columns()
    columns["reverse_packet_delta_count"] = rng.integers(0, 3, 40).astype(np.uint64)
    columns["reverse_octet_delta_count"] = columns["reverse_packet_delta_count"] * np.uint64(60)
    columns["packet_delta_count"] = np.where(
        columns["reverse_packet_delta_count"] > 0, rng.integers(0, 2, 40), 1
    ).astype(np.uint64)
    table = FlowTable.from_columns(columns)
    split = split_directions(table)
    assert not split.reverse_packet_delta_count.any()
    assert split.packet_delta_count.sum() == table.scaled_packet_count.sum()
    is_reverse = table.reverse_packet_delta_count > 0
    assert len(split) == int((table.packet_delta_count > 0).sum() + is_reverse.sum())
    both = split_directions(split)
    assert both is split
    for name, swapped in (("source_address", "destination_address"), ("ingress_interface", "egress_interface")):
        of_reverse = getattr(table, swapped)[is_reverse]
        assert np.isin(of_reverse.reshape(len(of_reverse), -1), getattr(split, name)).all()
