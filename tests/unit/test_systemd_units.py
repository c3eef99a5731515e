"""The shipped units are what systemd takes without a word, as hardened as is promised, and fit the configuration."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from nsstream_daemon.ctl_commands import DEFAULT_SOCKET
from nsstream_daemon.replay_commands import UNIT_ENDPOINT

from nsstream.pipeline.config_file import load_config

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = ["nsstreamd.service", "nsstream-replay.service"]
MOST_EXPOSURE = 20  # tenths

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def placed(unit: str, folder: Path) -> Path:
    """A unit as it stands where nsstream is installed: here the program is another one that is there."""
    path = folder / unit
    path.write_text((SYSTEMD / unit).read_text(encoding="utf-8").replace("/opt/nsstream/bin/nsstream", "/bin/true"))
    return path


@needs_systemd
@pytest.mark.parametrize("unit", [*UNITS, "nsstreamd.socket"])
def test_systemd_verifies_a_unit_without_a_word(unit: str, tmp_path: Path):
    needed = {unit} if unit in UNITS else {unit, "nsstreamd.service"}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(placed(each, tmp_path)) for each in sorted(needed))],
        capture_output=True, text=True, timeout=300, env=os.environ | {"SYSTEMD_LOG_LEVEL": "info"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_as_hardened_as_is_promised(unit: str, tmp_path: Path):
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", "--json=short"]
    done = subprocess.run([*command, str(placed(unit, tmp_path))], capture_output=True, text=True, timeout=300)
    told = {row["name"]: row.get("exposure") for row in json.loads(done.stdout)} if done.stdout else {}
    assert done.returncode == 0, f"{done.stderr} {told}"


@needs_systemd
def test_a_unit_whose_workers_have_a_gpu_is_hardened_nearly_so(tmp_path: Path):
    unit = placed("nsstreamd.service", tmp_path)
    drop_in = tmp_path / "nsstreamd.service.d" / "gpu.conf"
    drop_in.parent.mkdir()
    shutil.copy(SYSTEMD / "nsstreamd.service.d" / "gpu.conf", drop_in)
    verify = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "char-nvidia-uvm:rw" in done.stdout


@needs_systemd
def test_the_units_that_the_guide_has_for_ray_are_verified_and_as_hardened(tmp_path: Path):
    page = (SYSTEMD.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    assert told.keys() == {"nsstream-ray.service", "nsstreamd.service.d/ray.conf"}
    units = [placed("nsstreamd.service", tmp_path), tmp_path / "nsstream-ray.service"]
    units[1].write_text(told["nsstream-ray.service"].replace("/opt/nsstream/bin/ray", "/bin/true"))
    drop_in = tmp_path / "nsstreamd.service.d" / "ray.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(told["nsstreamd.service.d/ray.conf"])
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", str(units[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


@needs_systemd
@pytest.mark.root
def test_users_and_folders_are_made(tmp_path: Path):
    for kind in ("sysusers", "tmpfiles"):
        tool = shutil.which(f"systemd-{kind}")
        if tool is None:
            pytest.skip(f"systemd-{kind} is not installed")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("root:x:0:0:root:/root:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    for tool, options in (("sysusers", []), ("tmpfiles", ["--create"])):
        done = subprocess.run(
            [f"systemd-{tool}", *options, f"--root={tmp_path}", str(SYSTEMD / f"{tool}.d" / "nsstream.conf")],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    users = dict(re.findall(r"^([a-z-]+):x:(\d+):", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE))
    assert {"nsstream", "nsstream-replay"} <= users.keys()
    assert "nsstream-replay" in re.search(r"^nsstream:.*$", (tmp_path / "etc" / "group").read_text(), re.M)[0]
    state = tmp_path / "var" / "lib" / "nsstream"
    assert (state.stat().st_mode & 0o777, (state / "models").stat().st_mode & 0o777) == (0o700, 0o750)
    assert state.stat().st_uid == int(users["nsstream"])


def test_the_units_and_the_example_name_the_same_places():
    text = (SYSTEMD / "nsstreamd.service").read_text(encoding="utf-8")
    example = load_config(SYSTEMD / "nsstream.toml")
    assert f"ctl reload --socket {example.socket}" in text
    assert f"StateDirectory={example.state.name}\n" in text
    assert example.state == Path("/var/lib/nsstream")
    stop_s = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1])
    assert stop_s > example.control.stop_timeout_s
    replay = (SYSTEMD / "nsstream-replay.service").read_text(encoding="utf-8")
    assert str(example.state / "models") in replay
    assert f"--endpoint {UNIT_ENDPOINT} " in replay  # where `nsstream send` looks unless it is told
    assert str(DEFAULT_SOCKET) == str(example.socket)  # and `nsstream ctl`
