"""A place for a daemon under test: its configuration, a spool that captures come into, its processes, its ledger."""

import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CHUNK_S = 10
FIRST_S = 1_700_000_000
DATAGRAM = bytes.fromhex("4500001c000100004011000ac0000201c6336401") + bytes.fromhex("0035003500080000")
PACKETS_A_CHUNK = 100  # each of another source port, so as many conversations


def capture_of(chunk: int, packets: int = PACKETS_A_CHUNK) -> bytes:
    """A capture of one chunk's time."""
    at = np.arange(packets)
    times_us = (FIRST_S + CHUNK_S * chunk) * 10**6 + at * (CHUNK_S * 10**6 // packets)
    record = np.frombuffer(struct.pack("<IIII", 0, 0, len(DATAGRAM), len(DATAGRAM)) + DATAGRAM, np.uint8)
    records = np.tile(record, (packets, 1))
    records[:, :8] = np.column_stack([times_us // 10**6, times_us % 10**6]).astype("<u4").view("u1")
    records[:, 36:38] = (20_000 + at).astype(">u2").view("u1").reshape(-1, 2)
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + records.tobytes()


def wait_until(holds: Callable[[], Any], seconds: float = 300) -> Any:
    """What `holds` gives, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
    return found


def is_gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Nest:
    """Everything of one daemon."""

    def __init__(self, folder: Path, **settings: dict[str, Any]) -> None:
        self.folder, self.state, self.spool, self.quick = (
            folder, folder / "s", folder / "spool", folder / "quick"
        )  # fmt: skip
        self.config, self.log = folder / "c.toml", folder / "log"
        for path in (self.spool, self.quick):
            path.mkdir()
        self.spooled = 0
        self.daemon: subprocess.Popen[bytes] | None = None
        self.tail = ""  # of the configuration
        self.settings: dict[str, dict[str, Any]] = {
            "source": {"input": f"spool:{self.spool}"},
            "chunks": {"length_s": CHUNK_S, "lateness_s": 0},
            "training": {"fewest_conversations": 50, "backoff_s": 0.1, "silence_s": 170, "most_waiting": 1000},
            "control": {"metrics_port": 0},
        }
        for section, values in settings.items():
            self.settings.setdefault(section, {}).update(values)
        self.write_config()

    def write_config(self) -> None:
        lines = [f'state = "{self.state}"']
        for section, values in self.settings.items():
            lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        self.config.write_text("\n".join([*lines, self.tail, ""]))

    def put(self, count: int = 1, packets: int = PACKETS_A_CHUNK) -> None:
        """Put captures into the spool; each but the last becomes a chunk."""
        for _ in range(count):
            new = self.spool / f".{self.spooled}"
            new.write_bytes(capture_of(self.spooled, packets))
            new.rename(self.spool / f"{self.spooled:06d}.pcap")
            self.spooled += 1

    def start(self, *command: str, ready: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        command = command or (sys.executable, str(HERE / "service_daemon.py"), str(self.config))
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"QUICK": str(self.quick)} | environment
            )
        if ready:
            wait_until(lambda: self.ask_or_none("status") is not None or self.daemon.poll() is not None)
            assert self.daemon.poll() is None, self.log.read_text()
        return self.daemon

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(300)

    def stop(self) -> int:
        """End the daemon as a service manager does; its exit status."""
        assert self.daemon is not None
        if self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(300)

    def ask(self, command: str, **told: Any) -> Any:
        reply = self.exchange(json.dumps({"command": command, **told}).encode() + b"\n")
        assert reply["ok"], reply
        return reply["result"]

    def ask_or_none(self, command: str) -> Any:
        try:
            reply = self.exchange(json.dumps({"command": command}).encode() + b"\n")
        except OSError:
            return None
        return reply.get("result")

    def exchange(self, octets: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(30)
            end.connect(str(self.state / "control.sock"))
            end.sendall(octets)
            with end.makefile("rb") as file:
                reply: dict[str, Any] = json.loads(file.readline())
        return reply

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nsstream_daemon", "ctl", *arguments]
        environment = os.environ | {"NSSTREAM_CONTROL_SOCKET": str(self.state / "control.sock"), "COLUMNS": "160"}
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    def rows(self, query: str) -> list[Any]:
        """What the ledger says, asked from outside."""
        if not (self.state / "ledger.sqlite").exists():
            return []
        connection = sqlite3.connect(self.state / "ledger.sqlite", timeout=300)
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # its schema is not there yet
        finally:
            connection.close()

    def count(self, query: str) -> int:
        found = self.rows(f"SELECT COUNT(*) FROM {query}")
        return int(found[0][0]) if found else 0

    def done(self) -> int:
        return self.count("job WHERE state = 'done'")

    def stored(self) -> set[str]:
        return {path.stem for path in (self.state / "chunks").glob("*.arrow")}

    def worker_pid(self) -> int:
        """The number of the worker that is at work."""
        found = wait_until(lambda: (self.quick / "pid").exists() and (self.quick / "pid").read_text())
        return int(found)

    def close(self) -> None:
        (self.quick / "slow").unlink(missing_ok=True)
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill()
