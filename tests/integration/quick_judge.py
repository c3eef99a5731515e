"""A judge that finds what files in the folder QUICK say: ``ratio`` and ``drift``, 0.9 and 1.1 without them, ``faults``.

A blind one finds nothing of the first two.
"""

import json
import os
import sys
from pathlib import Path

job, quick = json.load(sys.stdin), Path(os.environ["QUICK"])
ratio, drift = (
    float((quick / name).read_text()) if (quick / name).exists() else usual
    for name, usual in (("ratio", 0.9), ("drift", 1.1))
)
figures = {"loss": 10.0, "parent_loss": None, "ratio": None, "drift": None}
if job["is_blind"]:
    figures["loss"] = None
elif job["parent"]:
    figures |= {"parent_loss": 10.0 / ratio, "ratio": ratio, "drift": drift}
faults = int((quick / "faults").read_text()) if (quick / "faults").exists() else 0
drawn = {"drawn": 10, "frames": 100, "faults": faults, "copied": 0.0, "copied_floor": 0.0}
print(json.dumps({"event": "done", "figures": figures | drawn}))
