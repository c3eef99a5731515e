"""Receive exports from a sender on loopback as fast as it can send, beside nfcapd in the same run.

    python bench/netflow_live.py [--datagrams N] [--rounds N] [--json OUT]

A sender process (sendmmsg, bursts of 64) sends the datagrams of `netflow.py`, over and over, to `NetflowUdpSource`,
then to nfcapd, which writes its files. First a burst of about a million records as fast as it can; then five times as
many, more than any buffer holds, as fast as it can as well; where some of those are lost, paced by an even clock, at
lower and lower rates until nothing is. Lost is what was sent less what came out. Processor time is the receiver's own,
from the first datagram to the last for ours, of the whole process for nfcapd; what the kernel does in the sender's name
is the sender's. Where the receiver's is less than the sender's, a sender that never ends loses nothing, given a
processor each. Both ask for 128 MiB of receive buffer; without CAP_NET_ADMIN,
and in nfcapd always, net.core.rmem_max bounds it. Bars: nothing lost of the burst in any round, and no more processor
time than nfcapd's, 0.4 s a million where it is not installed. Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, equal, finish, has_passed, show
from netflow import ipfix_datagrams, v5_datagrams, v9_datagrams

from nsstream.capture.netflow_udp import NetflowUdpSource
from nsstream.errors import InputError

MAKERS = {"v5": v5_datagrams, "v9": v9_datagrams, "ipfix": ipfix_datagrams}
POOL_DATAGRAMS = 2000
BURST = 64
SUSTAINED = 5  # times as many datagrams as in the burst
CPU_S_PER_MILLION = 0.4  # nfcapd's, where it is not installed
RATE_STEP = 0.8
LOWEST_HZ = 5_000
NFCAPD_BUFFER_BYTES = 128 << 20
QUIET_S = 1.0
START_S = 30.0


@dataclass(frozen=True, slots=True)
class Sent:
    datagrams: int
    records: int
    elapsed_s: float
    cpu_s: float

    @property
    def cpu_us_per_datagram(self) -> float:
        return 1e6 * self.cpu_s / self.datagrams

    @property
    def datagrams_per_s(self) -> float:
        return self.datagrams / self.elapsed_s

    @property
    def records_per_s(self) -> float:
        return self.records / self.elapsed_s


@dataclass(frozen=True, slots=True)
class Reception:
    sent: Sent
    kept: int  # records
    socket_drops: int  # datagrams, as the kernel counted them
    cpu_s: float

    @property
    def lost(self) -> int:
        return self.sent.records - self.kept

    @property
    def lost_share(self) -> float:
        return self.lost / self.sent.records

    @property
    def cpu_us_per_datagram(self) -> float:
        return 1e6 * self.cpu_s * self.sent.records / max(1, self.kept) / self.sent.datagrams

    @property
    def cpu_s_per_million(self) -> float:
        return 1e6 * self.cpu_s / max(1, self.kept)


class Sender:
    """The child process that sends."""

    def __init__(self, version: str, port: int, datagrams: int, rate_hz: float) -> None:
        command = [sys.executable, __file__, "--send", version, str(port), str(datagrams), str(rate_hz)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        if self._child.stdout.readline() != "ready\n":
            raise InputError("the sender does not start")

    def start(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()

    @property
    def is_done(self) -> bool:
        return self._child.poll() is not None

    def sent(self) -> Sent:
        assert self._child.stdout is not None
        told = json.loads(self._child.stdout.read())
        self._child.stdout.close()
        if self._child.wait():
            raise InputError("the sender failed")
        return Sent(**told)


def send(version: str, port: int, datagrams: int, rate_hz: float) -> None:
    """The child: send, in bursts on an even clock; as fast as the kernel takes them where `rate_hz` is 0."""
    messages, records = MAKERS[version](np.random.default_rng(0), POOL_DATAGRAMS)
    octets = np.frombuffer(b"".join(messages), np.uint8)
    vectors = np.empty((POOL_DATAGRAMS, 2), np.uintp)  # struct iovec
    vectors[:, 0] = octets.ctypes.data + np.cumsum([0, *map(len, messages[:-1])])
    vectors[:, 1] = [len(message) for message in messages]
    headers = np.zeros((POOL_DATAGRAMS, 8), np.uintp)  # struct mmsghdr of 64-bit machines
    headers[:, 2] = vectors.ctypes.data + 16 * np.arange(POOL_DATAGRAMS)
    headers[:, 3] = 1
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        print("ready", flush=True)
        sys.stdin.read()
        began_s, began_cpu_s, done = time.perf_counter(), time.process_time(), 0
        while done < datagrams:
            at = done % POOL_DATAGRAMS
            count = min(BURST, POOL_DATAGRAMS - at, datagrams - done)
            taken = libc.sendmmsg(sock.fileno(), ctypes.c_void_p(headers.ctypes.data + 64 * at), count, 0)
            if taken < 0:
                raise InputError(f"cannot send: {os.strerror(ctypes.get_errno())}")
            done += taken
            if rate_hz and (ahead_s := began_s + done / rate_hz - time.perf_counter()) > 0:
                time.sleep(ahead_s)
        elapsed_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    total = records * datagrams // POOL_DATAGRAMS
    print(json.dumps({"datagrams": datagrams, "records": total, "elapsed_s": elapsed_s, "cpu_s": cpu_s}))


def by_us(version: str, datagrams: int, rate_hz: float) -> Reception:
    source = NetflowUdpSource(port=0)
    source.open()
    sender = Sender(version, source.listens_on[1], datagrams, rate_hz)
    before_s = time.process_time()
    sender.start()
    cpu_s = 0.0
    while True:
        flows = source.read_batch()
        if flows is not None and len(flows):
            cpu_s = time.process_time() - before_s
        elif sender.is_done:
            break
    source.close()
    source.tally.check()
    return Reception(sender.sent(), source.tally.kept, source.tally.dropped["socket"], cpu_s)


def by_nfcapd(version: str, datagrams: int, rate_hz: float) -> Reception:
    with tempfile.TemporaryDirectory() as directory:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["nfcapd", "-w", directory, "-p", str(port), "-b", "127.0.0.1", "-B", str(NFCAPD_BUFFER_BYTES)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_until(lambda: bool(_udp_row(port)))
            sender = Sender(version, port, datagrams, rate_hz)
            sender.start()
            sent = sender.sent()
            _wait_until(lambda: _udp_row(port)[4].endswith(":00000000"))
            drops = int(_udp_row(port)[12])
        finally:
            child.send_signal(signal.SIGTERM)
            _, _, used = os.wait4(child.pid, 0)
            child.returncode = 0
        written = subprocess.run(["nfdump", "-R", directory, "-I"], capture_output=True, text=True, check=True).stdout
        flows = next(int(line.split(":")[1]) for line in written.splitlines() if line.startswith("Flows:"))
    return Reception(sent, flows, drops, used.ru_utime + used.ru_stime)


def without_loss(
    receive: Callable[[str, int, float], Reception], version: str, datagrams: int, fastest: Reception
) -> Reception | None:
    """The first reception that loses nothing, from the sender's top rate downwards; None where even a crawl loses.

    `fastest` is of as many datagrams, sent without any pause.
    """
    if not fastest.lost:
        return fastest
    rate_hz = fastest.sent.datagrams_per_s
    while rate_hz >= LOWEST_HZ:
        reception = receive(version, datagrams, rate_hz)
        if not reception.lost:
            return reception
        rate_hz *= RATE_STEP
    return None


def bars_of(
    version: str,
    ours: list[Reception],
    endless: list[Reception],
    best: Reception | None,
    nfcapd: dict[str, Reception | None],
) -> list[Bar]:
    top, unpaced, at_ease = nfcapd["top"], nfcapd["endless"], nfcapd["without loss"]
    worst = max(ours, key=lambda reception: reception.lost)
    cpu_s = float(np.median([reception.cpu_s_per_million for reception in ours]))
    return [
        equal(f"{version}: records lost at the top rate, worst round", worst.lost, 0, _told(top and top.lost)),
        Bar(
            f"{version}: datagrams sent a second, then",
            worst.sent.datagrams_per_s,
            beside=_told(top and top.sent.datagrams_per_s),
        ),
        Bar(
            f"{version}: records a second of a sender without end, median",
            float(np.median([reception.sent.records_per_s for reception in endless])),
            beside=_told(unpaced and unpaced.sent.records_per_s),
        ),
        Bar(
            f"{version}: share of those that is lost, median",
            float(np.median([reception.lost_share for reception in endless])),
            beside=_told(unpaced and unpaced.lost_share, "{:.3f}"),
        ),
        Bar(
            f"{version}: CPU microseconds a datagram, median, and of the sender",
            float(np.median([reception.cpu_us_per_datagram for reception in endless])),
            beside=_told(float(np.median([reception.sent.cpu_us_per_datagram for reception in endless])), "{:.2f}"),
        ),
        Bar(
            f"{version}: records a second sustained without loss",
            best and best.sent.records_per_s,
            beside=_told(at_ease and at_ease.sent.records_per_s),
        ),
        at_most(
            f"{version}: CPU seconds a million records, median",
            cpu_s,
            round(top.cpu_s_per_million, 3) if top else CPU_S_PER_MILLION,
            _told(top and top.cpu_s_per_million, "{:.3f}"),
        ),
    ]


def _told(value: float | None, form: str = "{:,.0f}") -> str:
    return "n/a" if value is None else form.format(value)


def _udp_row(port: int) -> list[str]:
    rows = (line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    return next((row for row in rows if row[1].endswith(f":{port:04X}")), [])


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise InputError("nfcapd does not start, or does not read")
        time.sleep(0.02)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datagrams", type=int, default=40_000, help=f"a multiple of {POOL_DATAGRAMS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--send", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.send:
        version, port, datagrams, rate_hz = given.send
        send(version, int(port), int(datagrams), float(rate_hz))
        return 0
    if given.datagrams < POOL_DATAGRAMS or given.datagrams % POOL_DATAGRAMS:
        parser.error(f"--datagrams must be a multiple of {POOL_DATAGRAMS}")
    bars: list[Bar] = []
    figures: dict[str, object] = {}
    for version in MAKERS:
        by_us(version, 1000, 10_000)  # compiles
        ours = [by_us(version, given.datagrams, 0) for _ in range(given.rounds)]
        long = SUSTAINED * given.datagrams
        endless = [by_us(version, long, 0) for _ in range(given.rounds)]
        best = without_loss(by_us, version, long, max(endless, key=lambda reception: reception.lost))
        nfcapd: dict[str, Reception | None] = {"top": None, "endless": None, "without loss": None}
        if shutil.which("nfcapd"):
            top = by_nfcapd(version, given.datagrams, 0)
            unpaced = by_nfcapd(version, long, 0)
            at_ease = without_loss(by_nfcapd, version, long, unpaced)
            nfcapd = {"top": top, "endless": unpaced, "without loss": at_ease}
        bars += bars_of(version, ours, endless, best, nfcapd)
        figures[version] = {
            "ours": [asdict(reception) for reception in ours],
            "ours, endless": [asdict(reception) for reception in endless],
            "ours, without loss": best and asdict(best),
            "nfcapd": {name: reception and asdict(reception) for name, reception in nfcapd.items()},
        }
    show(
        f"{given.datagrams:,} datagrams at once, and {SUSTAINED} times as many after, over loopback",
        bars,
        beside="nfcapd",
    )
    return finish(as_dict(bars) | figures, given.json, passed=has_passed(bars))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
