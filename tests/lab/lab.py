"""The lab's topology: clients and servers in network namespaces, joined by a Linux bridge and a router.

::

    client c1..c5 ── link ──┐                              ┌── link ── server s1..s5
    client c6 ── link(.1q) ─┤ bridge lan ─ router ─ bridge srv
    router ── link(.1q) ────┘   (capture here)  │
                                                └─── bridge home ─── link ── devices of `home`, by DHCP

The namespace ``core`` holds the bridges and routes between them. Every packet from or to a client crosses the bridge
``lan`` once, so one capture there sees all; the traffic of client c6 crosses it with an 802.1Q tag. What devices of a
home say crosses the bridge ``home``.

Owns: namespaces named ``nslab<pid>-<host>``, the folders ``/etc/netns/nslab<pid>-*`` (the resolver file of each
namespace), one temporary folder, and the processes started through it. `Lab.close` removes all of them and nothing
else; `sweep_stale_labs` does the same for a lab whose process was killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from links import Impairment, Link, dump_links

PREFIX = "nslab"
NETNS_ETC = Path("/etc/netns")
DOMAIN = "lab.test"
LAN, VLAN, SRV, HOME = "lan", "vlan10", "srv", "home"
VLAN_ID = 10
GATEWAYS = {  # (IPv4, IPv6) of the router on each network
    LAN: ("10.20.0.1/24", "2001:db8:20::1/64"),
    VLAN: ("10.20.10.1/24", "2001:db8:20:10::1/64"),
    SRV: ("198.51.100.1/24", "2001:db8:51::1/64"),
    HOME: ("10.30.0.1/24", "2001:db8:30::1/64"),
}


class LabError(Exception):
    """The lab cannot be built or a tool in it failed; the message is one sentence."""


@dataclass(frozen=True)
class Host:
    """One machine of the lab; its link does ``impairment`` in each direction.

    Those of `HOME` get no address here, but ask for one. ``ttl`` is what its packets begin with, and says whose the
    stack is (`STACKS`).
    """

    name: str
    network: str
    number: int
    impairment: Impairment
    ttl: int = 64
    has_ipv6: bool = True

    @property
    def ipv4(self) -> str:
        return GATEWAYS[self.network][0].replace(".1/24", f".{self.number}")

    @property
    def ipv6(self) -> str:
        return GATEWAYS[self.network][1].replace("::1/64", f"::{self.number:x}")


BRIDGES = (LAN, SRV, HOME)
STACKS = {  # TCP options that a stack does not have, by the TTL that it begins with
    128: ("timestamps",),
    255: ("timestamps", "sack", "window_scaling"),  # of a microcontroller
}
CLIENTS = (
    Host("c1", LAN, 11, Impairment(delay_s=0.0005, rate_bits_per_s=100e6)),
    Host("c2", LAN, 12, Impairment(delay_s=0.002, jitter_s=0.001, rate_bits_per_s=50e6, loss=0.002)),
    Host("c3", LAN, 13, Impairment(delay_s=0.012, jitter_s=0.006, rate_bits_per_s=8e6, loss=0.01)),
    Host("c4", LAN, 14, Impairment(delay_s=0.001, rate_bits_per_s=100e6)),
    Host("c5", LAN, 15, Impairment(delay_s=0.004, jitter_s=0.001, rate_bits_per_s=10e6, queue_s=0.04)),
    Host("c6", VLAN, 16, Impairment(delay_s=0.003, rate_bits_per_s=20e6, loss=0.005)),
)
SERVERS = (
    Host("s1", SRV, 53, Impairment(delay_s=0.0005)),
    Host("s2", SRV, 80, Impairment(delay_s=0.008, jitter_s=0.001, loss=0.003)),
    Host("s3", SRV, 81, Impairment(delay_s=0.020, jitter_s=0.003, loss=0.008)),
    Host("s4", SRV, 90, Impairment(delay_s=0.035, rate_bits_per_s=30e6, loss=0.005)),
    Host("s5", SRV, 22, Impairment(delay_s=0.012, loss=0.003)),
)
HOSTS = {host.name: host for host in CLIENTS + SERVERS}
RESOLVER = HOSTS["s1"]


class Lab:
    """A running topology of these hosts. Use it as a context manager; needs root.

    Raises:
        LabError: not root, or a command of the set-up failed.
    """

    def __init__(self, seed: int, hosts: tuple[Host, ...] = CLIENTS + SERVERS) -> None:
        self.name = f"{PREFIX}{os.getpid()}"
        self.seed = seed
        self.hosts = {host.name: host for host in hosts}
        self.directory = Path()
        self.closing = threading.Event()  # set when clients must stop
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: subprocess.Popen[bytes] | None = None
        self._namespaces: list[str] = []

    def __enter__(self) -> Lab:
        if os.geteuid() != 0:
            raise LabError("the lab builds network namespaces and needs root: run it as root or with sudo")
        sweep_stale_labs()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def namespace(self, host: str) -> str:
        """Return the name of a host's network namespace."""
        return f"{self.name}-{host}"

    def argv(self, host: str, *command: str) -> list[str]:
        """Return the command line that runs a command on a host."""
        return ["ip", "netns", "exec", self.namespace(host), *command]

    def run(self, host: str, *command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end; its exit status is the caller's to judge."""
        return subprocess.run(
            self.argv(host, *command), capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )

    def start(self, host: str, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Start a long-running command on a host; its output goes to the file ``log`` in the lab's folder."""
        with (self.directory / log).open("ab") as output:
            process = subprocess.Popen(
                self.argv(host, *command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        self._processes.append(process)
        return process

    def wait_for_port(self, host: str, port: int, *, timeout_s: float = 10.0) -> None:
        """Wait until something on a host listens on a TCP or UDP port."""
        deadline_s = time.monotonic() + timeout_s
        while not self.run(host, "ss", "-Hlntu", f"sport = :{port}").stdout.strip():
            if time.monotonic() > deadline_s:
                raise LabError(f"nothing listens on port {port} of {host} after {timeout_s:g} s")
            time.sleep(0.02)

    def close(self) -> None:
        """End the lab's processes, remove its namespaces and its files. Safe to call again."""
        self.closing.set()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2.0)
        for namespace in self._namespaces:
            _remove_namespace(namespace)
        for process in self._processes:
            process.kill()
            process.wait()
        if self._links is not None:
            assert self._links.stdin is not None
            assert self._links.stdout is not None
            self._links.stdin.close()
            self._links.stdout.close()
            self._links.wait()
        self._processes, self._namespaces, self._links = [], [], None
        with contextlib.suppress(OSError):
            NETNS_ETC.rmdir()  # only if it is empty
        if self.directory.name.startswith(self.name):
            shutil.rmtree(self.directory, ignore_errors=True)

    def _build(self) -> None:
        for name in ("wire", "core", *self.hosts):
            self._add_namespace(name)
        links = [
            Link(
                a=host.name,
                b=f"p-{host.name}",
                a_to_b=host.impairment,
                b_to_a=host.impairment,
                vlan=VLAN_ID if host.network == VLAN else None,
            )
            for host in self.hosts.values()
        ]
        links.append(Link(VLAN, "p-trunk", vlan=VLAN_ID))
        self._start_links(links)
        self._build_core(links)
        for host in self.hosts.values():
            self._build_host(host)

    def _add_namespace(self, host: str) -> None:
        namespace = self.namespace(host)
        etc = NETNS_ETC / namespace
        self._namespaces.append(namespace)
        etc.mkdir(parents=True)
        resolver = self._resolver(self.hosts[host]) if host in self.hosts else RESOLVER.ipv4
        (etc / "resolv.conf").write_text(
            f"nameserver {resolver}\nsearch {DOMAIN}\noptions timeout:1 attempts:3\n", encoding="ascii"
        )
        (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: dns\n", encoding="ascii")
        _ip("netns", "add", namespace)
        for setting in ("default.accept_dad=0", "default.accept_ra=0"):
            self._sysctl(host, f"net.ipv6.conf.{setting}")
        self._ip(host, "link", "set", "lo", "up")

    def _resolver(self, host: Host) -> str:
        if host.network == HOME:
            return GATEWAYS[HOME][0].split("/")[0]
        return RESOLVER.ipv6 if host.number % 2 == 0 else RESOLVER.ipv4  # half of the hosts ask over IPv6

    def _start_links(self, links: list[Link]) -> None:
        self._links = subprocess.Popen(
            self.argv("wire", sys.executable, str(Path(__file__).with_name("links.py"))),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._links.stdin is not None
        assert self._links.stdout is not None
        self._links.stdin.write(dump_links(links, self.seed).encode())
        self._links.stdin.flush()
        ready, _, _ = select.select([self._links.stdout], [], [], 10.0)
        if not ready or self._links.stdout.readline() != b"ready\n":
            raise LabError("the lab's links did not start: is /dev/net/tun there?")

    def _build_core(self, links: list[Link]) -> None:
        for bridge in BRIDGES:
            self._ip("core", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
        for link in links:
            self._ip("wire", "link", "set", link.b, "netns", self.namespace("core"))
            network = self.hosts[link.a].network if link.a in self.hosts else LAN
            bridge = network if network in BRIDGES else LAN
            self._ip("core", "link", "set", link.b, "addrgenmode", "none", "master", bridge, "up")
        self._ip("wire", "link", "set", VLAN, "netns", self.namespace("core"))
        for device, (ipv4, ipv6) in GATEWAYS.items():
            self._raise("core", device, ipv4, ipv6)
        self._sysctl("core", "net.ipv4.ip_forward=1")
        self._sysctl("core", "net.ipv6.conf.all.forwarding=1")

    def _build_host(self, host: Host) -> None:
        self._ip("wire", "link", "set", host.name, "netns", self.namespace(host.name))
        if host.network == HOME:
            self._build_device(host)
            return
        self._sysctl(host.name, f"net/ipv4/ip_default_ttl={host.ttl}")
        self._raise(host.name, host.name, f"{host.ipv4}/24", f"{host.ipv6}/64")
        for gateway in GATEWAYS[host.network]:
            self._ip(host.name, "route", "add", "default", "via", gateway.split("/")[0])

    def _build_device(self, host: Host) -> None:
        self._sysctl(host.name, f"net/ipv4/ip_default_ttl={host.ttl}")
        for option in STACKS.get(host.ttl, ()):
            self._sysctl(host.name, f"net/ipv4/tcp_{option}=0")
        self._sysctl(host.name, f"net/ipv6/conf/{host.name}/{'accept_ra=1' if host.has_ipv6 else 'disable_ipv6=1'}")
        self._ip(host.name, "link", "set", host.name, "up")

    def _raise(self, host: str, device: str, ipv4: str, ipv6: str) -> None:
        # A TAP has no offloads to switch off; a bridge does. Settings that a device fixes are off already.
        for offload in ("tx", "gso", "tso", "gro"):
            self.run(host, "ethtool", "-K", device, offload, "off")
        self._ip(host, "address", "add", ipv4, "dev", device)
        self._ip(host, "address", "add", ipv6, "dev", device, "nodad")
        self._ip(host, "link", "set", device, "up")

    def _ip(self, host: str, *arguments: str) -> None:
        _ip("-n", self.namespace(host), *arguments)

    def _sysctl(self, host: str, setting: str) -> None:
        name, value = setting.split("=")
        path = "/proc/sys/" + name.replace(".", "/")
        done = self.run(host, "sh", "-c", f"echo {value} > {path}")
        if done.returncode != 0:
            raise LabError(f"cannot set {setting} in a namespace of the lab: {done.stderr.strip()}")


def sweep_stale_labs() -> None:
    """Remove namespaces and folders of labs whose process is gone (killed before it could clean up)."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for namespace in re.findall(rf"^({PREFIX}\d+-\w+)", listed, re.MULTILINE):
        if _is_stale(namespace):
            _remove_namespace(namespace)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}[0-9]*-*"):
        if _is_stale(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_stale(name: str) -> bool:
    pid = re.match(rf"{PREFIX}(\d+)-", name)
    return pid is not None and not Path(f"/proc/{pid[1]}").exists()


def _remove_namespace(namespace: str) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        deadline_s = time.monotonic() + 2.0
        while pids := _pids(namespace):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.02)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)
    shutil.rmtree(NETNS_ETC / namespace, ignore_errors=True)


def _pids(namespace: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise LabError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
