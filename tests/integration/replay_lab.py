"""What tests of a replay server share: models by name, and waiting for a status."""

import json
import sys
import time
from pathlib import Path

RECORDED_SERVER = (sys.executable, str(Path(__file__).with_name("recorded_server.py")))
PATIENCE_S = 300.0
MS = 1_000_000


def make_model(directory, name, minute=0):
    path = directory / name
    path.mkdir()
    manifest = {"id": name, "start_ns": minute * 60 * 10**9, "end_ns": (minute + 1) * 60 * 10**9}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def status_when(client, is_so):
    """The first status of which something is so; fails after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so(status := client.status()):
        assert time.monotonic() < deadline, status
    return status
