"""A veth pair in two network namespaces of its own, and tcpreplay that sends a capture through it.

Owns the namespaces `nsbars<pid>-tx` and `nsbars<pid>-rx` and nothing else; both are removed, and the pair with them,
when the context ends, and those of a benchmark that was killed when the next one starts. Neither end has an address,
and IPv6 is off, so that nothing but the capture crosses the pair. Needs root, iproute2 and tcpreplay.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nsstream.errors import NsstreamError

ARRIVAL_S = 5.0  # how long the last frames may take to be counted at the other end


class VethError(NsstreamError):
    """The pair cannot be made, or tcpreplay did not run; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What tcpreplay says it sent, and what the other end of the pair counted."""

    attempted_count: int
    successful_count: int
    failed_count: int
    received_count: int
    received_bytes: int
    elapsed_s: float
    sending_s: float  # as tcpreplay says, from its first packet to its last
    cpu_s: float  # of tcpreplay, its start and preload included


@dataclass(frozen=True, slots=True)
class VethPair:
    sender: str  # namespace of the device `tx`
    receiver: str  # namespace of the device `rx`

    def send(self, capture: Path, *options: str, under: Sequence[str] = ()) -> Sent:
        """Send an uncompressed capture once (options: of tcpreplay, such as --topspeed); raises VethError.

        under: a command that runs tcpreplay, such as ``chrt -f 1``.
        """
        packets_before, bytes_before = self.received()
        command = ["ip", "netns", "exec", self.sender, *under, "tcpreplay", "--intf1=tx", *options, str(capture)]
        began_s, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        elapsed_s = time.perf_counter() - began_s
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        counts = {name: _count(done.stdout, name) for name in ("Actual", "Successful packets", "Failed packets")}
        if done.returncode or None in counts.values():
            message = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise VethError(f"{capture}: tcpreplay cannot send it (exit {done.returncode}): {message}")
        wanted = packets_before + (counts["Successful packets"] or 0)
        self.wait_for(wanted)
        received = self.received()
        attempted, successful, failed = (count or 0 for count in counts.values())
        packets, octets = received[0] - packets_before, received[1] - bytes_before
        sending = re.search(r"sent in ([\d.]+) seconds", done.stdout)
        sending_s = float(sending[1]) if sending else elapsed_s
        cpu_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        return Sent(attempted, successful, failed, packets, octets, elapsed_s, sending_s, cpu_s)

    def wait_for(self, packet_count: int) -> int:
        """Wait until the receiver has counted so many packets since it came to be; how many it has."""
        deadline_s = time.monotonic() + ARRIVAL_S
        while (received := self.received()[0]) < packet_count and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return received

    def received(self) -> tuple[int, int]:
        """Packets and octets that the receiver's device has counted since it came to be."""
        shown = _run("ip", "-n", self.receiver, "-json", "-statistics", "link", "show", "dev", "rx")
        counters = json.loads(shown)[0]["stats64"]["rx"]
        return int(counters["packets"]), int(counters["bytes"])


@contextmanager
def veth_pair(mtu: int = 1500) -> Iterator[VethPair]:
    """Make the pair; raises VethError where a right, a tool or a kernel feature is missing."""
    if os.geteuid() != 0:
        raise VethError("network namespaces need root: run this as root or with sudo")
    for tool, package in (("ip", "iproute2"), ("tcpreplay", "tcpreplay")):
        if shutil.which(tool) is None:
            raise VethError(f"{tool} is not installed: apt-get install {package}")
    _sweep()
    pair = VethPair(f"nsbars{os.getpid()}-tx", f"nsbars{os.getpid()}-rx")
    try:
        for namespace in (pair.sender, pair.receiver):
            _run("ip", "netns", "add", namespace)
            no_ipv6 = "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e $f ] || echo 1 >$f; done"
            _run("ip", "netns", "exec", namespace, "sh", "-c", no_ipv6)
        tx, rx = (["name", d, "mtu", str(mtu), "netns", n] for d, n in (("tx", pair.sender), ("rx", pair.receiver)))
        _run("ip", "link", "add", *tx, "type", "veth", "peer", *rx)
        for namespace, device in ((pair.receiver, "rx"), (pair.sender, "tx")):
            _run("ip", "-n", namespace, "link", "set", "dev", device, "up")
        yield pair
    finally:
        for namespace in (pair.sender, pair.receiver):
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL, check=False)


def _sweep() -> None:
    """Remove what processes left that are gone."""
    for line in _run("ip", "netns", "list").splitlines():
        found = re.match(r"nsbars(\d+)-[tr]x\b", line)
        if found and not Path("/proc", found[1]).exists():
            # Another benchmark may do so at the same time.
            subprocess.run(["ip", "netns", "del", found[0]], stderr=subprocess.DEVNULL, check=False)


def _count(text: str, name: str) -> int | None:
    found = re.search(rf"{name}:\s+(\d+)", text)
    return int(found[1]) if found else None


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise VethError(f"{' '.join(command)}: {done.stderr.strip() or 'failed'}")
    return done.stdout
