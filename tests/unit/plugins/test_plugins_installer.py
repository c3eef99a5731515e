"""Installing and removing: the file system before and after, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from nsstream_plugins.installer import Installer
from nsstream_plugins.plugin import Plugin, PluginFile
from nsstream_plugins.record import record_path
from nsstream_plugins.registry import plugin_names

from nsstream.errors import InputError, OutputError, StateError

NOBODY = 65534


def snapshot(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Every name below a directory: mode, owner, time of a file's change, content."""
    found = {}
    for path in sorted(root.rglob("*")):
        told = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        changed = told.st_mtime_ns if stat.S_ISREG(told.st_mode) else 0
        found[str(path.relative_to(root))] = (told.st_mode, told.st_uid, changed, content)
    return found


def made(home: Path, *names: str, octets: bytes = b"one\n", plugin: str = "sample") -> Plugin:
    files = [PluginFile(home / name, octets, 0o755) for name in names]
    return Plugin(plugin, "Sample", "for tests", lambda scope: files)


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".config").mkdir(parents=True)
    (home / ".config" / "mine").write_text("mine")
    monkeypatch.setenv("HOME", str(home))
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return home


def test_what_is_removed_leaves_nothing_and_what_stays_is_whole(home):
    before = snapshot(home)
    installer = Installer("user")
    installer.install(made(home, ".config/tool/deep/a", "b"))
    assert stat.S_IMODE((home / "b").stat().st_mode) == 0o755
    assert (home / ".config/tool/deep/a").read_bytes() == b"one\n"
    between = snapshot(home)
    installer.install(made(home, ".config/tool/c", plugin="other"))
    installer.remove("other")
    assert {name: told for name, told in snapshot(home).items() if not name.endswith(".json")} == {
        name: told for name, told in between.items() if not name.endswith(".json")
    }
    done = installer.remove("sample")
    assert snapshot(home) == before
    assert any("deep/" in line for line in done)


def test_a_directory_that_two_plugins_use_goes_with_the_last_whichever_that_is(home):
    before = snapshot(home)
    installer = Installer("user")
    installer.install(made(home, "new/a"))
    installer.install(made(home, "new/b", plugin="other"))
    installer.remove("sample")
    assert (home / "new/b").exists()
    installer.remove("other")
    assert snapshot(home) == before


def test_installed_again_it_is_brought_up_to_date(home):
    before = snapshot(home)
    installer = Installer("user")
    installer.install(made(home, "new/a", "old/b"))
    installer.install(made(home, "new/a", "newer/c", octets=b"two\n"))
    assert (home / "new/a").read_bytes() == (home / "newer/c").read_bytes() == b"two\n"
    assert not (home / "old").exists()
    assert all(finding.is_good for finding in installer.findings(made(home, "new/a", "newer/c", octets=b"two\n")))
    assert not all(finding.is_good for finding in installer.findings(made(home, "new/a")))
    installer.remove("sample")
    assert snapshot(home) == before


def test_what_was_there_or_was_changed_since_is_not_touched_unless_forced(home):
    installer = Installer("user")
    (home / "a").write_text("the user's")
    before = snapshot(home)
    with pytest.raises(OutputError, match="is there already, and not of nsstream"):
        installer.install(made(home, "new/b", "a"), is_forced=True)
    assert snapshot(home) == before
    installer.install(made(home, "c"))
    with pytest.raises(OutputError, match="of the plugin 'sample'"):
        installer.install(made(home, "c", plugin="other"))
    (home / "c").write_text("edited")
    for act in (lambda: installer.install(made(home, "c")), lambda: installer.remove("sample")):
        with pytest.raises(OutputError, match="changed since sample was installed"):
            act()
    assert (home / "c").read_text() == "edited"
    installer.remove("sample", is_forced=True)
    assert snapshot(home) == before


def test_an_install_that_fails_in_the_middle_leaves_what_was_there(home):
    installer = Installer("user")
    (home / "file").write_text("no directory")
    before = snapshot(home)
    with pytest.raises(OutputError):
        installer.install(made(home, "new/a", "file/b"))
    assert snapshot(home) == before
    installer.install(made(home, "new/a"))
    between = snapshot(home)
    with pytest.raises(OutputError):
        installer.install(made(home, "new/a", "other/b", "file/c", octets=b"two\n"))
    after = snapshot(home)
    assert {name: told[3] for name, told in after.items()} == {name: told[3] for name, told in between.items()}


