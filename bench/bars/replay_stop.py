"""How long after a stop the last frame arrives, paced and at top speed; kernel's stamps on the other side."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from bars.replay_frames import lab_frames, write_frames
from bars.replay_timing import sending, stamped
from bars.verdict import Bar, at_most
from bars.veth import veth_pair

LONGEST_MS = 100.0
LOOPS = 1000


def measure_stop(directory: Path, rounds: int) -> tuple[list[Bar], dict[str, object]]:
    """Stop runs that would go on; the bars, and all figures."""
    frames = lab_frames(2.0)  # 19,000 packets a second
    capture = directory / "stop.pcap"
    write_frames(capture, frames)
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"paced": [], "at top speed, capped at 50,000 a second": []}
    with veth_pair() as pair:
        for name, options in zip(found, ({"is_paced": True}, {"packets_per_s": 50_000}), strict=True):
            for _ in range(rounds):
                with (
                    stamped(pair, capture) as stamps,
                    sending(pair, capture, json.dumps({"loops": LOOPS} | options)) as sender,
                ):
                    assert sender.stdin is not None
                    sender.stdin.write("\n")
                    sender.stdin.flush()
                    time.sleep(float(rng.uniform(0.3, 0.7)))
                    told = json.loads(sender.communicate("stop\n")[0])
                found[name].append(max(0.0, (int(stamps[0][-1]) - told["stop_ns"][0]) / 1e6))
    bars = [at_most(f"{name}: last frame after a stop, ms, worst", max(ms), LONGEST_MS) for name, ms in found.items()]
    return bars, dict(found)
