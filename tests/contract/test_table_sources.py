"""The rules of `capture.source`, held to every source of flows that reads a file: one line of SOURCES each."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flow_tables import ZEEK_HEADER
from nfcapd_files import block, file_of, flow

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.capture.source import Source
from nsstream.errors import InputError
from nsstream.trace import FlowTable

TableSource = Source[FlowTable]

FLOWS = 500
START_MS = 1_700_000_000_000
STARTS_NS = (START_MS + np.arange(FLOWS, dtype=np.int64)) * 1_000_000
MILLISECONDS = [START_MS + k for k in range(FLOWS)]
PLAIN = "ts_first,duration,proto,src_ip,dst_ip,src_port,dst_port,packets,bytes\n" + "".join(
    f"{ms / 1000:.3f},0.005,6,192.0.2.1,198.51.100.2,1025,443,3,300\n" for ms in MILLISECONDS
)


def nfcapd_file(directory: Path) -> TableSource:
    records = [flow(first=ms, last=ms + 5) for ms in MILLISECONDS]
    path = directory / "nfcapd.202601010000"
    path.write_bytes(
        file_of(*(block(*records[at : at + 100], compression="lzo") for at in range(0, FLOWS, 100)), compression="lzo")
    )
    return NfcapdFileSource(path)


def csv_file(directory: Path) -> TableSource:
    path = directory / "flows.csv"
    path.write_text(PLAIN)
    return FlowCsvSource(path, block_bytes=4096)


def csv_file_xz(directory: Path) -> TableSource:
    path = directory / "flows.csv.xz"
    path.write_bytes(lzma.compress(PLAIN.encode()))
    return FlowCsvSource(path, mapping=PRESETS["plain"])


def zeek_log(directory: Path) -> TableSource:
    path = directory / "conn.log"
    path.write_text(
        ZEEK_HEADER
        + "".join(
            f"{ms / 1000:.6f}\tC{ms}\t192.0.2.1\t1025\t198.51.100.2\t443\ttcp\t-\t0.005\t"
            "-\t-\tS1\tF\tF\t0\tShA\t3\t300\t0\t0\t-\n"
            for ms in MILLISECONDS
        )
    )
    return FlowCsvSource(path, block_bytes=4096)


def zeek_json(directory: Path) -> TableSource:
    path = directory / "conn.json"
    path.write_text(
        "".join(
            f'{{"ts":{ms / 1000:.6f},"id.orig_h":"192.0.2.1","id.orig_p":1025,"id.resp_h":"198.51.100.2",'
            '"id.resp_p":443,"proto":"tcp","duration":0.005,"orig_pkts":3,"orig_ip_bytes":300}\n'
            for ms in MILLISECONDS
        )
    )
    return FlowCsvSource(path, block_bytes=4096)


def missing_nfcapd_file(directory: Path) -> TableSource:
    return NfcapdFileSource(directory / "nowhere")


def missing_csv_file(directory: Path) -> TableSource:
    return FlowCsvSource(directory / "nowhere.csv")


def csv_file_as_nfcapd(directory: Path) -> TableSource:
    path = directory / "flows.csv"
    path.write_text(PLAIN)
    return NfcapdFileSource(path)


def directory_as_csv(directory: Path) -> TableSource:
    return FlowCsvSource(directory)


SOURCES = [nfcapd_file, csv_file, csv_file_xz, zeek_log, zeek_json]
BROKEN_SOURCES = [missing_nfcapd_file, missing_csv_file, csv_file_as_nfcapd, directory_as_csv]


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> TableSource:
    make: Callable[[Path], TableSource] = request.param
    return make(tmp_path)


def test_source_is_inert_until_open(source: TableSource) -> None:
    assert source.tally.offered == 0
    with pytest.raises(RuntimeError):
        source.read_batch()
    source.close()
    source.close()


def test_batches_hold_every_flow_in_order_and_none_is_empty(source: TableSource) -> None:
    source.open()
    batches = []
    while (batch := source.read_batch()) is not None:
        assert len(batch) > 0
        batches.append(batch)
    source.close()
    flows = FlowTable.concatenate(batches)
    np.testing.assert_array_equal(flows.flow_start_ns, STARTS_NS)
    np.testing.assert_array_equal(flows.flow_end_ns, STARTS_NS + 5_000_000)
    assert set(flows.packet_delta_count) == {3}


def test_end_is_the_end_for_good(source: TableSource) -> None:
    source.open()
    while source.read_batch() is not None:
        pass
    assert source.read_batch() is None
    source.close()
    assert source.read_batch() is None


def test_tally_adds_up_after_every_call(source: TableSource) -> None:
    source.open()
    kept = 0
    while (batch := source.read_batch()) is not None:
        kept += len(batch)
        source.tally.check()
        assert source.tally.kept >= kept
    source.close()
    source.tally.check()
    assert source.tally.offered == source.tally.kept == kept == FLOWS


def test_source_may_be_closed_in_the_middle_and_opened_again(source: TableSource) -> None:
    source.open()
    source.read_batch()
    source.close()
    source.close()
    source.tally.check()
    source.open()
    batch = source.read_batch()
    assert batch is not None
    assert batch.flow_start_ns[0] == STARTS_NS[0]
    source.close()


@pytest.mark.parametrize("make", BROKEN_SOURCES)
def test_source_that_cannot_be_opened_says_so_in_one_sentence(
    make: Callable[[Path], TableSource], tmp_path: Path
) -> None:
    source = make(tmp_path)
    with pytest.raises(InputError) as caught:
        source.open()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    source.close()
