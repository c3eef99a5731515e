"""Files of flows beside their rules: rotation, a full disk, an abort, counts that add up."""

import subprocess

import numpy as np
import pytest

from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.errors import InputError, OutputError
from nsstream.replay.registry import check_sink, make_sink
from nsstream.replay.sink import SinkContext, TakesFlows, check_counters
from nsstream.trace import FlowTable

START_NS = 1_700_000_000 * 10**9  # 2023-11-14 22:13:20 UTC


def flows_ending_at(*seconds):
    n = len(seconds)
    end = START_NS + np.array(seconds, np.int64) * 10**9
    addresses = np.tile(np.frombuffer(bytes(10) + b"\xff\xff\xc0\0\2\1", np.uint8), (n, 1))
    return FlowTable.from_columns(
        {
            "flow_start_ns": end - 10**9,
            "flow_end_ns": end,
            "ip_version": np.full(n, 4, np.uint8),
            "source_address": addresses,
            "destination_address": addresses,
            "protocol_identifier": np.full(n, 17, np.uint8),
            "packet_delta_count": np.arange(1, n + 1, dtype=np.uint64),
            "octet_delta_count": np.full(n, 100, np.uint64),
        }
    )


def packets_in(path):
    source = NfcapdFileSource(path)
    source.open()
    counts = []
    while (table := source.read_batch()) is not None:
        counts += table.packet_delta_count.tolist()
    source.close()
    return counts


def sink_to(path, **fields):
    sink = make_sink({"kind": "nfcapd", "path": str(path), **fields}, SinkContext())
    assert isinstance(sink, TakesFlows)
    return sink


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_file_holds_what_ended_in_its_interval(tmp_path, size):
    table = flows_ending_at(0, 39, 40, 30, 99, 100, 400)  # 40 s behind the start a minute begins
    sink = sink_to(tmp_path, rotate_s=60)
    sink.open()
    for start in range(0, len(table), size):
        sink.write_flows(table.take(slice(start, start + size)))
        check_counters(sink.counters)
    sink.close()
    check_counters(sink.counters)
    assert (sink.counters["flows_written"], sink.counters["files"]) == (7, 4)
    assert {path.name: packets_in(path) for path in tmp_path.iterdir()} == {
        "nfcapd.202311142213": [1, 2],
        "nfcapd.202311142214": [3, 4, 5],  # the fourth came late, and stays behind those before it
        "nfcapd.202311142215": [6],
        "nfcapd.202311142220": [7],
    }


def test_a_file_is_there_once_nothing_of_its_interval_can_come(tmp_path):
    sink = sink_to(tmp_path, rotate_s=60)
    sink.open()
    sink.write_flows(flows_ending_at(0))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("nfcapd.")]
    sink.tick(START_NS + 54 * 10**9)  # the minute ends behind 40 s, and a flow goes on for 15 s at most
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("nfcapd.")]
    sink.tick(START_NS + 55 * 10**9)
    assert {path.name: packets_in(path) for path in tmp_path.iterdir()} == {"nfcapd.202311142213": [1]}
    sink.write_flows(flows_ending_at(30, 60))  # the first is too late for its file
    sink.close()
    check_counters(sink.counters)
    assert packets_in(tmp_path / "nfcapd.202311142214") == [1, 2]


def test_names_have_seconds_where_the_interval_is_no_whole_minute(tmp_path):
    sink = make_sink({"kind": "csv", "path": str(tmp_path), "rotate_s": 10}, SinkContext())
    sink.open()
    sink.write_flows(flows_ending_at(0, 10))
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flows.20231114221320.csv", "flows.20231114221330.csv"]
    assert (tmp_path / "flows.20231114221320.csv").read_text().count("\n") == 2


def test_an_abort_keeps_the_files_that_are_whole(tmp_path):
    sink = sink_to(tmp_path, rotate_s=60)
    sink.open()
    sink.write_flows(flows_ending_at(0, 40, 41))
    sink.abort()
    check_counters(sink.counters)
    assert (sink.counters["flows_written"], sink.counters["flows_undone"]) == (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["nfcapd.202311142213"]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["nfcapd", "csv"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, kind):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], check=True)
    try:
        sink = make_sink({"kind": kind, "path": str(tmp_path / "flows")}, SinkContext())
        sink.open()
        with pytest.raises(OutputError, match="flows: no space is left on the device"):
            fill(sink)
        sink.abort()
        check_counters(sink.counters)
        assert sink.counters["flows_written"] == 0
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def fill(sink):
    for _ in range(10):
        sink.write_flows(flows_ending_at(*range(2000)))
    sink.close()


def test_timeouts_out_of_order_and_paths_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"sink\.nfcapd: .*idle_timeout_s"):
        check_sink({"kind": "nfcapd", "path": "/x", "active_timeout_s": 1.0, "idle_timeout_s": 2.0})
    with pytest.raises(OutputError, match="directory does not exist"):
        sink_to(tmp_path / "none", rotate_s=60)
    (tmp_path / "flows").touch()
    with pytest.raises(OutputError, match="exists already"):
        sink_to(tmp_path / "flows")