def test_what_somebody_put_into_a_directory_of_ours_stays_and_is_named(home):
    installer = Installer("user")
    installer.install(made(home, "new/a"))
    (home / "new/theirs").write_text("theirs")
    assert f"left     {home / 'new'}/, which is not empty" in installer.remove("sample")
    assert [path.name for path in (home / "new").iterdir()] == ["theirs"]
    assert not record_path("user").exists()


def test_paths_and_records_that_cannot_be_are_refused(home):
    installer = Installer("user")
    for path in (Path("relative"), home / ".." / "x"):
        files = [PluginFile(path, b"")]
        with pytest.raises(InputError, match="absolute path"):
            installer.install(Plugin("sample", "", "", lambda scope, files=files: files))
    with pytest.raises(InputError, match="not installed"):
        installer.remove("sample")
    path = record_path("user")
    path.parent.mkdir(parents=True)
    for text in ("", "[]", '{"format": "x", "version": 1}', json.dumps({"format": "nsstream-plugins", "version": 1})):
        path.write_text(text)
        with pytest.raises(StateError, match=r"plugins\.json"):
            installer.installed()


def environment(home: Path) -> dict[str, str]:
    """Ours, of somebody who lives there, with the packages that this process imports."""
    path = os.pathsep.join(part for part in sys.path if part)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    return {**kept, "HOME": str(home), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def plugin(*words: str, home: Path, become: tuple[str, ...] = ()) -> str:
    """What ``nsstream plugin`` says."""
    command = [*become, sys.executable, "-P", "-m", "nsstream_daemon", "plugin", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(home), check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def ordinary(home) -> tuple[str, ...]:
    """A command that makes an ordinary user, who owns the home and nothing else; who may read a root's interpreter."""
    if os.geteuid() != 0:
        return ()
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for parent in home.parents[:-1]:
        parent.chmod(parent.stat().st_mode | 0o755)
    capabilities = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *capabilities)


def test_every_plugin_leaves_the_home_of_an_ordinary_user_as_it_was(home, ordinary):
    before = snapshot(home)
    for name in plugin_names():
        said = plugin("install", name, home=home, become=ordinary)
        assert snapshot(home) != before, said
        plugin("remove", name, home=home, become=ordinary)
        assert snapshot(home) == before
    for name in plugin_names():
        plugin("install", name, home=home, become=ordinary)
    for name in plugin_names():
        plugin("remove", name, home=home, become=ordinary)
    assert snapshot(home) == before


OVERLAYS = """
set -eu
mount -t tmpfs tmpfs "$1"
for layer in usr etc var; do
  mkdir -p "$1/$layer/upper" "$1/$layer/work"
  mount -t overlay overlay -o "lowerdir=/$layer,upperdir=$1/$layer/upper,workdir=$1/$layer/work" "/$layer"
done
exec "$2" -P -c "$3" "$@"
"""

INSTALL_AND_REMOVE = """
import os, stat, subprocess, sys
uppers, names = sys.argv[1], sys.argv[4:]
assert names
def directories():
    found = {}
    for top in ("/usr", "/etc", "/var"):
        for at, below, _ in os.walk(top):
            told = os.lstat(at)
            found[at] = told.st_mode, told.st_uid, told.st_gid
    return found
def changed():
    found = {}
    for layer in ("usr", "etc", "var"):
        top = f"{uppers}/{layer}/upper"
        for at, below, files in os.walk(top):
            for name in files:
                found[f"/{layer}{at.removeprefix(top)}/{name}"] = os.lstat(f"{at}/{name}")
    return found
def plugin(*words):
    command = [sys.executable, "-P", "-m", "nsstream_daemon", "plugin", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
before = directories()
assert not changed()
for name in names:
    plugin("install", name, "--system")
    made = changed()
    assert made, name
    assert all(told.st_mode & 0o444 == 0o444 for told in made.values()), made
    plugin("remove", name, "--system")
    assert not changed(), (name, sorted(changed()))
assert directories() == before
print("as it was")
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_every_plugin_leaves_the_system_as_it_was(tmp_path, home):
    """In layers of its own over /usr, /etc and /var, which show every file that is written or removed."""
    layers = tmp_path / "layers"
    layers.mkdir()
    command = ["unshare", "--mount", "sh", "-c", OVERLAYS, "sh", str(layers), sys.executable, INSTALL_AND_REMOVE]
    done = subprocess.run(
        [*command, *plugin_names()], capture_output=True, text=True, env=environment(home), check=False, cwd="/"
    )
    assert done.stdout == "as it was\n", done.stderr
