"""Parts of the daemon by themselves: its voice to the service manager, its lock, what a reload changes, the screen."""

import io
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from made_status import status
from nsstream_daemon.log_format import JournalFormatter
from nsstream_daemon.reload import changes_of, refused_changes
from nsstream_daemon.sd_notify import Notifier
from nsstream_daemon.state_lock import StateLock
from nsstream_daemon.status_screen import chunks_table, duration, models_table, screen, size
from rich.console import Console

from nsstream.errors import OutputError, StateError
from nsstream.pipeline.service_config import ChunksSection, ServiceConfig, SourceSection, TrainingSection


def heard_from(tmp_path: Path, say: Any, **environ: str) -> list[str]:
    """What a service manager hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        manager.setblocking(False)
        say(Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")} | environ))
        told = []
        while True:
            try:
                told.append(manager.recv(4096).decode())
            except BlockingIOError:
                return told


def test_the_manager_hears_each_state(tmp_path: Path):
    def say(notifier: Notifier) -> None:
        notifier.status("3 chunks\nall well")
        notifier.reloading()
        notifier.ready()
        notifier.stopping()

    told = heard_from(tmp_path, say)
    assert told[0] == "STATUS=3 chunks all well"
    first, second = told[1].splitlines()
    assert first == "RELOADING=1"
    assert 0 < int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert told[2:] == ["READY=1", "STOPPING=1"]


def test_the_watchdog_is_fed_by_beats_at_a_quarter_of_its_limit(tmp_path: Path):
    def say(notifier: Notifier) -> None:
        for _ in range(100):
            notifier.beat()

    assert heard_from(tmp_path, say, WATCHDOG_USEC="3600000000") == ["WATCHDOG=1"]


def test_nobody_is_told_where_nobody_listens(tmp_path: Path):
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert heard_from(tmp_path, lambda notifier: notifier.beat()) == []
    (tmp_path / "n").unlink()
    assert heard_from(tmp_path, lambda n: n.beat(), WATCHDOG_USEC="9000000", WATCHDOG_PID="1") == []


def test_an_abstract_socket_is_reached():
    name = f"\0nsstream-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(10)
        Notifier({"NOTIFY_SOCKET": "@" + name[1:]}).ready()
        assert manager.recv(100) == b"READY=1"


def test_a_state_is_locked_for_one_and_free_again(tmp_path: Path):
    lock = StateLock(tmp_path / "s")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    with pytest.raises(StateError, match=f"is held by another daemon, pid {os.getpid()}; stop it"):
        StateLock(tmp_path / "s")
    lock.release()
    StateLock(tmp_path / "s").release()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot use the state directory"):
        StateLock(tmp_path / "file")


CONFIG = ServiceConfig(state=Path("/s"), source=SourceSection(input="x"))


def test_what_is_live_may_change_and_the_rest_is_named():
    later = ServiceConfig(
        state=Path("/s"),
        source=SourceSection(input="y"),
        chunks=ChunksSection(keep_octets=5, length_s=9.0),
        training=TrainingSection(attempts=7),
    )
    assert changes_of(CONFIG, later) == {
        "source.input": "y", "chunks.length_s": 9.0, "chunks.keep_octets": 5, "training.attempts": 7
    }  # fmt: skip
    assert refused_changes(CONFIG, later) == ["source.input", "chunks.length_s"]
    assert changes_of(CONFIG, CONFIG) == {}


def shown(renderable: Any) -> str:
    file = io.StringIO()
    Console(file=file, width=160).print(renderable)
    return file.getvalue()


def test_the_screen_says_what_is_wrong_first():
    text = shown(screen(status()))
    assert text.startswith("chunks died  running, up 1 d 1 h, pid 1, /s")
    for words in (
        "live:[eth0]: waiting [eth0] is down, opened again 3 times", "newest row 1 h 1 min ago",
        "10 late, 10 dropped (ring), 80 unsupported (arp)", "paused, 1 done, 2 waiting", "1 given up",
        "2 small chunks held for the next, 3 chunks skipped behind",
        "training seed of c for 5 s, likelihood, step 1,200, loss 1.500, 1 min 1 s left", "2 stuck",
        "none yet", "refused: its loss [x] is bad", "chunks 999 B, models 1.0 TB, 5.0 GB free", "123.5 MB",
    ):  # fmt: skip
        assert words in text, text


def test_training_that_is_off_is_told():
    assert "off" in shown(screen(status(training={"enabled": False})))


def test_tables_show_what_became_of_each():
    chunk = {
        "id": "c", "row_count": 1234, "conversations": 5, "fate": "queued", "reason": None, "model": None,
        "passed": None, "job_state": "poisoned", "job_reason": "[bad] luck",
    }  # fmt: skip
    chunks = [
        chunk, chunk | {"fate": "held"}, chunk | {"fate": "skipped", "reason": "too_small"},
        chunk | {"model": "m", "passed": 1},
    ]  # fmt: skip
    lines = shown(chunks_table(chunks)).splitlines()[1:]
    ends = ["poisoned: [bad] luck", "held for the next, it is small", "skipped: too small", "model m, passed"]
    assert [line.rstrip().endswith(end) for line, end in zip(lines, ends, strict=True)] == [True] * 4
    models = [status()["training"]["newest"], status()["training"]["newest"] | {"id": "d", "is_stored": False}]
    lines = shown(models_table(models, "abc")).splitlines()[1:]
    assert lines[0].startswith("*  abc")
    assert "(d)" in lines[1]
    assert "refused: its loss [x] is bad" in lines[0]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h")]
)
def test_durations_have_two_units(seconds: float, told: str):
    assert duration(seconds) == told


@pytest.mark.parametrize(("octets", "told"), [(0, "0 B"), (1_500, "1.5 kB"), (2 * 10**9, "2.0 GB")])
def test_sizes_have_one(octets: int, told: str):
    assert size(octets) == told


def test_the_journal_gets_a_priority_a_line_and_a_terminal_a_time():
    record = logging.LogRecord("x", logging.WARNING, "", 0, "a\nb", (), None)
    assert JournalFormatter(is_journal=True).format(record) == "<4>a\n<4>b"
    assert JournalFormatter(is_journal=False).format(record).endswith("Z WARNING a\nb")
