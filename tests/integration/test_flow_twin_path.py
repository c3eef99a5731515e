"""A table of flows goes in, its twin comes out: real workers, a model of a few steps, and tables that tools read."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from made_flows import LABELS, made_flows

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.flow_table_file import FlowTableWriter, preset_columns
from nsstream.clock import SystemClock
from nsstream.encode.address_map import AddressMap
from nsstream.encode.flow_codec import least_octets
from nsstream.errors import InputError, OutputError, ReplayError
from nsstream.pipeline import Progress, Stage, flow_twin
from nsstream.pipeline.by_hand import draw_flow_models
from nsstream.pipeline.flow_twin import FlowTwin, make_flow_twin, read_flows
from nsstream.pipeline.twin import TwinConfig
from nsstream.trace import FlowTable
from nsstream.trace.fields import TCP

FORM = PRESETS["cidds"]


def read(path: Path) -> tuple[FlowTable, FlowCsvSource]:
    given = read_flows(path)
    source = FlowCsvSource(path)
    source.open()
    source.close()
    return given.table, source


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "flows.csv"
    with path.open("wb") as file:
        FlowTableWriter(file, FORM, preset_columns(FORM)).write(made_flows(count=800))
    return path


def config_for(trace: Path, folder: Path, **settings: object) -> TwinConfig:
    defaults: dict[str, object] = {
        "trace": trace,
        "output": folder / "twin.csv",
        "state": folder / "twin.csv.state",
        "seed": 1,
        "address_map": AddressMap(bytes(32)),
        "budget_s": None,
        "steps": 40,
        "cores": 1,
    }
    return TwinConfig(**(defaults | settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FlowTwin, list[Progress]]:
    heard: list[Progress] = []
    config = config_for(trace, tmp_path_factory.mktemp("twin"))
    return make_flow_twin(config, heard.append, SystemClock()), heard


def test_the_twin_has_the_form_of_its_table(trace: Path, made: tuple[FlowTwin, list[Progress]]):
    twin, heard = made
    real, real_source = read(trace)
    drawn, source = read(twin.output)
    assert source.header == real_source.header
    assert twin.record_count == len(drawn)
    assert twin.real_count == len(real)
    assert len(drawn) == pytest.approx(len(real), rel=0.05)
    assert set(drawn.label_names) <= set(LABELS)
    assert [p.stage for p in heard if p.is_done] == [Stage.IMPORT, Stage.SEED, Stage.REPLAY, Stage.VERIFY]


def test_every_record_of_the_twin_is_lawful(trace: Path, made: tuple[FlowTwin, list[Progress]]):
    real, _ = read(trace)
    drawn, _ = read(made[0].output)
    assert (drawn.flow_start_ns <= drawn.flow_end_ns).all()
    assert (drawn.flow_start_ns >= real.flow_start_ns.min()).all()
    assert (drawn.flow_end_ns <= real.flow_end_ns.max()).all()
    assert (drawn.packet_delta_count > 0).all()
    assert (drawn.octet_delta_count >= drawn.packet_delta_count * least_octets(drawn).astype(np.uint64)).all()
    assert (drawn.octet_delta_count <= drawn.packet_delta_count * np.uint64(65_535)).all()
    assert not drawn.tcp_control_bits[drawn.protocol_identifier != TCP].any()
    assert set(drawn.protocol_identifier.tolist()) <= {6, 17}


def test_no_host_of_the_table_is_in_the_twin(trace: Path, made: tuple[FlowTwin, list[Progress]]):
    def hosts(table: FlowTable) -> set[bytes]:
        ends = np.concatenate([table.source_address, table.destination_address])
        return {row.tobytes() for row in ends}

    assert not hosts(read(trace)[0]) & hosts(read(made[0].output)[0])


def test_the_state_is_private_and_the_configuration_tells_no_key(made: tuple[FlowTwin, list[Progress]]):
    twin, _ = made
    key = twin.state / "address.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(twin.state.stat().st_mode) == 0o700
    told = json.loads(twin.config.read_text())
    assert told["form"] == "cidds"
    assert key.read_text().strip() not in twin.config.read_text()


def test_a_condition_is_kept(made: tuple[FlowTwin, list[Progress]], tmp_path: Path):
    (model,) = (made[0].state / "models").iterdir()
    counts = {}
    for name, condition in {
        "scans": {"label": "scan"},
        "twice": {"label": "scan", "scale": 2.0},
        "names": {"port": 53, "protocol": 17},
    }.items():
        path = tmp_path / f"{name}.csv"
        draw_flow_models(
            [model], path, form="cidds", condition=condition, seed=3, cores=1, replaces=False,
            listen=lambda progress: None, clock=SystemClock(),
        )  # fmt: skip
        table, _ = read(path)
        counts[name] = len(table)
        if name == "names":
            assert set(table.protocol_identifier.tolist()) == {17}
            assert ((table.source_transport_port == 53) | (table.destination_transport_port == 53)).all()
        else:
            assert table.label_names == ("scan",)
            assert table.label.all()
    assert counts["twice"] == pytest.approx(2 * counts["scans"], rel=0.3)


def test_what_the_model_has_not_is_refused(made: tuple[FlowTwin, list[Progress]], tmp_path: Path):
    (model,) = (made[0].state / "models").iterdir()
    with pytest.raises(ReplayError, match="no flows of the label 'worm'"):
        draw_flow_models(
            [model], tmp_path / "worm.csv", form="cidds", condition={"label": "worm"}, seed=3, cores=1,
            replaces=False, listen=lambda progress: None, clock=SystemClock(),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_large_table_is_learned_in_chunks(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow_twin, "CHUNK_RECORDS", 300)
    heard: list[Progress] = []
    made = make_flow_twin(config_for(trace, tmp_path, steps=12), heard.append, SystemClock())
    drawn, _ = read(made.output)
    assert made.chunk_count == 3
    assert len(drawn) == pytest.approx(made.real_count, rel=0.05)
    assert [p.stage for p in heard if p.is_done and p.stage is Stage.FINE_TUNE] == [Stage.FINE_TUNE] * 2
    parents = [json.loads(path.read_text())["parent"] for path in made.state.glob("models/*/manifest.json")]
    assert sum(parent is None for parent in parents) == 1
    assert len(set(parents)) == 2


def test_a_capture_is_no_name_for_flows(trace: Path, tmp_path: Path):
    with pytest.raises(OutputError, match=r"ends in \.csv"):
        make_flow_twin(config_for(trace, tmp_path, output=tmp_path / "twin.pcap"), lambda p: None, SystemClock())
    assert not list(tmp_path.iterdir())


def test_an_empty_table_is_refused(tmp_path: Path):
    path = tmp_path / "empty.csv"
    path.write_text("ts_first,duration,proto,src_ip,dst_ip,src_port,dst_port,packets,bytes\n")
    with pytest.raises(InputError, match="holds no flow"):
        make_flow_twin(config_for(path, tmp_path), lambda p: None, SystemClock())
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_learns_no_flows_is_refused_by_name(trace: Path, tmp_path: Path):
    with pytest.raises(InputError, match="flows are learned by the model 'autoregressive' alone, got 'doppelganger'"):
        make_flow_twin(config_for(trace, tmp_path, model="doppelganger"), lambda _: None, SystemClock())
    assert list(tmp_path.iterdir()) == []
