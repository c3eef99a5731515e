"""Real child processes that behave and misbehave."""

import sys
import time
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest

from nsstream.pipeline.child import CancelledError, ChildFailedError, run_job


def run(program: str, *, limit_s: float | None = 30, silence_s: float = 30, cancelled: Event | None = None) -> Any:
    lines: list[dict[str, Any]] = []
    command = [sys.executable, "-c", "import json, os, signal, sys, time\n" + program]
    done = run_job(
        command, {"n": 3}, lines.append, cancelled=cancelled or Event(), limit_s=limit_s, silence_s=silence_s
    )
    return done, lines


def test_a_child_reads_its_job_and_its_lines_are_heard():
    done, lines = run("""
n = json.load(sys.stdin)["n"]
for i in range(n):
    print(json.dumps({"event": "progress", "step": i}), flush=True)
print(json.dumps({"event": "done", "checkpoint": "c"}))
""")
    assert done == {"event": "done", "checkpoint": "c"}
    assert [line["step"] for line in lines] == [0, 1, 2]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ('print(json.dumps({"event": "error", "message": "no data"})); sys.exit(1)', "^no data$"),
        ("sys.exit(3)", "ended with status 3$"),
        ("sys.exit('no module named x')", "ended with status 1: no module named x$"),
        ("raise KeyError('x')", "status 1: KeyError: 'x'"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("pass", "ended with status 0"),
        ('print(json.dumps({"event": "done"})); sys.exit(2)', "ended with status 2"),
        ("print('hello')", "not JSON"),
        ("print('[]')", "not a JSON object"),
        ("os.close(0); sys.exit(4)", "ended with status 4"),
    ],
)
def test_a_child_that_fails_says_why(program: str, reason: str):
    with pytest.raises(ChildFailedError, match=reason):
        run(program)


def test_a_silent_child_is_killed(tmp_path: Path):
    pid = tmp_path / "pid"
    with pytest.raises(ChildFailedError, match="said nothing"):
        run(f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)", silence_s=1)
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_a_child_that_talks_for_too_long_is_killed():
    with pytest.raises(ChildFailedError, match="still running"):
        run("while True: print('{}', flush=True); time.sleep(0.05)", limit_s=1)


def test_a_child_that_ignores_the_request_to_end_is_killed_all_the_same():
    with pytest.raises(ChildFailedError, match="said nothing"):
        run("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", silence_s=0.5)


def test_a_cancelled_run_ends_its_child():
    cancelled = Event()
    timer = Timer(0.3, cancelled.set)
    timer.start()
    began_s = time.monotonic()
    with pytest.raises(CancelledError):
        run("time.sleep(600)", cancelled=cancelled)
    timer.join()
    assert time.monotonic() - began_s < 60
