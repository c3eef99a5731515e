"""A chunk learned on the CPU and on a GPU: steps a second, held-out loss, and the GPU memory that it took.

    python bench/gpu.py TRACE [--length S] [--budget S] [--devices cpu,cuda] [--threads N] [--json OUT]

The largest chunk of the trace is learned from nothing on each device, by likelihood, for --budget seconds each; the
first seconds on a device are those of its libraries, and are learned before and not counted. The memory is the most
that torch's allocator held: what `training.gpu_memory_octets` has to be. Losses are in nats, of what was held out.

Bar: no device is worse than the first by more than 5 % after the same time. Exit status 1 when it is missed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, finish, has_passed, show

from nsstream.chunk import ChunkStore
from nsstream.clock import SystemClock
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode
from nsstream.model.checkpoint import new_networks
from nsstream.model.portrait import portrait_of_measured
from nsstream.pipeline.ingest import import_trace, survey_trace
from nsstream.pipeline.training import device_named
from nsstream.trace import ConversationTable
from nsstream.train.chunk_table import load_conversations
from nsstream.train.config import FitConfig
from nsstream.train.device import choose_device, lack_of_gpu
from nsstream.train.fit import Fit
from nsstream.train.job import AddressMapConfig

SEED = 1
WARM_UP = FitConfig(steps=20)
WORSE = 1.05


def main() -> int:
    told = _arguments()
    torch.set_num_threads(1)
    devices = [choose_device(device_named(name), None, lack_of_gpu).device for name in told.devices.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        store, survey = ChunkStore(Path(folder) / "chunks"), survey_trace(told.trace)
        chunks = import_trace(told.trace, store, length_s=told.length, disorder_ns=survey.disorder_ns)
        largest = max(chunks, key=lambda info: info.packet_count)
        _, table, *interval_ns = load_conversations(largest.path, None, AddressMapConfig(key_hex="00" * 32))
    figures: dict[str, dict[str, Any]] = {}
    bars: list[Bar] = []
    for device in devices:
        learned(table, interval_ns, WARM_UP, device, told.threads)
        figures[device.type] = found = learned(
            table, interval_ns, FitConfig(budget_s=told.budget), device, told.threads
        )
        first = figures[devices[0].type]
        for name in ("packet steps a second", "attribute steps a second", "GPU memory, MB"):
            bars.append(Bar(f"{device.type}: {name}", found[name], beside=first[name]))
        for name in ("packet", "conversation"):
            limit = round(WORSE * first[name], 4)
            bars.append(at_most(f"{device.type}: nats a {name}", round(found[name], 4), limit, round(first[name], 4)))
    show(f"a chunk of {largest.packet_count:,} packets, {told.budget:g} s", bars, beside=devices[0].type)
    return finish(as_dict(bars) | {"figures": figures}, told.json, passed=has_passed(bars))


def learned(
    table: ConversationTable, interval_ns: list[int], config: FitConfig, device: torch.device, threads: int
) -> dict[str, Any]:
    """What a fit by likelihood on a device gave."""
    codec = Codec.fit(table, *interval_ns)
    tokens = encode(table, codec)
    portraits = portrait_of_measured(table, tokens, codec)
    torch.manual_seed(SEED)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    fit = Fit(
        new_networks(), tokens, portraits, codec, config, SEED, SystemClock(), lambda _: None, threads, device=device
    )
    began_s = time.perf_counter()
    fit.learn()
    took_s = time.perf_counter() - began_s
    facts: dict[str, Any] = fit.facts()
    held = torch.cuda.max_memory_reserved(device) >> 20 if device.type == "cuda" else None
    return facts["held_out_nats"] | {
        "packet steps a second": round(facts["steps"]["packets"] / took_s, 1),
        "attribute steps a second": round(facts["steps"]["attributes"] / took_s, 1),
        "GPU memory, MB": held,
        "seconds": round(took_s, 1),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("--length", type=int, default=3600, help="seconds of a chunk")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds on each device")
    parser.add_argument("--devices", default="cpu,cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(run_main(main))
