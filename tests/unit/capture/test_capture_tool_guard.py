"""ToolGuard: a tool does not outlive the process that started it, though that is killed with -9."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsstream.capture.child import ChildSource, tcpdump_command
from nsstream.capture.tool_guard import ToolGuard

PARENT = """
import sys, time
from nsstream.capture.child import ChildSource
source = ChildSource(sys.argv[1:])
source.open()
print(source._tool._child.pid, source._tool._guard._shell.pid, flush=True)
time.sleep(1000)
"""


def is_gone(pid: int) -> bool:
    """Also where it is dead and nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < until_s, "it did not become so in time"
        time.sleep(0.01)


def kill_parent_of(command: list[str]) -> list[int]:
    """Kill -9 a process that reads such a tool, once the tool runs; the pids of the tool and of its guard."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(map(is_gone, pids))
    finally:
        parent.kill()
        parent.communicate()
    return pids


def test_tool_and_what_it_started_are_gone_when_the_parent_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    pids = kill_parent_of(["sh", "-c", f"trap '' TERM HUP; sleep 1000 & echo $! > {pid}; wait"])
    for each in (*pids, int(pid.read_text())):
        wait_until(lambda each=each: is_gone(each))


@pytest.mark.root
@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump")
def test_tcpdump_that_became_another_user_is_gone_too() -> None:
    """What PR_SET_PDEATHSIG does not do. No packet comes, so that no SIGPIPE ends it."""
    for each in kill_parent_of(tcpdump_command("lo", capture_filter="udp port 9 and src 192.0.2.77")):
        wait_until(lambda each=each: is_gone(each))


def test_close_leaves_no_guard() -> None:
    source = ChildSource(["sleep", "1000"])
    source.open()
    assert source._tool is not None
    guard = source._tool._guard._shell.pid
    source.close()
    with pytest.raises(ProcessLookupError):
        os.kill(guard, 0)


def test_dismissed_guard_leaves_the_group_alone() -> None:
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        ToolGuard(sleeper.pid).dismiss()
        with pytest.raises(subprocess.TimeoutExpired):
            sleeper.wait(0.3)
    finally:
        sleeper.send_signal(signal.SIGKILL)
        sleeper.wait()
