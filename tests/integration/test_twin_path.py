"""The whole path but for learning: real import, chunks, child processes, replay server, assembly and verification."""

import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from made_captures import write_capture
from scapy.utils import RawPcapReader

from nsstream.capture import read_trace
from nsstream.chunk import ChunkStore
from nsstream.clock import SystemClock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, OutputError, ReplayError, TrainError
from nsstream.pipeline import Progress, Stage
from nsstream.pipeline.twin import Twin, TwinConfig, make_twin
from nsstream.wire.pcapng_writer import pcapng_header, write_packet_blocks

HERE = Path(__file__).parent
ECHO_WORKER = (sys.executable, str(HERE / "echo_worker.py"))
ECHO_SERVER = (sys.executable, str(HERE / "echo_server.py"))


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("trace") / "trace.pcap")


def config_for(trace: Path, folder: Path, **settings: object) -> TwinConfig:
    defaults: dict[str, object] = {
        "trace": trace,
        "output": folder / "twin.pcap",
        "state": folder / "twin.pcap.state",
        "seed": 1,
        "address_map": AddressMap(bytes(32)),
        "chunk_length_s": 30,
        "worker": ECHO_WORKER,
        "replay_server": ECHO_SERVER,
    }
    return TwinConfig(**(defaults | settings))  # type: ignore[arg-type]


def run(config: TwinConfig) -> tuple[Twin, list[Progress]]:
    heard: list[Progress] = []
    return make_twin(config, heard.append, SystemClock()), heard


def test_a_trace_goes_in_and_its_twin_comes_out(trace: Path, tmp_path: Path):
    twin, heard = run(config_for(trace, tmp_path))
    real, synthetic = read_trace(trace)[0], read_trace(twin.output)[0]
    assert len(synthetic) == len(real) == twin.packet_count == twin.real_packet_count
    assert twin.chunk_count == 3
    assert twin.verification.fault_count == {}
    assert [p.stage for p in heard if p.is_done] == [
        Stage.IMPORT,
        Stage.SEED,
        Stage.FINE_TUNE,
        Stage.FINE_TUNE,
        Stage.REPLAY,
        Stage.VERIFY,
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["twin.pcap", "twin.pcap.config.json", "twin.pcap.state"]


def test_a_model_that_is_not_there_is_refused(trace: Path, tmp_path: Path):
    with pytest.raises(InputError, match="must be one of autoregressive, doppelganger, got 'other'"):
        config_for(trace, tmp_path, model="other")


def test_the_state_is_private_and_holds_every_packet(trace: Path, tmp_path: Path):
    twin, _ = run(config_for(trace, tmp_path))
    assert sum(info.packet_count for info in ChunkStore(twin.state / "chunks").list()) == twin.real_packet_count
    assert stat.S_IMODE(twin.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((twin.state / "address.key").stat().st_mode) == 0o600


def test_the_configuration_is_written_resolved_and_without_the_key(trace: Path, tmp_path: Path):
    twin, _ = run(config_for(trace, tmp_path, chunk_length_s=None))
    config = json.loads(twin.config.read_text())
    assert config["chunk_length_s"] > 0
    assert bytes(32).hex() not in twin.config.read_text()


def test_small_chunks_are_learned_with_their_neighbour(trace: Path, tmp_path: Path):
    twin, _ = run(config_for(trace, tmp_path, chunk_length_s=10, fewest_conversations=50))
    assert twin.chunk_count < 9
    assert twin.packet_count == twin.real_packet_count


def test_an_output_that_exists_is_kept_unless_it_is_to_be_replaced(trace: Path, tmp_path: Path):
    (tmp_path / "twin.pcap").write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        run(config_for(trace, tmp_path))
    assert (tmp_path / "twin.pcap").read_bytes() == b"precious"
    run(config_for(trace, tmp_path, replaces=True))
    twin, _ = run(config_for(trace, tmp_path, replaces=True))
    assert len(read_trace(twin.output)[0]) == twin.packet_count


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"worker": (sys.executable, "-c", "raise SystemExit('no luck')")}, TrainError),
        ({"replay_server": (sys.executable, "-c", "raise SystemExit('no luck')")}, ReplayError),
        ({"budget_s": 0.1}, InputError),
    ],
)
def test_a_run_that_fails_leaves_nothing_behind(trace: Path, tmp_path: Path, settings: dict[str, object], error: type):
    with pytest.raises(error):
        run(config_for(trace, tmp_path, **settings))
    assert list(tmp_path.iterdir()) == []


def test_a_trace_of_a_time_that_a_pcap_does_not_have_is_refused_before_anything_is_learned(trace: Path, tmp_path: Path):
    (tmp_path / "work").mkdir()
    with RawPcapReader(str(trace)) as reader:
        frames = [octets for octets, _ in reader]
    offset = np.cumsum([0, *map(len, frames)])
    times_ns = ((1 << 32) + 100) * 10**9 + np.arange(len(frames), dtype=np.int64) * 10**8
    octets = np.frombuffer(b"".join(frames), np.uint8)
    late = tmp_path / "late.pcapng"
    late.write_bytes(pcapng_header() + write_packet_blocks(times_ns, offset, octets))
    failing = (sys.executable, "-c", "raise SystemExit('no luck')")
    with pytest.raises(OutputError, match=r"no times after 7 February 2106"):
        run(config_for(late, tmp_path / "work", worker=failing))
    assert list((tmp_path / "work").iterdir()) == []
    twin, _ = run(config_for(late, tmp_path / "work", output=tmp_path / "work" / "twin.pcapng"))
    assert len(read_trace(twin.output)[0]) == twin.packet_count == twin.real_packet_count


def test_a_run_that_is_interrupted_leaves_nothing_behind(trace: Path, tmp_path: Path):
    def interrupt(progress: Progress) -> None:
        if progress.stage is Stage.REPLAY and progress.is_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_twin(config_for(trace, tmp_path), interrupt, SystemClock())
    assert list(tmp_path.iterdir()) == []
