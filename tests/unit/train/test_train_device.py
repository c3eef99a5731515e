"""Where a fit computes: chosen by what was asked and given, said where it is another, and never mixed."""

import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from made_traffic import MINUTE_NS, START_NS, made_packets

from nsstream.chunk import Chunk, ChunkStore
from nsstream.clock import ManualClock
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.model.loading import load_any
from nsstream.pipeline.child import Failure
from nsstream.train import worker
from nsstream.train.device import CPU, choose_device, device_of, lack_of_gpu, tensor_of
from nsstream.train.gpu_memory import LOOK_S, WAIT_S, GpuMemoryError, is_out_of_memory, take_memory
from nsstream.train.job import GPU_MEMORY, TrainJob

HERE = Path(__file__).parent
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
MB = 1 << 20


def has_gpu():
    return None


def has_none():
    return "there is none"


def never_asked():
    raise AssertionError("nobody asked for a GPU")


@pytest.mark.parametrize(
    ("asked", "visible", "lack", "device", "unused"),
    [
        ("cpu", "0", never_asked, "cpu", None),
        ("auto", None, never_asked, "cpu", None),
        ("auto", "", never_asked, "cpu", None),
        ("auto", "-1", never_asked, "cpu", None),
        ("auto", "0", has_gpu, "cuda:0", None),
        ("auto", "GPU-8932f937-d72c", has_gpu, "cuda:0", None),
        ("auto", "2,3", has_gpu, "cuda:0", None),
        ("auto", "0", has_none, "cpu", "there is none"),
        ("cuda", None, has_gpu, "cuda:0", None),
        ("cuda", "1", has_gpu, "cuda:0", None),
    ],
)
def test_a_gpu_is_used_where_one_was_given_or_asked_for(asked, visible, lack, device, unused):
    seat = choose_device(asked, visible, lack)
    assert (str(seat.device), seat.unused) == (device, unused)
    told = {"device": seat.device.type} | ({"gpu_unused": unused} if unused else {})
    assert seat.facts() == told


def test_a_gpu_that_was_asked_for_and_is_not_there_is_refused_by_name():
    with pytest.raises(InputError, match="device cuda cannot be used: there is none"):
        choose_device("cuda", "0", has_none)


@NO_CUDA
def test_what_torch_lacks_is_said_in_a_line():
    lack = lack_of_gpu()
    assert lack is not None
    assert torch.__version__ in lack
    assert "\n" not in lack


