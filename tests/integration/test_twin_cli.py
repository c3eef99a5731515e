"""`nsstream twin` and `nsstream demo` for real: a cut of the lab capture through every room, learning included."""

import hashlib
import json
import lzma
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from nsstream.capture import read_trace
from nsstream.score import verify_trace

NSSTREAM = (sys.executable, "-m", "nsstream_daemon")
HEADER_BYTES = 24
CUT_S = 20


def nsstream(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*NSSTREAM, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 20 seconds of the lab capture."""
    octets = lzma.decompress((resources.files("nsstream_daemon") / "data" / "lab.pcap.xz").read_bytes())
    at, first_s = HEADER_BYTES, int.from_bytes(octets[HEADER_BYTES : HEADER_BYTES + 4], "little")
    while at < len(octets) and int.from_bytes(octets[at : at + 4], "little") < first_s + CUT_S:
        at += 16 + int.from_bytes(octets[at + 8 : at + 12], "little")
    path = tmp_path_factory.mktemp("trace") / "lab.pcap"
    path.write_bytes(octets[:at])
    return path


@pytest.fixture(scope="module")
def twin(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("twin") / "twin.pcap"
    nsstream("twin", trace, "-o", output, "--chunk", "10s", "--steps", 3, "--seed", 7)
    return output


@pytest.mark.slow
def test_a_twin_is_whole_lawful_and_scored(trace: Path, twin: Path):
    assert verify_trace(trace, twin).fault_count == {}
    assert len(read_trace(twin)[0]) > 0
    figures = json.loads(Path(f"{twin}.score.json").read_text())
    assert figures["verification"]["faults"] == {}
    names = sorted(path.name for path in twin.parent.iterdir())
    assert names == ["twin.pcap", "twin.pcap.config.json", "twin.pcap.score.json", "twin.pcap.state"]


@pytest.mark.slow
def test_the_same_seed_and_steps_give_the_same_twin_byte_for_byte(trace: Path, twin: Path, tmp_path: Path):
    again = tmp_path / "again.pcap"
    nsstream("twin", trace, "-o", again, "--chunk", "10s", "--steps", 3, "--seed", 7, "--no-score")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(twin.read_bytes()).digest()


@pytest.mark.slow
def test_the_baseline_is_selectable_and_lawful_too(trace: Path, tmp_path: Path):
    output = tmp_path / "twin.pcap"
    options = ["--model", "doppelganger", "--chunk", "10s", "--steps", 2, "--seed", 7, "--no-score"]
    nsstream("twin", trace, "-o", output, *options)
    assert verify_trace(trace, output).fault_count == {}
    assert len(read_trace(output)[0]) > 0
    assert json.loads(Path(f"{output}.config.json").read_text())["model"] == "doppelganger"
    for model in (Path(f"{output}.state") / "models").iterdir():
        assert json.loads((model / "manifest.json").read_text())["model"] == "doppelganger"


@pytest.mark.slow
def test_the_parts_work_by_hand_on_what_the_run_left(twin: Path, tmp_path: Path):
    state = Path(f"{twin}.state")
    listed = nsstream("chunk", "list", state).stdout
    chunks = sorted((state / "chunks").glob("*.arrow"))
    assert all(path.stem in listed for path in chunks)
    assert "digest" in nsstream("chunk", "show", state, chunks[0].stem).stdout
    seed = next(path for path in sorted((state / "models").iterdir()))
    trained = nsstream("train", chunks[0], "-o", tmp_path / "models", "--from", seed, "--steps", 1, "--seed", 1).stdout
    model = trained.split()[-1]
    assert Path(model).parent == tmp_path / "models"
    assert (tmp_path / "address.key").exists()
    nsstream("draw", model, "-o", tmp_path / "drawn.pcapng", "--seed", 1)
    assert len(read_trace(tmp_path / "drawn.pcapng")[0]) > 0
