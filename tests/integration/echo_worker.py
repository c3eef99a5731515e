"""A trainer that learns by heart: its checkpoint names the chunk. For tests of the path around the real trainer."""

import json
import sys
from pathlib import Path

from nsstream.chunk import read_chunk

job = json.load(sys.stdin)
chunk = read_chunk(Path(job["chunk"]))
print(json.dumps({"event": "progress", "stage": "likelihood", "step": 1, "steps": 1, "loss": 0.0}), flush=True)
checkpoint = Path(job["out"]) / chunk.id
checkpoint.mkdir(parents=True)
manifest = {"id": chunk.id, "start_ns": chunk.start_ns, "end_ns": chunk.end_ns, "chunk": job["chunk"]}
(checkpoint / "manifest.json").write_text(json.dumps(manifest))
print(json.dumps({"event": "done", "checkpoint": str(checkpoint), "packets": len(chunk.packets)}))