def test_what_the_driver_complains_of_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)  # as where torch has CUDA and the machine no GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert lack_of_gpu() == (
        f"torch {torch.__version__} finds no GPU: is the driver there, and does CUDA_VISIBLE_DEVICES name it?"
    )

    def complain():
        warnings.warn("CUDA initialization: the driver is too old\nPlease update it.", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", complain)
    assert lack_of_gpu() == (f"torch {torch.__version__} finds no GPU: CUDA initialization: the driver is too old")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert lack_of_gpu() is None


def test_an_array_that_must_not_be_written_to_becomes_a_tensor_of_its_own():
    array = np.arange(5)
    array.flags.writeable = False
    tensor = tensor_of(array)
    tensor[0] = 9
    assert array[0] == 0
    assert device_of(torch.nn.Linear(1, 1)) == CPU


class SharedGpu:
    """A GPU of which others take and give back memory: what is free at each look, and whether it is still there."""

    def __init__(self, *looks, total=8000 * MB):
        self.looks, self.total, self.taken = list(looks), total, []

    def look(self):
        self.free, self.is_there = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return self.free * MB, self.total

    def take(self, octets):
        if self.is_there:
            self.taken.append(octets)
        return self.is_there


def waited(gpu, need=2000 * MB):
    clock, waits = ManualClock(), []

    def wait(seconds):
        waits.append(seconds)
        clock.advance(round(seconds * 1e9))

    told = []
    take_memory(need, gpu, clock, wait, lambda: told.append(True))
    assert len(told) == len(waits)
    return waits


def test_memory_is_taken_at_once_where_it_is_free():
    gpu = SharedGpu((3000, True))
    assert waited(gpu) == []
    assert gpu.taken == [2000 * MB]
    assert waited(SharedGpu((0, False)), need=0) == []


def test_memory_that_others_hold_or_take_first_is_waited_for():
    gpu = SharedGpu((100, True), (2500, False), (2500, True))
    assert waited(gpu) == [LOOK_S, LOOK_S]
    assert gpu.taken == [2000 * MB]


def test_memory_that_is_not_free_in_time_or_not_there_at_all_is_named():
    with pytest.raises(
        GpuMemoryError, match=f"100 MB are free after {WAIT_S:g} s, and gpu_memory_octets asks for 2000"
    ):
        waited(SharedGpu((100, True)))
    with pytest.raises(GpuMemoryError, match="has 1500 MB of memory, and gpu_memory_octets asks for 2000 MB"):
        waited(SharedGpu((1500, True), total=1500 * MB))


def test_all_words_for_a_gpu_without_memory_are_known():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(MemoryError())
    assert Failure(GPU_MEMORY) is Failure.GPU_MEMORY


@pytest.fixture(scope="module")
def chunk(tmp_path_factory):
    packets = made_packets(minute=0)
    tally = Tally(offered=len(packets), kept=len(packets))
    chunk = Chunk.of(START_NS, START_NS + MINUTE_NS, packets, tally, is_partial=False)
    return ChunkStore(tmp_path_factory.mktemp("state") / "chunks").write(chunk)


def job_of(chunk, out, **settings):
    address_map = {"key_hex": "00" * 16}
    told = {"chunk": chunk, "out": out, "seed": 1, "steps": 2, "address_map": address_map}
    return TrainJob.model_validate(told | settings)


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@NO_CUDA
def test_a_worker_whose_gpu_cannot_be_used_says_so_once_and_learns_on_the_cpu_what_it_ever_did(
    chunk, tmp_path, monkeypatch, capsys
):
    made = {}
    for visible in ("", "0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        made[visible] = worker.run(job_of(chunk, tmp_path / f"models{visible}", model="doppelganger"))
        warnings = [line for line in lines_of(capsys) if line["event"] == "warning"]
        assert [line["message"].partition(": ")[0] for line in warnings] == (
            ["a GPU was given and is not used"] if visible else []
        )
        assert made[visible]["device"] == "cpu"
    without, unused = (load_any(Path(str(made[visible]["checkpoint"]))) for visible in ("", "0"))
    assert unused.manifest["gpu_unused"] == made["0"]["gpu_unused"] == lack_of_gpu()
    assert without.manifest["device"] == unused.manifest["device"] == "cpu"
    assert "gpu_unused" not in without.manifest
    assert without.manifest["id"] != unused.manifest["id"]
    weights = [Path(str(done["checkpoint"])) / "weights.safetensors" for done in made.values()]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@NO_CUDA
def test_a_worker_that_is_to_have_cuda_refuses_before_it_reads_anything(tmp_path):
    with pytest.raises(InputError, match="device cuda cannot be used: torch"):
        worker.run(job_of(tmp_path / "no such chunk", tmp_path, device="cuda"))


def test_a_private_job_does_not_take_a_gpu(tmp_path):
    private = {"parent": tmp_path, "private": {"epsilon": 1.0}}
    with pytest.raises(InputError, match="what is learned privately is learned on the CPU"):
        worker.run(job_of(tmp_path / "no such chunk", tmp_path, device="cuda", **private))


def look_at_a_small_gpu(device):
    return 100 * MB, 1000 * MB


def look_at_a_full_gpu(device):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nOf this and that")


@pytest.mark.parametrize(
    ("look", "told"),
    [
        (look_at_a_small_gpu, "the GPU has 1000 MB of memory, and gpu_memory_octets asks for 2048 MB"),
        (look_at_a_full_gpu, "the GPU's memory was used up: CUDA out of memory. Tried to allocate 20.00 MiB."),
    ],
)
def test_a_worker_names_a_gpu_without_room(tmp_path, monkeypatch, capsys, look, told):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", look)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    job = job_of(tmp_path / "no such chunk", tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(job.model_dump_json()))
    assert worker.main() == 1
    assert lines_of(capsys) == [{"event": "error", "message": told, "kind": "gpu_memory"}]


@pytest.fixture(scope="module")
def both():
    """What `second_device` found."""
    paths = os.pathsep.join([str(HERE.parents[1]), *sys.path])
    child = subprocess.run(
        [sys.executable, str(HERE / "second_device.py")],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_the_second_device_of_this_test_mixes_with_nothing(both):
    assert both["refuses"] == [True] * 4


@pytest.mark.parametrize("what", ["packets", "flows", "series"])
def test_a_whole_fit_on_another_device_mixes_none_of_its_tensors_and_learns_the_same(both, what):
    here, there, operations = (both[what][name] for name in ("here", "there", "operations"))
    assert operations > 1000
    assert there == pytest.approx(here, rel=1e-3)  # recurrences round otherwise
    assert all(here.values())
