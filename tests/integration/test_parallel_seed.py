"""A seed of several chunks, by real workers: it knows what a seed of one chunk does not, and others go on from it."""

import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
from made_traffic import MINUTE_NS, START_NS, made_packets

from nsstream.chunk import Chunk, ChunkStore
from nsstream.counters import Tally
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, TrainError
from nsstream.model.checkpoint import load_checkpoint
from nsstream.pipeline.child import run_job
from nsstream.pipeline.engine import LocalEngine
from nsstream.pipeline.ingest import merge_chunks
from nsstream.pipeline.parallel_seed import ParallelSeed, train_parallel_seed
from nsstream.pipeline.progress import Progress
from nsstream.pipeline.service_config import WorkerSection
from nsstream.pipeline.training import WORKER, address_map_as_dict
from nsstream.train.evaluate import EvaluateJob, evaluate

SEED, STEPS, TURNS = 5, 40, 2
ADDRESS_MAP = AddressMap(bytes([90] * 32))


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Two minutes, each with hosts of its own."""
    store = ChunkStore(tmp_path_factory.mktemp("state") / "chunks")
    made = []
    for minute in (0, 1):
        packets, begin = made_packets(count=200, minute=minute), START_NS + minute * MINUTE_NS
        tally = Tally(offered=len(packets), kept=len(packets))
        made.append(store.write(Chunk.of(begin, begin + MINUTE_NS, packets, tally, is_partial=False)))
    return tuple(made)


def plan_of(chunks: tuple[Path, ...], **told: object) -> ParallelSeed:
    return ParallelSeed(chunks, TURNS, STEPS, SEED, ADDRESS_MAP, **told)  # type: ignore[arg-type]


def part(does: str, turn: int, chunk: Path, models: list[Path], out: Path, steps: int = STEPS) -> Path:
    """One worker's part, by hand."""
    job = {
        "chunk": str(chunk), "models": [str(model) for model in models], "out": str(out), "seed": SEED, "steps": steps,
        "part": {"does": does, "turn": turn, "turns": TURNS}, "address_map": address_map_as_dict(ADDRESS_MAP),
    }  # fmt: skip
    done = run_job(WORKER, job, lambda line: None, cancelled=Event(), limit_s=None, silence_s=180)
    return Path(done["checkpoint"])


@pytest.mark.slow
def test_a_seed_of_two_chunks_knows_both(chunks: tuple[Path, ...], tmp_path: Path):
    heard: list[Progress] = []
    seed = train_parallel_seed(
        plan_of(chunks), tmp_path / "models", LocalEngine((WorkerSection(),) * 2), heard.append, time.monotonic
    )
    assert [path.name for path in (tmp_path / "models").iterdir()] == [seed.name]
    assert {progress.chunk for progress in heard} >= {1, 2}
    manifest = load_checkpoint(seed).manifest
    assert manifest["parent"] is None
    assert manifest["chunks"] == [path.stem for path in chunks]
    assert (manifest["start_ns"], manifest["end_ns"]) == (START_NS, START_NS + 2 * MINUTE_NS)
    # One that learns the first chunk alone, as long, with the same vocabulary; both are judged on the other one.
    merged = ChunkStore(tmp_path / "merged").write(
        merge_chunks([ChunkStore(path.parent).read(path) for path in chunks])
    )
    begun = part("begin", 0, merged, [], tmp_path / "work")
    alone = [begun]
    for turn in range(TURNS):
        alone = [part("learn", turn, chunks[0], alone, tmp_path / "work")]
    candidate = part("learn", 0, chunks[1], [begun], tmp_path / "work", steps=1)

    def loss(model: Path) -> float:
        job = {"chunk": chunks[1], "candidate": candidate, "parent": model, "seed": SEED}
        told = EvaluateJob.model_validate(job | {"address_map": address_map_as_dict(ADDRESS_MAP)})
        return float(evaluate(told)["parent_loss"])

    assert loss(seed) < loss(alone[0]) < loss(begun)
    # And a fine-tune goes on from it.
    job = {
        "chunk": str(chunks[1]), "parent": str(seed), "out": str(tmp_path / "models"), "seed": SEED, "steps": 2,
        "address_map": address_map_as_dict(ADDRESS_MAP),
    }  # fmt: skip
    done = run_job(WORKER, job, heard.append, cancelled=Event(), limit_s=None, silence_s=180)
    assert load_checkpoint(Path(done["checkpoint"])).manifest["parent"] == seed.name


def test_a_worker_that_fails_and_fails_ends_the_run(chunks: tuple[Path, ...], tmp_path: Path):
    tries = tmp_path / "tries"
    program = f"open({str(tries)!r}, 'a').write('x'); raise SystemExit('no')"
    plan = plan_of(chunks, command=(sys.executable, "-c", program))
    with pytest.raises(TrainError, match="a worker failed 3 times: it ended with status 1: no"):
        train_parallel_seed(plan, tmp_path / "models", LocalEngine(), print, time.monotonic)
    assert tries.read_text() == "xxx"
    assert not list((tmp_path / "models").iterdir())


def test_a_chunk_is_learned_once(chunks: tuple[Path, ...], tmp_path: Path):
    with pytest.raises(InputError, match="named twice"):
        train_parallel_seed(plan_of((chunks[0], chunks[0])), tmp_path, LocalEngine(), print, time.monotonic)


def test_the_command_says_what_several_chunks_need(chunks: tuple[Path, ...], tmp_path: Path):
    def told(*options: str) -> str:
        command = [sys.executable, "-m", "nsstream_daemon", "train", *map(str, chunks), "-o", str(tmp_path), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1
        return done.stderr

    assert "several chunks are learned from nothing, openly, by --steps" in told("--budget", "9s")
    assert "'here' is no HOST:PORT" in told("--steps", "3", "--ray", "here")
