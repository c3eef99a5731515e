"""Laws of the files that we write for nfdump: what our reader makes of one is what was written, however it came."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_netflow_export_laws import SAME, flows_from

from nsstream.trace import FlowTable
from nsstream.wire.nfcapd import NfcapdReader
from nsstream.wire.nfcapd_writer import NfcapdWriter

MS = 1_000_000
COLUMNS = [*SAME, "flow_end_reason", "vlan_id", "reverse_packet_delta_count", "reverse_octet_delta_count",
           "reverse_tcp_control_bits", "observation_domain_id"]  # fmt: skip


def flows_both_ways(rng, n):
    """Flows of all kinds, some of both directions, in whole milliseconds, of one engine."""
    columns = flows_from(rng, n).columns()
    for name in ("flow_start_ns", "flow_end_ns"):
        columns[name] = columns[name] // MS * MS
    is_both = rng.random(n) < 0.3
    columns["reverse_packet_delta_count"] = np.where(is_both, rng.integers(1, 2**40, n), 0).astype(np.uint64)
    columns["reverse_octet_delta_count"] = columns["reverse_packet_delta_count"] * np.uint64(40)
    columns["reverse_tcp_control_bits"] = np.where(is_both, rng.integers(0, 256, n), 0).astype(np.uint16)
    columns["observation_domain_id"] = rng.integers(0, 65536, n).astype(np.uint32)
    return FlowTable.from_columns(columns)


def file_of(tables):
    writer = NfcapdWriter(1_700_000_000, "test")
    octets = writer.begin() + b"".join(map(writer.write, tables))
    rest, header = writer.finish()
    return header + octets[len(header) :] + rest


def read(octets):
    reader = NfcapdReader()
    columns = reader.feed(octets)
    reader.finish()
    reader.tally.check()
    return FlowTable.concatenate([FlowTable.from_columns(one) for one in columns]), reader


@given(sizes=st.lists(st.integers(0, 120), max_size=4), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_what_is_read_is_what_was_written(sizes, seed):
    rng = np.random.default_rng(seed)
    tables = [flows_both_ways(rng, n) for n in sizes]
    whole = FlowTable.concatenate(tables)
    octets = file_of(tables)
    assert octets == file_of([whole])  # however the flows came
    came, reader = read(octets)
    assert (reader.tally.kept, reader.tally.offered) == (len(whole), len(whole))
    assert reader.header.appendix_block_count == 1
    for name in ("flow_start_ns", "flow_end_ns", *COLUMNS):
        assert np.array_equal(getattr(came, name), getattr(whole, name)), name


def test_a_large_file_has_blocks_that_nfdump_takes():
    table = flows_both_ways(np.random.default_rng(3), 20_000)
    octets = file_of([table.take(slice(k, k + 777)) for k in range(0, 20_000, 777)])
    came, reader = read(octets)
    assert reader.header.block_count > 2
    assert np.array_equal(came.octet_delta_count, table.octet_delta_count)


def test_counts_of_sampled_flows_are_scaled():
    columns = flows_from(np.random.default_rng(4), 10).columns()
    columns["sampling_interval"] = np.full(10, 100, np.uint32)
    came, _ = read(file_of([FlowTable.from_columns(columns)]))
    assert np.array_equal(came.packet_delta_count, columns["packet_delta_count"] * np.uint64(100))
