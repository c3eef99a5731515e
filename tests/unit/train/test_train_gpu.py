"""On a GPU: a chunk is learned there, finds the same likelihoods as the processor does, and is loaded anywhere."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from made_flows import START_NS as FLOWS_NS
from made_flows import made_flows
from made_traffic import MINUTE_NS, START_NS, made_packets

from nsstream.chunk import Chunk, ChunkStore
from nsstream.clock import ManualClock
from nsstream.counters import Tally
from nsstream.draw import Drawer
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import encode_flows
from nsstream.model.checkpoint import load_checkpoint, new_networks
from nsstream.model.flow_checkpoint import new_flow_networks
from nsstream.model.portrait import portrait_of_measured
from nsstream.train import worker
from nsstream.train.config import FitConfig
from nsstream.train.device import CPU, device_of
from nsstream.train.fit import Fit
from nsstream.train.flow_fit import FlowFit
from nsstream.train.gpu_memory import GpuMemoryError
from nsstream.train.job import TrainJob

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch can use no GPU here"),
]
CUDA = torch.device("cuda", 0)
SMALL = FitConfig(steps=60, windows_per_step=16, groups_per_step=4, has_adversary=True, critic_rounds=1)


def unfitted(table, tokens, codec, device, config=SMALL, threads=1):
    torch.manual_seed(3)
    networks = new_networks()
    portraits = portrait_of_measured(table, tokens, codec)
    fit = Fit(networks, tokens, portraits, codec, config, 3, ManualClock(), lambda _: None, threads, device=device)
    return networks, fit


def test_both_devices_find_the_same_likelihoods(table, tokens, codec):
    found = []
    for device in (CPU, CUDA):
        networks, fit = unfitted(table, tokens, codec, device)
        networks.eval()
        with torch.no_grad():
            found += [fit._attribute_loss(networks["attributes"]), fit._packet_loss(networks["packets"])]
    assert found[2:] == pytest.approx(found[:2], rel=2e-3)  # cuDNN's recurrences round to TF32


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fit_on_a_gpu_learns_and_is_left_on_the_processor(table, tokens, codec, threads):
    networks, fit = unfitted(table, tokens, codec, CUDA, threads=threads)
    assert {device_of(half).type for half in networks.values()} == {"cuda"}
    with torch.no_grad():
        before = fit._packet_loss(networks["packets"].eval())
    fit.run()
    assert fit.facts()["held_out_nats"]["packet"] < before
    assert fit.facts()["steps"]["critic"] > 20
    assert all(weight.device == CPU for weight in networks.state_dict().values())
    assert len(fit.trees.roots) > 0


def test_flows_are_learned_on_a_gpu():
    given = group_flows(made_flows(count=500))
    codec = FlowCodec.fit(given, FLOWS_NS, FLOWS_NS + 700 * 10**9)
    torch.manual_seed(3)
    networks, tokens = new_flow_networks(), encode_flows(given, codec)
    config = dataclasses.replace(SMALL, has_adversary=False)
    start_ns = given.records.flow_start_ns
    fit = FlowFit(networks, tokens, start_ns, codec, config, 3, ManualClock(), lambda _: None, CUDA)
    with torch.no_grad():
        before = fit._record_loss(networks["records"].eval())
    fit.run()
    assert fit.facts()["held_out_nats"]["record"] < before
    assert all(weight.device == CPU for weight in networks.state_dict().values())


@pytest.fixture(scope="module")
def chunk(tmp_path_factory):
    packets = made_packets(minute=0)
    tally = Tally(offered=len(packets), kept=len(packets))
    chunk = Chunk.of(START_NS, START_NS + MINUTE_NS, packets, tally, is_partial=False)
    return ChunkStore(tmp_path_factory.mktemp("state") / "chunks").write(chunk)


def job_of(chunk, out, **settings):
    told = {"chunk": chunk, "out": out, "seed": 1, "steps": 20, "address_map": {"key_hex": "00" * 16}}
    return TrainJob.model_validate(told | settings)


def test_a_worker_that_was_given_a_gpu_makes_a_checkpoint_that_the_processor_draws(chunk, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    done = worker.run(job_of(chunk, tmp_path, gpu_memory_octets=1 << 30))
    assert done["device"] == "cuda"
    assert done["gpu"] == torch.cuda.get_device_name(0)
    assert torch.cuda.memory_reserved() >= 1 << 30  # what was taken before is kept
    seed = Path(str(done["checkpoint"]))
    model = load_checkpoint(seed)
    assert (model.manifest["device"], model.manifest["gpu"]) == ("cuda", done["gpu"])
    assert device_of(model.packets) == CPU
    assert len(Drawer(1, 1).draw(seed, turn=0)) > 0
    tuned = load_checkpoint(Path(str(worker.run(job_of(chunk, tmp_path, parent=seed))["checkpoint"])))
    assert all(math.isfinite(nats) for nats in tuned.manifest["held_out_nats"].values())
    series = worker.run(job_of(chunk, tmp_path, model="doppelganger", steps=2))
    assert series["device"] == "cuda"


def test_a_gpu_that_is_too_small_is_named_before_anything_is_learned(chunk, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(GpuMemoryError, match="gpu_memory_octets"):
        worker.run(job_of(chunk, tmp_path, gpu_memory_octets=1 << 50))
