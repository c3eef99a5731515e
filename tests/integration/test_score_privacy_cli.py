"""`nsstream score --privacy` for real: captures on disk, of which one was copied in part."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nsstream.chunk.header_frames import header_frames
from nsstream.encode.address_map import AddressMap
from nsstream.score.privacy.canaries import make_canaries
from nsstream.trace import PacketBatch
from nsstream.wire.pcap import pcap_header, write_records

KEY = bytes(range(32))
SPAN_NS = (1_700_000_000_000_000_000, 1_700_000_120_000_000_000)


def nsstream(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsstream_daemon", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=None)


def made(seed: int, count: int) -> list[PacketBatch]:
    return list(make_canaries(count, 1, SPAN_NS, np.random.default_rng(seed)).packets)


def write(path: Path, parts: list[PacketBatch]) -> Path:
    packets = PacketBatch.concatenate(parts)
    packets = packets.take(np.argsort(packets.observation_time_ns, kind="stable"))
    offset, octets, on_wire = header_frames(packets)
    path.write_bytes(pcap_header() + write_records(packets.observation_time_ns, offset, octets, on_wire))
    return path


def mapped(packets: PacketBatch) -> PacketBatch:
    columns = dict(packets.columns())
    for name in ("source_address", "destination_address"):
        columns[name] = AddressMap(KEY).map(columns[name])
    return PacketBatch.from_columns(columns)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A capture of 200 conversations, other traffic of its kind, and a twin that has 30 of the 200."""
    folder = tmp_path_factory.mktemp("traces")
    real = made(1, 200)
    twin = folder / "twin.pcap"
    (folder / "twin.pcap.state").mkdir()
    (folder / "twin.pcap.state" / "address.key").write_text(KEY.hex() + "\n")
    return {
        "real": write(folder / "real.pcap", real),
        "held_out": write(folder / "other.pcap", made(2, 200)),
        "twin": write(twin, [mapped(part) for part in (*made(3, 170), *real[:30])]),
    }


def test_a_twin_with_copies_is_told_in_plain_words_and_in_figures(traces: dict[str, Path], tmp_path: Path) -> None:
    told = tmp_path / "score.json"
    run = nsstream(
        "score", traces["real"], traces["twin"], "--privacy", "--holdout", traces["held_out"], "--json", told
    )
    assert run.returncode == 0, run.stderr
    words = " ".join(run.stdout.split())
    assert "some flows were learned by heart and given out" in words
    assert "Of two flows, one from the capture and one held out" in words
    assert "attacks that fail prove none" in words
    figures = json.loads(told.read_text())
    assert {"summary", "detector", "copying", "privacy"} <= set(figures)
    privacy = figures["privacy"]
    assert {"copies", "hosts", "timing"} <= set(privacy["leaks"])  # the key beside the twin was found
    assert privacy["findings"]["addresses"]["verdict"] == "nothing found"
    one_off = privacy["findings"]["copies"]["figures"]["twin"]["one_off"]
    assert 0.1 < one_off["share"] < 0.2
    assert one_off["interval"][0] < 0.15 < one_off["interval"][1]


def test_what_cannot_be_judged_is_said_and_a_wrong_key_is_refused(traces: dict[str, Path], tmp_path: Path) -> None:
    alone = tmp_path / "alone.pcap"
    alone.write_bytes(traces["twin"].read_bytes())
    run = nsstream("score", traces["real"], alone, "--privacy")
    assert run.returncode == 0, run.stderr
    words = " ".join(run.stdout.split())
    assert "cannot be judged: that needs real flows which were not in it" in words
    assert "no address key was given" in words
    refused = nsstream("score", traces["real"], alone, "--privacy", "--address-key", tmp_path / "nowhere.key")
    assert refused.returncode == 1
    assert "nowhere.key is not an address key" in refused.stderr
    assert "Traceback" not in refused.stderr
