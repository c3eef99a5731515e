"""A status as a daemon gives it: for tests of what shows it."""

from typing import Any


def status(**changes: Any) -> dict[str, Any]:
    tally = {
        "offered": 1000, "kept": 900, "late": 10, "future": 0, "parked": 0, "sampled_out": 0,
        "malformed": {}, "unsupported": {"arp": 80}, "dropped": {"ring": 10},
    }  # fmt: skip
    worker = {
        "name": "train-0", "state": "training", "chunk": "c", "is_seed": True, "stage": "likelihood", "step": 1200,
        "loss": 1.5, "left_s": 61.0, "for_s": 5.0,
    }  # fmt: skip
    model = {
        "id": "abc", "parent": None, "start_ns": 0, "end_ns": 1, "trained_ns": 2, "training_s": 5.0, "passed": False,
        "complaints": ["its loss [x] is bad"], "figures": {"loss": 1.0, "ratio": 1.25, "drift": 0.5}, "is_stored": True,
    }  # fmt: skip
    capture = {
        "source": "live:[eth0]", "state": "waiting", "error": "[eth0] is down", "restarts": 3, "rows_per_s": 12.0,
        "latest_ns": 5, "lag_s": 3700.0, "open_rows": 4, "waiting_rows": 0, "unprotected_rows": 0,
        "recovered_rows": 0, "chunks": 6, "expired": 1, "tally": tally,
    }  # fmt: skip
    privacy = {
        "mode": "private", "unit": "host", "epsilon": 8.0, "delta": 1e-5, "horizon_s": 2_592_000.0,
        "epsilon_for_ever": 20.0, "chunk_epsilon": 1.0, "jobs": 7, "unsettled": 1, "gaps": 0, "unknown": False,
        "spent": 2.5, "left": 5.5, "spent_day": 1.0, "spent_for_ever": 4.0, "left_for_ever": 16.0,
        "runs_out_s": 300_000.0, "runs_out_for_ever_s": None, "refused": {"privacy_budget": 2},
    }  # fmt: skip
    training = {
        "enabled": True, "paused": True, "held": True, "failures": {"stuck": 2}, "training_s": 1.0, "taken_back": 0,
        "jobs": dict.fromkeys(("pending", "claimed", "running", "done", "failed", "poisoned", "skipped"), 1),
        "chunks": {"queued": 1, "held": 2, "skipped_behind": 3}, "workers": [worker, worker | {"state": "idle"}],
        "models": {"passed": 4, "refused": 1, "promotions": 4}, "promoted": None, "newest": model,
        "privacy": privacy,
    }  # fmt: skip
    return {
        "version": "0", "pid": 1, "state": "running", "state_directory": "/s", "uptime_s": 90_061.0, "healthy": False,
        "ready": True, "problems": ["chunks died"], "memory_octets": 123_456_789, "capture": capture,
        "training": training, "disk": {"chunks_octets": 999, "models_octets": 10**12, "free_octets": 5 * 10**9},
    } | changes  # fmt: skip
