"""A real systemd for tests: booted by systemd-nspawn over an overlay of this machine's root, with nsstream installed.

What is installed is a virtual environment at /opt/nsstream: the packages under test, a script, and the files that a
wheel carries as data. The interpreter and the libraries are bound to where the units' ProtectHome= and PrivateTmp= do
not hide them. Machine code that numba made on this machine already is put where the units look for it. Nothing is left
on the host: overlay, namespace and interfaces go with the box.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from nsstream_daemon.control_server import ask

from nsstream.errors import NsstreamError

TOOLS = ("systemd-nspawn", "setpriv", "nsenter", "ip", "tcpreplay")
NEEDS = "needs root, systemd-nspawn (systemd-container), nsenter, iproute2 and tcpreplay"
HAS_TOOLS = os.geteuid() == 0 and all(map(shutil.which, TOOLS))
ROOT = Path(__file__).parents[2]
PACKAGES = ("nsstream", "nsstream_daemon", "nsstream_plugins")
NSSTREAM = "/opt/nsstream/bin/nsstream"
POWER_OFF = signal.SIGRTMIN + 4  # systemd(1)
PATIENCE_S = 300.0
BOOT_S = 300.0
COMPILES_S = 400.0  # numba, on a machine where nothing was used before
HOST, INSIDE = "192.0.2.1", "192.0.2.2"


def wait_until(holds: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """What `holds` gives, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
    return found


