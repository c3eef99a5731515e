import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    *("demo", "twin", "ingest", "score", "train", "draw", "replay", "bench", "chunk", "send"),
    *("daemon", "validate", "ctl", "install-systemd", "compile", "bundled", "doctor", "backup", "restore"),
]
HEAVY = ["torch", "numba", "scipy", "sklearn", "pyarrow", "zmq"]


def nsstream(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsstream_daemon", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_help_names_every_command():
    result = nsstream("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    "command",
    [[c] for c in COMMANDS]
    + [["chunk", "list"], ["chunk", "show"], ["chunk", "export"], ["send", "start"], ["send", "stop"]]
    + [["ctl", "status"], ["ctl", "promote"], ["ctl", "forget"]],
)
def test_every_command_has_help(command: list[str]):
    result = nsstream(*command, "--help")
    assert result.returncode == 0
    assert f"nsstream {' '.join(command)}" in " ".join(result.stdout.split()).replace(
        "python -m nsstream_daemon", "nsstream"
    )


def test_help_loads_nothing_heavy():
    program = f"""
import sys
from nsstream_daemon.cli import app
try:
    app(["twin", "--help"])
except SystemExit:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.stderr.strip() == "[]"


def test_the_process_that_runs_a_twin_never_loads_torch():
    program = "import sys, nsstream.pipeline, nsstream.pipeline.by_hand, nsstream.score; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "False"


def test_the_version_is_told():
    assert nsstream("--version").stdout.startswith("nsstream 0.")


def test_an_unknown_option_is_a_usage_error():
    assert nsstream("twin", "--nonsense").returncode == 2


def test_a_state_directory_that_is_missing_is_named(tmp_path: Path):
    result = nsstream("chunk", "list", str(tmp_path / "nothing"))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"nsstream: there is no state directory {tmp_path / 'nothing'}\n"


def test_a_server_that_is_not_there_is_told(tmp_path: Path):
    result = nsstream("send", "status", "--endpoint", f"ipc://{tmp_path}/x.sock")
    assert result.returncode == 1
    assert "is it running?" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_benchmark_is_told():
    result = nsstream("bench", "nonsense")
    assert result.returncode == 1
    assert result.stderr.startswith("nsstream: there ")
