"""A judge that finds what the file ``ratio`` in the folder QUICK says, 0.9 without it."""

import json
import os
import sys
from pathlib import Path

job, said = json.load(sys.stdin), Path(os.environ["QUICK"]) / "ratio"
ratio = float(said.read_text()) if said.exists() else 0.9
figures = {"loss": 10.0, "parent_loss": None, "ratio": None, "drift": None}
if job["parent"]:
    figures |= {"parent_loss": 10.0 / ratio, "ratio": ratio, "drift": 1.1}
drawn = {"drawn": 10, "frames": 100, "faults": 0, "copied": 0.0, "copied_floor": 0.0}
print(json.dumps({"event": "done", "figures": figures | drawn}))
