"""Our exports octet by octet, where a property test would not look: headers, limits of v5, refresh, arguments."""

import struct

import numpy as np
import pytest

from nsstream.trace import FlowTable
from nsstream.wire.netflow.export import FlowExporter
from nsstream.wire.netflow.export_layouts import ExportColumns, encode_v5_records, fit_counters, layouts

NOW_NS = 1_700_000_000 * 10**9 + 250_000_000
BOOT_NS = NOW_NS - 100 * 10**9


def flows(n=1, **columns):
    given = {
        "flow_start_ns": np.full(n, NOW_NS - 3 * 10**9, np.int64),
        "flow_end_ns": np.full(n, NOW_NS - 10**9, np.int64),
        "ip_version": np.full(n, 4, np.uint8),
        "packet_delta_count": np.full(n, 2, np.uint64),
        "octet_delta_count": np.full(n, 80, np.uint64),
    }
    return FlowTable.from_columns(given | columns)


def test_a_v5_datagram_is_as_cisco_describes_it():
    exporter = FlowExporter(5, BOOT_NS, observation_domain_id=0x0102, sampling_interval=100, max_datagram_bytes=1472)
    columns = {"sampling_interval": np.full(31, 100, np.uint32)}
    full = exporter.export(flows(31, **columns), NOW_NS)
    rest = exporter.flush(NOW_NS)
    assert [len(full), len(rest), full.flow_count[0], rest.flow_count[0]] == [1, 1, 30, 1]
    for datagram, count, sequence in ((full.datagram(0), 30, 0), (rest.datagram(0), 1, 30)):
        assert len(datagram) == 24 + 48 * count
        assert struct.unpack_from("!HHIIIIBBH", datagram) == (
            5, count, 101_000, 1_700_000_001, 0, sequence, 1, 2, 1 << 14 | 100,
        )  # fmt: skip
    first, last = struct.unpack_from("!II", full.datagram(0), 24 + 24)
    assert (first, last) == (97_250, 99_250)  # the system began at a whole second


@pytest.mark.parametrize(("version", "header"), [(9, 20), (10, 16)])
def test_templates_come_first_and_again_after_so_many_datagrams_or_so_long(version, header):
    exporter = FlowExporter(version, BOOT_NS, template_refresh_packets=2, template_refresh_s=60, max_datagram_bytes=512)
    template_set = 0 if version == 9 else 2

    def sets(part):
        return [struct.unpack_from("!H", part.datagram(i), header)[0] for i in range(len(part))]

    per = (512 - header - 4) // layouts(version)[0].record_bytes
    assert sets(exporter.export(flows(5 * per), NOW_NS)) == [template_set, 256, 256] * 2 + [template_set, 256]
    assert sets(exporter.export(flows(per), NOW_NS + 59 * 10**9)) == [256]
    exporter = FlowExporter(version, BOOT_NS, template_refresh_packets=1000, template_refresh_s=60)
    assert sets(_one(exporter, NOW_NS)) == [template_set, 256]
    assert sets(_one(exporter, NOW_NS + 59 * 10**9)) == [256]
    assert sets(_one(exporter, NOW_NS + 60 * 10**9)) == [template_set, 256]
    assert sets(_one(exporter, NOW_NS)) == [template_set, 256]  # the clock stepped back


def _one(exporter, now_ns):
    assert len(exporter.export(flows(), now_ns)) == 0  # waits for its datagram to fill
    assert exporter.waiting_count == 1
    return exporter.flush(now_ns)


def test_a_v9_header_counts_records_of_all_kinds_and_an_ipfix_one_octets():
    v9 = FlowExporter(9, BOOT_NS, sampling_interval=10)
    part = [v9.export(flows(3), NOW_NS), v9.flush(NOW_NS)][1]
    counts = [struct.unpack_from("!HH", part.datagram(i)) for i in range(2)]
    assert counts == [(9, 6), (9, 3)]  # four templates, one of options, one record of options
    assert all(len(part.datagram(i)) % 4 == 0 for i in range(2))
    ipfix = FlowExporter(10, BOOT_NS, sampling_interval=10)
    part = [ipfix.export(flows(3), NOW_NS), ipfix.flush(NOW_NS)][1]
    assert [struct.unpack_from("!HHII", part.datagram(i)) for i in range(2)] == [
        (10, len(part.datagram(0)), 1_700_000_001, 0),
        (10, len(part.datagram(1)), 1_700_000_001, 1),  # the record of options is a data record
    ]


@pytest.mark.parametrize("version", [5, 9, 10])
def test_no_datagram_is_longer_than_it_may_be(version):
    for most in range(1000, 1480):
        exporter = FlowExporter(version, BOOT_NS, max_datagram_bytes=most, template_refresh_packets=1000)
        lengths = np.diff(exporter.export(flows(60), BOOT_NS).offset)
        assert lengths.max() <= most
        assert version == 5 or lengths.max() > most - 3 * 72


def test_counts_beyond_32_bits_become_records_that_add_up():
    table = flows(3, octet_delta_count=np.array([80, 2**32 - 1, 10**11], np.uint64),
                  packet_delta_count=np.array([2, 3, 10**8], np.uint64))  # fmt: skip
    fitted = fit_counters(table)
    assert len(fitted) == 2 + -(-(10**11) // (2**32 - 1))
    assert int(fitted.octet_delta_count.max()) < 2**32
    assert int(fitted.octet_delta_count.sum()) == int(table.octet_delta_count.sum())
    assert int(fitted.packet_delta_count.sum()) == int(table.packet_delta_count.sum())
    assert fit_counters(fitted) is fitted
    exporter = FlowExporter(5, BOOT_NS)
    exporter.export(table, NOW_NS)
    assert exporter.record_count == len(fitted)


def test_what_v5_has_16_bits_for_and_does_not_fit_is_told_to_be_unknown():
    columns = {"bgp_source_as_number": np.array([64_512, 70_000], np.uint32),
               "ingress_interface": np.array([65_535, 65_536], np.uint32)}  # fmt: skip
    records = encode_v5_records(ExportColumns(flows(2, **columns), BOOT_NS))
    assert [struct.unpack_from("!H", row.tobytes(), 40)[0] for row in records] == [64_512, 23_456]
    assert [struct.unpack_from("!H", row.tobytes(), 12)[0] for row in records] == [65_535, 0]


def test_flows_that_were_sampled_in_another_way_are_scaled():
    columns = {"sampling_interval": np.array([1, 100, 1000], np.uint32)}
    exporter = FlowExporter(5, BOOT_NS, sampling_interval=100)
    exporter.export(flows(3, **columns), NOW_NS)
    datagram = exporter.flush(NOW_NS).datagram(0)
    counts = [struct.unpack_from("!II", datagram, 24 + 48 * i + 16) for i in range(3)]
    assert counts == [(1, 1), (2, 80), (20, 800)]


@pytest.mark.parametrize(
    ("version", "fields", "sentence"),
    [
        (8, {}, "version"),
        (10, {"max_datagram_bytes": 511}, "max_datagram_bytes"),
        (5, {"observation_domain_id": 65_536}, "observation_domain_id"),
        (5, {"sampling_interval": 16_384}, "sampling_interval"),
        (9, {"template_refresh_packets": 0}, "refreshed"),
    ],
)
def test_arguments_out_of_bounds_are_refused(version, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        FlowExporter(version, BOOT_NS, **fields)
