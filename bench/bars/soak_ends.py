"""The other ends of a soak: who takes what a sink gives, and counts it by means of its own.

Each has a specification of its sink, is told when the server is there, looks at what came every second (and throws it
away: half an hour does not fit on a disk), and says at the end what must agree with the sink's counters.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from bars.soak_figures import children
from bars.veth import VethError, VethPair
from nsstream.errors import ReplayError
from nsstream.replay import End, PacketBatch, ReplayClient
from nsstream.replay.receiver import Missed

ROTATE_BYTES = 16 << 20
ROTATE_TWIN_S = 300
STALL_EVERY_S, STALL_S = 10.0, 0.5  # of a reader of a pipe
PORT = 9995
PATIENCE_S = 20.0
SUBSCRIBERS = 2  # that keep up
SLOW_S = 5.0  # how long one that does not keep up sleeps over every batch
Counters = Mapping[str, int]
Agreement = dict[str, tuple[int, int]]  # by name: what was counted here, and what the sink says


class OtherEnd(Protocol):
    """What takes a sink's output."""

    sink: dict[str, Any]

    def begin(self, server: subprocess.Popen[bytes], endpoint: str) -> None: ...
    def look(self, elapsed_share: float) -> None: ...
    def finish(self, counters: Counters, packets_written: int) -> Agreement: ...


class Files:
    """Capture files or files of flows, each read by a tool of others when it is whole."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._kind, self._directory = kind, directory
        self.file_count = self._count = 0
        where: dict[str, Any] = {"path": str(directory), "rotate_s": ROTATE_TWIN_S}
        if kind == "pcap":
            where = {"path": str(directory / "twin.pcap"), "rotate_bytes": ROTATE_BYTES}
        self.sink = {"kind": kind, **where}

    def begin(self, server: subprocess.Popen[bytes], endpoint: str) -> None:
        pass

    def look(self, elapsed_share: float) -> None:
        names = {"pcap": "twin_*.pcap", "nfcapd": "nfcapd.2*", "csv": "flows.2*.csv"}
        for path in sorted(self._directory.glob(names[self._kind])):
            self._count += _records(self._kind, path)
            self.file_count += 1
            path.unlink()

    def finish(self, counters: Counters, packets_written: int) -> Agreement:
        self.look(1.0)
        left = len(list(self._directory.iterdir()))
        unit = "frames_written" if self._kind == "pcap" else "flows_written"
        return {
            unit: (self._count, counters[unit]),
            "files": (self.file_count, counters["files"]),
            "files left behind": (left, 0),
        }


class Pipe:
    """A reader of a FIFO or of standard output, which now and then reads nothing for a while."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.sink = {"kind": kind}
        self._count = self._rest = 0
        self._fifo = directory / "fifo"
        if kind == "fifo":
            os.mkfifo(self._fifo)
            self.sink["path"] = str(self._fifo)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._server: subprocess.Popen[bytes] | None = None

    def begin(self, server: subprocess.Popen[bytes], endpoint: str) -> None:
        self._server = server
        self._thread.start()

    def look(self, elapsed_share: float) -> None:
        pass

    def finish(self, counters: Counters, packets_written: int) -> Agreement:
        self._thread.join(PATIENCE_S)
        return {
            "frames_written": (self._count, counters["frames_written"]),
            "octets of a record that is cut": (self._rest, 0),
        }

    def _read(self) -> None:
        assert self._server is not None
        assert self._server.stdout is not None
        if self.sink["kind"] == "stdout":
            self._count_records(self._server.stdout)
        else:
            with self._fifo.open("rb", buffering=0) as file:
                self._count_records(file)

    def _count_records(self, file: IO[bytes]) -> None:
        held, next_stall_s = b"", time.monotonic() + STALL_EVERY_S
        is_header_due = True
        while octets := os.read(file.fileno(), 1 << 16):
            held += octets
            if is_header_due and len(held) >= 24:
                held, is_header_due = held[24:], False
            at = 0
            while len(held) - at >= 16:
                end = at + 16 + int.from_bytes(held[at + 8 : at + 12], "little")
                if end > len(held):
                    break
                self._count += 1
                at = end
            held = held[at:]
            if time.monotonic() >= next_stall_s:
                time.sleep(STALL_S)
                next_stall_s += STALL_EVERY_S
        self._rest = len(held)


class Wire:
    """The other end of a veth pair; of tcpreplay, one is killed when half of the time is over."""

    def __init__(self, kind: str, pair: VethPair) -> None:
        self.sink = {"kind": kind, "interface": "tx"}
        self._pair = pair
        self._before = pair.received()[0]
        self._server: subprocess.Popen[bytes] | None = None
        self._is_kill_due = kind == "tcpreplay"
        self.killed_at_share: float | None = None

    def begin(self, server: subprocess.Popen[bytes], endpoint: str) -> None:
        self._server = server

    def look(self, elapsed_share: float) -> None:
        assert self._server is not None
        if self._is_kill_due and elapsed_share >= 0.5:
            for pid in children(self._server.pid, "tcpreplay"):
                os.kill(pid, signal.SIGKILL)
                self.killed_at_share, self._is_kill_due = elapsed_share, False

    def finish(self, counters: Counters, packets_written: int) -> Agreement:
        written = counters["frames_written"]
        received = self._pair.wait_for(self._before + written) - self._before
        if self.sink["kind"] == "interface":
            return {"frames_written": (received, written)}
        # What died may have sent some of what is counted as lost with it.
        lost = counters["frames_lost_with_child"]
        agreed = written + min(max(received - written, 0), lost)
        return {
            f"frames_written, and of {lost} lost with the child those sent": (received, agreed),
            "child_deaths": (1, counters["child_deaths"]),
        }


