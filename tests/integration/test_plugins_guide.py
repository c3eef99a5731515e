"""The guide of docs/plugins.md, followed literally: its files, installed into a fresh environment, and its tests."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCK = re.compile(r"^`(?P<name>[\w./-]+)`:\n\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S = 300.0


def write_project(directory: Path) -> None:
    """Every file of the guide, as it stands there."""
    names = []
    for found in BLOCK.finditer(GUIDE.read_text(encoding="utf-8")):
        path = directory / found["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found["text"], encoding="utf-8")
        names.append(found["name"])
    assert "pyproject.toml" in names
    assert "tests/test_lines.py" in names


def install(python: Path, project: Path) -> None:
    """Without a network: by pip and hatchling where this environment has them, else as pip would leave it."""
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
    )  # fmt: skip
    (site / "where_nsstream_is.pth").write_text("\n".join(part for part in sys.path if Path(part).is_dir()) + "\n")
    if all(map(importlib.util.find_spec, ("pip", "hatchling"))):
        command = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            project,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        return
    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in told["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    (project / "nsstream_lines").rename(site / "nsstream_lines")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> tuple[Path, Path]:
    """The interpreter of a fresh environment with the guide's plugin in it, and where its project stands."""
    place = tmp_path_factory.mktemp("guide")
    project = place / "project"
    project.mkdir()
    write_project(project)
    venv.create(place / "env", with_pip=False, symlinks=True)
    python = place / "env" / "bin" / "python"
    install(python, project)
    return python, project


def run(environment: tuple[Path, Path], *words: str) -> str:
    python, project = environment
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XDG_"))}
    done = subprocess.run(
        [python, "-m", *words], capture_output=True, text=True, cwd=project / "tests", timeout=PATIENCE_S,
        env={**env, "HOME": str(project.parent)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_guides_plugin_passes_the_contract_it_ends_in(environment):
    assert "4 passed" in run(environment, "pytest", "-q", "-p", "no:cacheprovider", "test_lines.py")


def test_the_guides_plugin_is_one_of_ours(environment, tmp_path):
    assert "a log of lines: lines-to-nsstream" in run(environment, "nsstream_daemon", "plugin", "list")
    log = tmp_path / "log"
    log.write_text("1700000000000000000 192.0.2.1 198.51.100.2 17 1024 53 54\n")
    state = ("--state", str(tmp_path / "state"))
    told = run(environment, "nsstream_daemon", "ingest", f"lines:{log}", *state)
    assert re.search(r"^kept +1$", told, re.MULTILINE)
