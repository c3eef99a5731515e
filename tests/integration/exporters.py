"""Real exporters and nfcapd on the same exports: a tee hands each datagram to nfcapd and to a source of ours.

Exporters that read an interface run in a network namespace with a veth pair; their exports come out by a socket that
was made in there. The others read a capture file.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import select
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nfdump_tools import DEADLINE_S, free_port, nfdump_rows, received_and_waiting, wait_until

from nsstream.capture.netflow_udp import NetflowUdpSource
from nsstream.capture.sockets import bind_socket
from nsstream.trace import FlowTable

# protocol, source, destination, their ports (nfdump's form for ICMP: 0 and type.code), packets, octets
Flow = tuple[int, str, str, str, str, int, int]

_CLONE_NEWNET = 0x40000000


@dataclass
class Tee:
    """Where exporters send to, and what came."""

    inlet: socket.socket
    targets: list[tuple[str, int]]
    datagrams: list[bytes] = field(default_factory=list)
    is_stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        return int(self.inlet.getsockname()[1])

    def run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outlet:
            while not self.is_stopping.is_set():
                if select.select([self.inlet], [], [], 0.05)[0]:
                    datagram = self.inlet.recv(65_535)
                    for target in self.targets:
                        outlet.sendto(datagram, target)
                    self.datagrams.append(datagram)


@contextmanager
def teed(directory: Path, source: NetflowUdpSource, inlet: socket.socket) -> Iterator[Tee]:
    """nfcapd and an open source behind one inlet; nfcapd has written its file when the context has ended."""
    port = free_port()
    files = directory / "nfcapd"
    files.mkdir()
    nfcapd = subprocess.Popen(
        ["nfcapd", "-w", str(files), "-p", str(port), "-b", "127.0.0.1", "-t", "3600"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    tee = Tee(inlet, [("127.0.0.1", port), source.listens_on])
    thread = threading.Thread(target=tee.run)
    try:
        wait_until(lambda: received_and_waiting(port) == 0)
        thread.start()
        yield tee
        wait_until(lambda: received_and_waiting(port) == 0)
    finally:
        tee.is_stopping.set()
        if thread.ident is not None:
            thread.join(DEADLINE_S)
        nfcapd.terminate()
        nfcapd.wait(DEADLINE_S)
        inlet.close()


def read_all(source: NetflowUdpSource, tee: Tee) -> FlowTable:
    """All flows of what the tee has handed on, and still does."""
    tables = []
    while True:
        flows = source.read_batch()
        assert flows is not None
        source.tally.check()
        tables.append(flows)
        is_all_there = sum(exporter.datagrams for exporter in source.decoder.exporters) == len(tee.datagrams)
        if not len(flows) and is_all_there and not select.select([tee.inlet], [], [], 0)[0]:
            return FlowTable.concatenate(tables)


def flows_of(table: FlowTable) -> Counter[Flow]:
    """How often each flow is there."""
    columns = (
        table.protocol_identifier.tolist(),
        table.source_address,
        table.destination_address,
        table.source_transport_port.tolist(),
        table.destination_transport_port.tolist(),
        table.icmp_type_code.tolist(),
        table.packet_delta_count.tolist(),
        table.octet_delta_count.tolist(),
    )
    return Counter(
        (
            protocol,
            _address(source.tobytes()),
            _address(destination.tobytes()),
            str(source_port),
            f"{kind >> 8}.{kind & 0xFF}" if protocol in (1, 58) else str(destination_port),
            packets,
            octets,
        )
        for protocol, source, destination, source_port, destination_port, kind, packets, octets in zip(
            *columns, strict=True
        )
    )


def flows_of_nfcapd(directory: Path) -> Counter[Flow]:
    """How often each flow is in the file that nfcapd wrote, as nfdump prints it."""
    (path,) = (directory / "nfcapd").glob("nfcapd.2*")
    protocols = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMP6": 58}
    return Counter(
        (protocols[row["pr"]], row["sa"], row["da"], row["sp"], row["dp"], int(row["ipkt"]), int(row["ibyt"]))
        for row in nfdump_rows(path)
    )


@contextmanager
def namespace_with_veth() -> Iterator[str]:
    """A network namespace with the devices `tx` and `rx` joined, no address on them, and loopback up."""
    name = f"nsexport{os.getpid()}"
    inside = ["ip", "-n", name, "link"]
    run("ip", "netns", "add", name)
    try:
        run("ip", "netns", "exec", name, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
        run("ip", "netns", "exec", name, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        run(*inside, "add", "name", "tx", "type", "veth", "peer", "name", "rx")
        for device in ("lo", "tx", "rx"):
            run(*inside, "set", "dev", device, "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


def inlet_in(namespace: str) -> socket.socket:
    """A UDP socket on loopback of a namespace, for this process, which is in another."""
    made: list[socket.socket] = []

    def make() -> None:  # a namespace is a thread's own
        with Path("/run/netns", namespace).open() as file:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.setns(file.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        made.append(bind_socket("127.0.0.1", 0, socket.SOCK_DGRAM))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(DEADLINE_S)
    return made[0]


def run(*command: str, statuses: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode in statuses, f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def _address(octets: bytes) -> str:
    address = ipaddress.IPv6Address(octets)
    return str(address.ipv4_mapped or address)
