"""Plugins by entry point: ours and a stranger's, and the command line that shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nsstream_plugins.plugin import Plugin, PluginFile, launcher
from nsstream_plugins.registry import load_plugin, plugin_names
from nsstream_plugins.testing import check_plugin

from nsstream.errors import InputError

STRANGER = """
from nsstream_plugins.plugin import Plugin, PluginFile, Finding, share_directory
PLUGIN = Plugin("stranger", "Strange tool", "what no other has",
    lambda scope: [PluginFile(share_directory(scope) / "stranger.conf", b"strange\\n")],
    programs=("no-such-program",), check=lambda scope: [Finding(True, "looked at")], next_step="look at it")
OTHER = PLUGIN
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A directory with a distribution of somebody else's, as pip would leave it."""
    (tmp_path / "strange.py").write_text(STRANGER)
    info = tmp_path / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[nsstream.plugins]\nstranger = strange:PLUGIN\nmisnamed = strange:OTHER\nbroken = strange:NONE\n"
    )
    return tmp_path


def nsstream(*words: str, path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    python_path = os.pathsep.join([str(path), *(part for part in sys.path if part)])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    return subprocess.run(
        [sys.executable, "-m", "nsstream_daemon", "plugin", *words],
        capture_output=True, text=True, env={**kept, "HOME": str(home), "PYTHONPATH": python_path}, check=False,
    )  # fmt: skip


def test_all_of_ours_load_and_say_what_they_are() -> None:
    names = plugin_names()
    assert "wireshark" in names
    for name in names:
        plugin = load_plugin(name)
        assert plugin.name == name
        assert plugin.tool
        assert "\n" not in plugin.summary
        for scope in ("user", "system"):
            files = plugin.files(scope)  # type: ignore[arg-type]
            assert files
            assert all(file.path.is_absolute() and file.octets for file in files)


@pytest.mark.parametrize("name", plugin_names())
def test_each_of_ours_keeps_the_rules_that_are_published(name: str, tmp_path: Path) -> None:
    check_plugin(load_plugin(name), tmp_path)


def test_a_plugin_that_breaks_a_rule_is_told_so(tmp_path: Path) -> None:
    for number, files in enumerate((
        [], [PluginFile(Path("relative"), b"x")], [PluginFile(Path("/etc/x"), b"x")],
        [PluginFile(tmp_path / "3" / "x", b"x", 0o777)], [PluginFile(tmp_path / "4" / "x", b"x")] * 2,
    )):  # fmt: skip
        home = tmp_path / str(number)
        home.mkdir()
        with pytest.raises(AssertionError):
            check_plugin(Plugin("sample", "", "", lambda scope, files=files: files), home)


def test_a_stranger_is_listed_installed_looked_at_and_removed_as_ours_are(stranger: Path) -> None:
    home = stranger / "home"
    home.mkdir()
    listed = nsstream("list", path=stranger, home=home).stdout
    assert "stranger   -             Strange tool: what no other has" in listed
    assert "broken     -             the plugin 'broken' of strange cannot be loaded" in listed
    assert "misnamed   -             the plugin 'misnamed' of strange is no Plugin of that name" in listed
    installed = nsstream("install", "stranger", "--user", path=stranger, home=home).stdout
    conf = home / ".local/share/nsstream/stranger.conf"
    assert f"wrote    {conf}" in installed
    assert "note     no-such-program is not installed" in installed
    assert "now      look at it" in installed
    assert "stranger   user " in nsstream("list", path=stranger, home=home).stdout
    looked = nsstream("doctor", path=stranger, home=home)
    assert looked.returncode == 1  # its program is missing
    assert "good  looked at" in looked.stdout
    assert f"good  {conf} is in place" in looked.stdout
    conf.write_text("edited")
    assert f"bad   {conf} was changed" in nsstream("doctor", "stranger", path=stranger, home=home).stdout
    refused = nsstream("remove", "stranger", "--user", path=stranger, home=home)
    assert refused.returncode == 1
    assert "changed since stranger was installed; --force" in refused.stderr
    assert f"removed  {conf}" in nsstream("remove", "stranger", "--user", "--force", path=stranger, home=home).stdout
    assert list(home.iterdir()) == []
    assert nsstream("doctor", "stranger", path=stranger, home=home).returncode == 1
    assert nsstream("doctor", path=stranger, home=home).returncode == 0


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="no plugin 'none'"):
        load_plugin("none")
    for name in ("", "Upper", "a/b", "a" * 41):
        with pytest.raises(ValueError, match="plugin's name"):
            Plugin(name, "", "", lambda scope: [])


def test_a_launcher_becomes_our_interpreter_and_hands_words_on_as_they_are(tmp_path: Path) -> None:
    path, ours, started_in = tmp_path / "launched", tmp_path / "ours", tmp_path / "started_in"
    for directory, text in ((ours, "print(os.getpid(), sys.argv[1:])"), (started_in, "print('the wrong one')")):
        directory.mkdir()
        (directory / "shown.py").write_text(f"import os, sys\n{text}\n")
    path.write_bytes(launcher("sample", "shown", "it's"))
    path.chmod(0o755)
    child = subprocess.Popen(
        [path, "a b", "$c"], stdout=subprocess.PIPE, text=True, cwd=started_in,
        env={**os.environ, "PYTHONPATH": str(ours)},
    )  # fmt: skip
    assert child.communicate()[0] == f"{child.pid} {['it' + chr(39) + 's', 'a b', '$c']}\n"