class Box:
    """One container, and a network namespace beside it with `tap` and `net` to the box's interfaces of that name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder / "box", folder / "box" / "root"
        self.namespace = f"nsstream-box-{os.getpid()}"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.leader = 0  # the box's first process, as it is numbered here
        self._environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "COLUMNS": "160"}

    def boot(self) -> None:
        """Bring it up; skips the test where this machine does not let us."""
        self._mount()
        self._install()
        site = Path(importlib.metadata.distribution("numpy").locate_file("")).resolve()
        command = [
            "setpriv", "--pdeathsig=TERM",  # where we are killed, it is powered off
            "systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot", "--register=no", "--private-network",
            "--console=pipe", f"--bind-ro={sys.base_prefix}:/opt/python", f"--bind-ro={site}:/opt/packages",
        ]  # fmt: skip
        if not Path("/run/systemd/system").is_dir():
            command.append("--keep-unit")  # there is no systemd here that could give it a unit of its own
        with (self.folder / "log").open("wb") as log:
            self._nspawn = subprocess.Popen(
                [*command, "systemd.unit=multi-user.target"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + BOOT_S
        while not self._is_up():
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "log").read_text(errors="replace").strip()
                pytest.skip(f"systemd-nspawn cannot boot here: {said[-500:]}")
            time.sleep(0.1)
        # An interpreter that is told where its library is by an absolute path would load the system's own, if any.
        self.write("/etc/ld.so.conf.d/0-python.conf", "/opt/python/lib\n")
        self.run("ldconfig")
        self._connect()

    def close(self) -> None:
        """Power it off, and remove what was made for it."""
        if self._nspawn is not None:
            if self._nspawn.poll() is None and self.leader:
                os.kill(self.leader, POWER_OFF)
            try:
                self._nspawn.wait(300)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True)
        for mounted in (self.root, self.folder):
            subprocess.run(["umount", "--lazy", str(mounted)], capture_output=True)

    def run(self, *command: str, ok: bool = True, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run a command in the box."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.leader), "--all", *command],
            capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, env=self._environment,
        )  # fmt: skip
        assert not ok or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def beside(self, *command: str) -> list[str]:
        """A command in the namespace beside the box."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def path(self, inside: str) -> Path:
        """Where a path of the box is."""
        return self.root / inside.lstrip("/")

    def write(self, inside: str, text: str) -> None:
        """Write a file in the box, from within: what is running there sees it as any other."""
        save = ["sh", "-c", 'mkdir -p "${1%/*}" && cat > "$1"', "-", inside]
        done = subprocess.run(
            ["nsenter", "--target", str(self.leader), "--all", *save],
            input=text, text=True, capture_output=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as systemd has them."""
        told = self.run("systemctl", "show", unit, *(f"--property={each}" for each in properties)).stdout
        return dict(line.split("=", 1) for line in told.splitlines())

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Entries of this boot."""
        told = self.run("journalctl", "--boot", "--output=json", "--all", "--no-pager", *matches).stdout
        return [json.loads(line) for line in told.splitlines()]

    def ask(self, command: str, **told: Any) -> Any:
        """What the daemon says on its control socket; None where nobody answers."""
        socket = Path("/proc", str(self.leader), "root", "run/nsstream/control.sock")
        try:
            return ask(socket, {"command": command, **told})
        except NsstreamError:
            return None

    def _is_up(self) -> bool:
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        try:
            self.leader = int(children.read_text().split()[0])
        except (OSError, IndexError):
            return False
        return self.run("systemctl", "is-system-running", ok=False).stdout.strip() in ("running", "degraded")

    def _mount(self) -> None:
        self.folder.mkdir()
        layers = [self.folder / name for name in ("upper", "work")]
        options = f"lowerdir=/,upperdir={layers[0]},workdir={layers[1]}"
        for command in (
            ["mount", "-t", "tmpfs", "tmpfs", str(self.folder)],
            ["mkdir", *map(str, layers), str(self.root)],
            ["mount", "-t", "overlay", "overlay", "-o", options, str(self.root)],
        ):  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no overlay of the root can be mounted here: {done.stderr.strip()}")
        for wanted in self.path("/etc/systemd/system").glob("*.wants/*"):
            wanted.unlink()  # the host's own services

    def _install(self) -> None:
        """Make /opt/nsstream."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        binaries, library = self.path("/opt/nsstream/bin"), self.path(f"/opt/nsstream/lib/{version}/site-packages")
        binaries.mkdir(parents=True)
        library.mkdir(parents=True)
        self.path("/opt/nsstream/pyvenv.cfg").write_text(
            "home = /opt/python/bin\ninclude-system-site-packages = false\n"
        )
        (binaries / "python3").symlink_to(f"/opt/python/bin/{version}")
        script = "#!/opt/nsstream/bin/python3\nfrom nsstream_daemon.cli import main\n\nmain()\n"
        (binaries / "nsstream").write_text(script)
        (binaries / "nsstream").chmod(0o755)
        (library / "packages.pth").write_text("/opt/packages\n")
        for name in PACKAGES:
            spec = find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            shutil.copytree(Path(spec.origin).parent, library / name)  # times as well: numba's code goes by them
        shutil.copytree(ROOT / "systemd", self.path("/opt/nsstream/share/nsstream/systemd"))
        for path in (self.path("/opt/nsstream"), *self.path("/opt/nsstream").rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        self._library = f"/opt/nsstream/lib/{version}/site-packages"

    def seed_machine_code(self, cache: str, user: str) -> None:
        """Put what numba compiled in this tree into the units' cache, which is empty after an installation."""
        from numba.core.caching import _CacheLocator

        library = self.path(self._library)
        for folder in {path.parent for path in library.rglob("*.nb[ic]")}:
            inside = "/" + str(folder.parent.relative_to(self.root) / "x.py")
            to = self.path(cache) / _CacheLocator.get_suitable_cache_subpath(inside)
            to.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("*.nb[ic]"):
                shutil.copy2(path, to)
        self.run("chown", "-R", f"{user}:{user}", cache)

    def _connect(self) -> None:
        """Two links between the box and the namespace beside it: `tap` without addresses, `net` with them."""
        net = self.namespace
        commands = [["ip", "netns", "add", net]]
        for name in ("tap", "net"):
            commands += [
                ["ip", "-n", net, "link", "add", name, "mtu", "9000", "type", "veth",
                 "peer", "name", name, "mtu", "9000", "netns", str(self.leader)],
                self.beside("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6"),
                ["ip", "-n", net, "link", "set", name, "up"],
            ]  # fmt: skip
        commands.append(["ip", "-n", net, "address", "add", f"{HOST}/30", "dev", "net"])
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}: {done.stderr}"
        for name in ("tap", "net"):
            self.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6")
            self.run("ip", "link", "set", name, "up")
        self.run("ip", "address", "add", f"{INSIDE}/30", "dev", "net")
