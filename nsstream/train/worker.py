"""The training worker: one process, one job. ``python -m nsstream.train.worker`` reads a job, trains, says so.

stdin: one JSON object (`job.TrainJob`). stdout: a JSON object a line, `event` first: any number of ``progress``, a
``warning`` (message) where a GPU that was given is not used, then one ``done`` (checkpoint, conversations, packets; of
flows: records; device) or ``error`` (message; `kind` where a GPU's memory was too small or used up). Exit status 0
after ``done``, 1 after ``error``.
What is not an `NsstreamError` is a bug: its traceback goes to stderr, and a one-line ``error`` to stdout.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nsstream.chunk import ChunkStore
from nsstream.chunk.rows import Kind
from nsstream.clock import SystemClock
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode
from nsstream.errors import NsstreamError, TrainError
from nsstream.model.checkpoint import load_checkpoint, new_networks, save_checkpoint
from nsstream.model.portrait import portrait_of_measured
from nsstream.trace import ConversationTable
from nsstream.train.chunk_table import load_conversations, load_real_conversations
from nsstream.train.config import FitConfig, Progress
from nsstream.train.device import PRIVATELY, Seat, choose_device, lack_of_gpu
from nsstream.train.doppelganger_fit import learn_doppelganger
from nsstream.train.fit import Fit
from nsstream.train.flow_job import train_flows
from nsstream.train.gpu_memory import CudaMemory, GpuMemoryError, is_out_of_memory, take_memory
from nsstream.train.inherit import inherit
from nsstream.train.job import GPU_MEMORY, TrainJob
from nsstream.train.parallel import learn_in_parallel


def main() -> int:
    """Do the job on stdin."""
    try:
        job = TrainJob.parse(sys.stdin.read())
        _say(event="done", **run(job))
    except GpuMemoryError as err:
        _say(event="error", message=str(err), kind=GPU_MEMORY)
        return 1
    except NsstreamError as err:
        _say(event="error", message=str(err))
        return 1
    except Exception as err:
        if is_out_of_memory(err):
            told = str(err).partition("\n")[0]
            _say(event="error", message=f"the GPU's memory was used up: {told}", kind=GPU_MEMORY)
            return 1
        traceback.print_exc()
        _say(event="error", message=f"the worker failed: {type(err).__name__}: {err}")
        return 1
    return 0


def run(job: TrainJob) -> dict[str, object]:
    """Train the job's checkpoint; gives its directory and what it learned from.

    Raises:
        StateError: a chunk or parent that cannot be read.
        InputError: a device was asked for that cannot be had.
        TrainError: too little data, divergence, or no room in the GPU's memory (`GpuMemoryError`).
        OutputError: no space for the checkpoint.
    """
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    seat = _take_seat(job)
    if ChunkStore(job.chunk.parent).info(job.chunk).kind is Kind.FLOWS:
        if job.private is not None:
            from nsstream.train.private_flow_job import train_flows_privately  # loads opacus

            return train_flows_privately(job, _report, seat) | seat.facts()
        return train_flows(job, _report, seat) | seat.facts()
    if job.private is not None:
        return _run_privately(job, seat)
    chunk_id, table, start_ns, end_ns = load_conversations(job.chunk, job.before, job.address_map)
    if not len(table):
        raise TrainError(f"chunk {chunk_id} holds no packets")
    learn = learn_doppelganger if job.model == "doppelganger" else _learn
    if job.part is not None:
        learn = learn_in_parallel
    facts = {"chunk": chunk_id, "seed": job.seed, **seat.facts()}
    saved = learn(job, table, (start_ns, end_ns), facts, _report, seat.device)
    counts = {"conversations": len(table), "packets": len(table.observation_time_ns)}
    return {"checkpoint": str(saved), **counts, **seat.facts()}


def _take_seat(job: TrainJob) -> Seat:
    """Where the job is done: on the processor, or on a GPU whose memory it has taken."""
    lack = lack_of_gpu if job.private is None else lambda: PRIVATELY
    seat = choose_device(job.device, os.environ.get("CUDA_VISIBLE_DEVICES"), lack)
    if seat.unused:
        _say(event="warning", message=f"a GPU was given and is not used: {seat.unused}")
    if seat.device.type == "cpu":
        return seat
    take_memory(
        job.gpu_memory_octets, CudaMemory(seat.device), SystemClock(), time.sleep,
        lambda: _say(event="progress", stage="waiting for the GPU"),
    )  # fmt: skip
    return dataclasses.replace(seat, gpu=torch.cuda.get_device_name(seat.device))


def _run_privately(job: TrainJob, seat: Seat) -> dict[str, object]:
    """As `run`; what is said of the chunk is what its checkpoint says: noisy."""
    from nsstream.train.private_job import train_privately  # loads opacus

    chunk_id, table, start_ns, end_ns = load_real_conversations(job.chunk, job.before)
    if not len(table):
        raise TrainError(f"chunk {chunk_id} holds no packets")
    saved = train_privately(job, table, (start_ns, end_ns), {"chunk": chunk_id, **seat.facts()}, _report)
    codec = load_checkpoint(saved).codec
    counts = {"conversations": int(codec.profile.sum()), "packets": codec.packet_count}
    return {"checkpoint": str(saved), **counts, **seat.facts()}


def _learn(
    job: TrainJob,
    table: ConversationTable,
    interval_ns: tuple[int, int],
    facts: dict[str, Any],
    report: Callable[[Progress], None],
    device: torch.device,
) -> Path:
    """Train the default model."""
    torch.set_num_threads(1)  # more of them inside a recurrence spin more than they work
    networks = new_networks()
    parent = load_checkpoint(job.parent) if job.parent else None
    codec = Codec.fit(table, *interval_ns, parent.codec if parent else None)
    if parent:
        networks.load_state_dict(
            torch.nn.ModuleDict(
                {"attributes": parent.attributes, "packets": parent.packets, "critic": parent.critic}
            ).state_dict()
        )
        inherit(networks, parent.codec, codec)
    tokens = encode(table, codec)
    config = FitConfig(steps=job.steps, budget_s=job.budget_s, learning_rate=2e-3 if parent else 3e-3)
    fit = Fit(
        networks,
        tokens,
        portrait_of_measured(table, tokens, codec),
        codec,
        config,
        job.seed,
        SystemClock(),
        report,
        threads=job.threads,
        device=device,
    )
    fit.run()
    facts = {
        **facts,
        "parent": parent.manifest["id"] if parent else None,
        "fit": {k: v for k, v in dataclasses.asdict(config).items() if k != "budget_s"},
        "torch": torch.__version__.split("+")[0],
        **fit.facts(),
    }
    return save_checkpoint(job.out, networks, fit.trees, codec, facts)


def _report(progress: Progress) -> None:
    _say(event="progress", **dataclasses.asdict(progress))


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if Path("/proc/self/oom_score_adj").exists() and os.access("/proc/self/oom_score_adj", os.W_OK):
        Path("/proc/self/oom_score_adj").write_text("500")  # of all of us, the kernel should end a trainer first
    status = main()
    sys.stderr.flush()
    os._exit(status)  # what was learned is on the disk, and to take down all that is loaded takes seconds
