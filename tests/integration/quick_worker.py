"""A trainer that learns by heart, and misbehaves where the environment says so: for tests of what stands around it.

QUICK is a folder. A file ``stuck``, ``leak``, ``crash``, ``error`` or ``gpu_full`` in it lets the next training fail
that way, and is taken away by that; while there is a file ``slow``, trainings go on. Each training appends its chunk to
``touched`` as it begins and to ``trained`` as it ends, how many rows that has to ``rows``, and leaves what GPUs it sees
in ``gpu``. It learns nothing, or what a checkpoint ``template`` knows.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from nsstream.chunk import read_chunk
from nsstream.encode.schema import SCHEMA_ID
from nsstream.model.identity import identity_of
from nsstream.model.schemas import FORMAT

quick, job = Path(os.environ["QUICK"]), json.load(sys.stdin)
chunk = read_chunk(Path(job["chunk"]))


def is_told(how: str) -> bool:
    try:
        (quick / how).unlink()
    except FileNotFoundError:
        return False
    return True


def say(step: int) -> None:
    line = {"event": "progress", "stage": "likelihood", "step": step, "steps": 9, "loss": 1.5, "left_s": 1.0}
    print(json.dumps(line), flush=True)


with (quick / "touched").open("a") as file:
    file.write(chunk.id + "\n")
with (quick / "rows").open("a") as file:
    file.write(f"{len(chunk.table)}\n")
say(0)
(quick / "pid").write_text(str(os.getpid()))
(quick / "gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
if is_told("stuck"):
    time.sleep(3600)
if is_told("leak"):
    ballast = bytearray(300 << 20)
    ballast[:: 1 << 12] = bytes([1]) * len(range(0, len(ballast), 1 << 12))
    time.sleep(3600)
if is_told("crash"):
    os.kill(os.getpid(), signal.SIGSEGV)
if is_told("gpu_full"):
    print(json.dumps({"event": "error", "message": "the GPU has no room", "kind": "gpu_memory"}), flush=True)
    sys.exit(1)
if is_told("error"):
    print(json.dumps({"event": "error", "message": "the loss is nan"}), flush=True)
    sys.exit(1)
step = 0
while (quick / "slow").exists():
    step += 1
    say(step)
    time.sleep(0.05)
with (quick / "trained").open("a") as file:
    file.write(chunk.id + "\n")
parent = json.loads((Path(job["parent"]) / "manifest.json").read_text())["id"] if job["parent"] else None
facts = {"parent": parent, "chunk": chunk.id}
if job.get("private"):
    facts["privacy"] = {"mechanisms": job["private"]["mechanisms"]}
template = quick / "template"
names = ("weights.safetensors", "codec.json")
weights, meaning = ((template / name).read_bytes() if template.exists() else b"nothing" for name in names)
told = json.loads((template / "manifest.json").read_text()) if template.exists() else {}
told = {name: told.get(name, known) for name, known in (("format", FORMAT), ("schema", SCHEMA_ID))}
name = identity_of(weights, meaning, facts)
new = Path(job["out"]) / f".new-{name}"
new.mkdir(parents=True, exist_ok=True)
(new / "weights.safetensors").write_bytes(weights)
(new / "codec.json").write_bytes(meaning)
manifest = {"id": name, **told, "start_ns": chunk.start_ns, "end_ns": chunk.end_ns, **facts}
(new / "manifest.json").write_text(json.dumps(manifest))
new.rename(Path(job["out"]) / name)
print(json.dumps({"event": "done", "checkpoint": str(Path(job["out"]) / name), "packets": len(chunk.table)}))
