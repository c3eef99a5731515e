"""Real child processes that behave and misbehave."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest

from nsstream.pipeline.child import CancelledError, ChildFailedError, Failure, Leash, run_job


def run(
    program: str,
    *,
    limit_s: float | None = 30,
    silence_s: float = 30,
    cancelled: Event | None = None,
    leash: Leash | None = None,
) -> Any:
    lines: list[dict[str, Any]] = []
    command = [sys.executable, "-c", "import json, os, signal, sys, time\n" + program]
    done = run_job(
        command,
        {"n": 3},
        lines.append,
        cancelled=cancelled or Event(),
        limit_s=limit_s,
        silence_s=silence_s,
        leash=leash,
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
        ("while True: sys.stdout.write('x' * 65536)", "a line of more than 1048576 octets"),
        ("sys.stderr.write('y' * 100_000 + '\\nout of luck\\n'); sys.exit(5)", "status 5: out of luck$"),
        ("os.close(0); sys.exit(4)", "ended with status 4"),
    ],
)
def test_a_child_that_fails_says_why(program: str, reason: str):
    with pytest.raises(ChildFailedError, match=reason):
        run(program)


def test_a_child_is_started_and_says_why_it_failed_where_no_disk_has_room(monkeypatch: pytest.MonkeyPatch):
    def full() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ChildFailedError, match="status 5: out of luck"):
        run("sys.stderr.write('out of luck'); sys.exit(5)")


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


@pytest.mark.parametrize(
    ("program", "settings", "kind"),
    [
        ("time.sleep(600)", {"silence_s": 0.5}, Failure.STUCK),
        ("while True: print('{}', flush=True); time.sleep(0.05)", {"limit_s": 1}, Failure.TIME),
        ("os.kill(os.getpid(), signal.SIGSEGV)", {}, Failure.DIED),
        ('print(json.dumps({"event": "error", "message": "no"})); sys.exit(1)', {}, Failure.ERROR),
        ("a = b'x' * (200 << 20); time.sleep(600)", {"leash": Leash(most_octets=100 << 20)}, Failure.MEMORY),
    ],
)
def test_a_failure_is_told_by_its_kind(program: str, settings: dict[str, Any], kind: Failure):
    with pytest.raises(ChildFailedError) as raised:
        run(program, **settings)
    assert raised.value.kind is kind


def test_a_child_may_pass_on_the_kind_of_another_s_failure():
    for said, kind in (("lost", Failure.LOST), ("nonsense", Failure.ERROR)):
        with pytest.raises(ChildFailedError, match=r"^gone$") as raised:
            run(f'print(json.dumps({{"event": "error", "message": "gone", "kind": "{said}"}})); sys.exit(1)')
        assert (raised.value.kind, raised.value.is_told) == (kind, True)
    with pytest.raises(ChildFailedError) as raised:
        run("sys.exit(1)")
    assert (raised.value.kind, raised.value.is_told) == (Failure.DIED, False)


def test_a_child_on_a_leash_runs_where_and_as_it_is_told():
    core = min(os.sched_getaffinity(0))
    tell = """
print(json.dumps({"event": "done", "nice": os.nice(0), "cores": sorted(os.sched_getaffinity(0)), "x": os.environ["X"],
                  "home": "PATH" in os.environ}))
"""
    done, _ = run(tell, leash=Leash((core,), (os.nice(0) and 19) or 7, {"X": "gpu-1"}))
    assert done["cores"] == [core]
    assert done["nice"] >= 7
    assert done["x"] == "gpu-1"
    assert done["home"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a capability to give away")
def test_a_child_on_a_leash_has_no_ambient_capabilities():
    parent = """
import sys
from threading import Event
from nsstream.pipeline.child import Leash, run_job
tell = "import json; print(json.dumps({'event': 'done', 'status': open('/proc/self/status').read()}))"
for leash in (None, Leash()):
    done = run_job([sys.executable, "-c", tell], {}, print, cancelled=Event(), limit_s=30, silence_s=30, leash=leash)
    print(next(line for line in done["status"].splitlines() if line.startswith("CapAmb")))
"""
    given = ["setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw", sys.executable, "-c", parent]
    told = subprocess.run(given, capture_output=True, text=True, timeout=300)
    assert told.stdout == "CapAmb:\t0000000000002000\nCapAmb:\t0000000000000000\n", told.stderr


def test_a_processor_that_is_not_there_is_a_failure_that_says_so():
    with pytest.raises(ChildFailedError, match="taskset: failed to set"):
        run("pass", leash=Leash((4000,)))


def test_what_a_child_started_ends_with_it(tmp_path: Path):
    pid = tmp_path / "pid"
    start = f"child = subprocess.Popen(['sleep', '600']); open({str(pid)!r}, 'w').write(str(child.pid)); "
    with pytest.raises(ChildFailedError, match="said nothing"):
        run("import subprocess; " + start + "time.sleep(600)", silence_s=1)
    wait_until(lambda: is_gone(int(pid.read_text())))


def test_a_child_on_a_leash_dies_with_its_parent(tmp_path: Path):
    pid = tmp_path / "pid"
    worker = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"""
import sys
from threading import Event
from nsstream.pipeline.child import Leash, run_job
run_job([sys.executable, "-c", {worker!r}], {{}}, print, cancelled=Event(), limit_s=None, silence_s=600, leash=Leash())
"""
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_until(lambda: pid.exists() and pid.read_text() != "")
    process.kill()
    process.wait()
    wait_until(lambda: is_gone(int(pid.read_text())))


def is_gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
