"""The judge: one process, one checkpoint. ``python -m nsstream.pipeline.judge_worker`` reads a job, and says figures.

stdin: one JSON object (`train.evaluate.EvaluateJob`). stdout: JSON lines, ``progress`` (stage), then ``done`` with
`figures`, or ``error`` (message). Exit status 0 or 1. Figures, beside those of `train.evaluate`: `drawn` conversations
and `frames`, how many of these are unlawful (`faults`), and what share of the drawn flows of six packets or more stands
in the chunk, size by size (`copied`), beside what two halves of the chunk share (`copied_floor`). A checkpoint of flows
is lawful by construction; nothing is drawn of it, and those figures are None. A judge that is blind (`is_blind`, for
private jobs) looks at no row of the chunk: all that it would measure there is None, too.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble import Assembler
from nsstream.chunk import ChunkStore, Kind
from nsstream.draw import Drawer
from nsstream.encode.decoding import Endpoints
from nsstream.errors import NsstreamError
from nsstream.replay.frame_packets import packets_of
from nsstream.score.copying import copying
from nsstream.score.lawful import faults
from nsstream.score.observed import halves, observe
from nsstream.train.evaluate import EvaluateJob, evaluate
from nsstream.train.evaluate_flows import evaluate_flows

UNSEEN = {"loss": None, "parent_loss": None, "ratio": None, "drift": None}
NOTHING_DRAWN = {"drawn": None, "frames": None, "faults": None, "copied": None, "copied_floor": None}


def main() -> int:
    """Do the job on stdin."""
    try:
        job = EvaluateJob.parse(sys.stdin.read())
        _say(event="done", figures=judge(job))
    except NsstreamError as err:
        _say(event="error", message=str(err))
        return 1
    except Exception as err:
        traceback.print_exc()
        _say(event="error", message=f"the judge failed: {type(err).__name__}: {err}")
        return 1
    return 0


def judge(job: EvaluateJob) -> dict[str, Any]:
    """The figures of one checkpoint; raises as `evaluate` does."""
    if ChunkStore(job.chunk.parent).info(job.chunk).kind is Kind.FLOWS:
        return (UNSEEN if job.is_blind else evaluate_flows(job)) | NOTHING_DRAWN
    figures = UNSEEN if job.is_blind else evaluate(job)
    _say(event="progress", stage="draw")
    return figures | _drawn(job)


def _drawn(job: EvaluateJob) -> dict[str, Any]:
    rng = np.random.default_rng(job.seed)

    def some(ends: Endpoints) -> NDArray[np.bool_]:
        chosen = np.zeros(len(ends.initiator_port), bool)
        chosen[rng.permutation(len(chosen))[: job.drawn_conversations]] = True
        return chosen

    table = Drawer(job.seed, job.threads).draw(job.candidate, turn=0, select=some)
    _say(event="progress", stage="assemble")
    frames = Assembler(rng).assemble(table)
    figures: dict[str, Any] = NOTHING_DRAWN | {"drawn": len(table), "frames": len(frames)}
    if not len(frames):
        return figures
    lengths = np.diff(frames.offset)
    figures["faults"] = int(np.count_nonzero(faults(frames.octets, frames.offset[:-1], lengths)))
    if job.is_blind:
        return figures
    real = observe(ChunkStore(job.chunk.parent).read(job.chunk).packets)
    one, other = halves(real, rng)
    figures["copied"] = copying(real, observe(packets_of(frames)))["flow_fingerprints"]
    figures["copied_floor"] = copying(one, other)["flow_fingerprints"]
    return figures


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # what was found is said, and to take down all that is loaded takes seconds