class Collector:
    """nfcapd in the other namespace."""

    def __init__(self, version: int, pair: VethPair, directory: Path) -> None:
        self.sink = {"kind": "netflow", "address": "192.0.2.2", "port": PORT, "version": version}
        for namespace, device, address in ((pair.sender, "tx", "192.0.2.1"), (pair.receiver, "rx", "192.0.2.2")):
            _run("ip", "-n", namespace, "address", "add", f"{address}/30", "dev", device)
        self._directory = directory
        command = ["nfcapd", "-w", str(directory), "-p", str(PORT), "-b", "192.0.2.2", "-t", "60", "-B", "8388608"]
        self._nfcapd = subprocess.Popen(
            ["ip", "netns", "exec", pair.receiver, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._facts = {"Flows": 0, "Sequence failures": 0}

    def begin(self, server: subprocess.Popen[bytes], endpoint: str) -> None:
        self._wait_until_taken()

    def look(self, elapsed_share: float) -> None:
        for path in sorted(self._directory.glob("nfcapd.2*")):
            shown = _run("nfdump", "-I", "-r", str(path))
            for name in self._facts:
                found = re.search(rf"^{name}: (\d+)", shown, re.MULTILINE)
                self._facts[name] += int(found[1]) if found else 0
            path.unlink()

    def finish(self, counters: Counters, packets_written: int) -> Agreement:
        self._wait_until_taken()
        self._nfcapd.terminate()
        self._nfcapd.wait(PATIENCE_S)
        self.look(1.0)
        return {
            "flows_sent": (self._facts["Flows"], counters["flows_sent"]),
            "sequence failures": (self._facts["Sequence failures"], 0),
            "flows_failed": (0, counters["flows_failed"]),
        }

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._nfcapd.kill()
        self._nfcapd.wait()

    def _wait_until_taken(self) -> None:
        """Until its socket is there and empty, and has been for a while: it has no other sign."""
        deadline_s, is_empty_since = time.monotonic() + PATIENCE_S, None
        while is_empty_since is None or time.monotonic() - is_empty_since < 0.5:
            if time.monotonic() > deadline_s:
                raise VethError("nfcapd does not take what is sent to it")
            waiting = _waiting_octets(self._nfcapd.pid)
            is_empty_since = None if waiting != 0 else is_empty_since or time.monotonic()
            time.sleep(0.02)


class Subscribers:
    """Some that keep up, one that sleeps over every batch, as clients in threads."""

    def __init__(self) -> None:
        self.sink = {"kind": "subscribers", "wait_for": SUBSCRIBERS + 1}
        self._received = [0] * (SUBSCRIBERS + 1)
        self._missed = [0] * (SUBSCRIBERS + 1)
        self._untold = [0] * (SUBSCRIBERS + 1)
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def begin(self, server: subprocess.Popen[bytes], endpoint: str) -> None:
        for k in range(SUBSCRIBERS + 1):
            self._threads.append(threading.Thread(target=self._receive, args=(k, endpoint), daemon=True))
            self._threads[-1].start()

    def look(self, elapsed_share: float) -> None:
        pass

    def finish(self, counters: Counters, packets_written: int) -> Agreement:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        agreement = {
            f"received and missed by {self._name(k)} ({self._missed[k]} missed)": (
                self._received[k] + self._missed[k], packets_written,
            ) for k in range(SUBSCRIBERS + 1)
        }  # fmt: skip
        return agreement | {
            "gaps that were not told": (sum(self._untold), 0),
            "was slow enough to miss some": (int(self._missed[SUBSCRIBERS] > 0), 1),
        }

    def _name(self, k: int) -> str:
        return f"subscriber {k + 1}" if k < SUBSCRIBERS else "the slow one"

    def _receive(self, k: int, endpoint: str) -> None:
        is_slow, expected, is_told = k == SUBSCRIBERS, None, False
        with suppress(ReplayError), ReplayClient(endpoint) as client:
            for item in client.packets(self._name(k), credit=2 if is_slow else 256):
                if isinstance(item, Missed):
                    self._missed[k] += item.packet_count
                    is_told = True
                    continue
                self._untold[k] += expected is not None and item.seq != expected and not is_told
                expected, is_told = item.seq + 1, False
                if isinstance(item, End):
                    break
                assert isinstance(item, PacketBatch)
                self._received[k] += len(item)
                if is_slow:
                    self._ended.wait(SLOW_S)


def _records(kind: str, path: Path) -> int:
    """How many records a whole file has, as others say."""
    if kind == "csv":
        with path.open("rb") as lines:
            return sum(1 for _ in lines) - 1
    command, name = (("capinfos", "-Mc"), "Number of packets") if kind == "pcap" else (("nfdump", "-I", "-r"), "Flows")
    found = re.search(rf"^{name}: +(\d+)", _run(*command, str(path)), re.MULTILINE)
    return int(found[1]) if found else 0


def _waiting_octets(pid: int) -> int | None:
    """Octets in the receive queue of the collector's socket; None where there is none."""
    for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]:
        cells = line.split()
        if int(cells[1].partition(":")[2], 16) == PORT:
            return int(cells[4].partition(":")[2], 16)
    return None


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C", "TZ": "UTC"})
    if done.returncode:
        raise VethError(f"{' '.join(command)}: {done.stderr.strip() or 'failed'}")
    return done.stdout
