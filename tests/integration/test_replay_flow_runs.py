"""Models of flows through the real replay server: to CSV, to nfcapd's files, and to nfcapd itself."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from collectors import collect_with_nfcapd, facts_of_nfcapd
from made_flows import START_NS, made_flows
from nfdump_tools import NEEDS_NFDUMP

from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.errors import ReplayError
from nsstream.model.flow_checkpoint import new_flow_networks, save_flow_checkpoint, show_chunk
from nsstream.replay import RefusedError, ReplayClient, spawn_server
from nsstream.trace import FlowTable

CHUNK_NS = 700 * 10**9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of flows that has learned nothing: its records are lawful, and wild."""
    torch.manual_seed(3)
    codec = FlowCodec.fit(group_flows(made_flows(count=300)), START_NS, START_NS + CHUNK_NS)
    networks = new_flow_networks()
    show_chunk(networks, codec)
    return save_flow_checkpoint(tmp_path_factory.mktemp("models"), networks, codec, {"parent": None})


@pytest.fixture(scope="module")
def client() -> Iterator[ReplayClient]:
    with spawn_server() as client:
        yield client


def test_the_same_records_come_to_csv_and_to_nfcapds_files(client: ReplayClient, model: Path, tmp_path: Path) -> None:
    client.start([model], {"kind": "csv", "path": tmp_path / "flows.csv"}, seed=5)
    done = client.wait()
    assert done.state == "done", done.error
    with (tmp_path / "flows.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    ends = [int(row["flow_end_ns"]) for row in rows]
    assert len(rows) == done.counters["flows_written"] > 100
    assert ends == sorted(ends)
    assert START_NS <= ends[0] <= ends[-1] < START_NS + CHUNK_NS
    assert done.packets_written == sum(
        int(row["packet_delta_count"]) + int(row["reverse_packet_delta_count"]) for row in rows
    )
    client.start([model], {"kind": "nfcapd", "path": tmp_path / "flows"}, seed=5)
    assert client.wait().counters["flows_written"] == len(rows)
    source = NfcapdFileSource(tmp_path / "flows")
    source.open()
    table = FlowTable.concatenate(list(iter(source.read_batch, None)))
    source.close()
    assert sorted((table.flow_end_ns // 10**6).tolist()) == [end // 10**6 for end in ends]


@NEEDS_NFDUMP
@pytest.mark.parametrize("version", [5, 9, 10])
def test_nfcapd_receives_every_record_of_two_passes(
    client: ReplayClient, model: Path, tmp_path: Path, version: int
) -> None:
    def send(port: int) -> None:
        sink = {
            "kind": "netflow", "address": "127.0.0.1", "port": port, "version": version, "datagrams_per_s": 2000.0,
        }  # fmt: skip
        client.start([model], sink, seed=6, loop=2)
        assert client.wait().state == "done"

    facts = facts_of_nfcapd(collect_with_nfcapd(tmp_path / "nfcapd", send))
    status = client.status()
    assert facts["Sequence failures"] == 0
    assert facts["Flows"] == status.counters["flows_sent"] == status.counters["flows"]
    assert facts["Packets"] == status.packets_written
    assert facts["Bytes"] == status.octets_written
    assert status.chunk == status.chunk_count == 2


def test_what_only_frames_have_is_refused_at_once(client: ReplayClient, model: Path, tmp_path: Path) -> None:
    sink = {"kind": "csv", "path": tmp_path / "flows.csv"}
    for arguments, code, sentence in (
        ({"sink": {"kind": "pcap", "path": tmp_path / "t.pcap"}}, "sink", "pcap: takes frames, and a model of flows"),
        ({"payload": "zero"}, "invalid", "payload: a model of flows draws no frames"),
        ({"scenario": {"attack": {"model": str(model), "share": 0.1}}}, "invalid", "scenario.attack: a model of flows"),
    ):
        with pytest.raises(RefusedError, match=f"^{sentence}") as refused:
            client.start([model], **{"sink": sink, **arguments})
        assert refused.value.code == code
    client.start({"kind": "mix", "parts": [{"model": str(model)}]}, sink)
    with pytest.raises(ReplayError, match="is a model of flows, and a mix is of models of packets"):
        client.wait()
