"""One tcpdump on a device of the lab: nanosecond times, headers only, no loss tolerated."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from lab import LAN, Lab, LabError

SNAPLEN_BYTES = 128
QUIET_S = 0.3  # the file has not grown for so long: tcpdump has written all that the ring held


class Sniffer:
    """Captures a bridge, that of the clients, into a classic pcap file while the context is open."""

    def __init__(self, lab: Lab, path: Path, bridge: str = LAN) -> None:
        self.lab = lab
        self.path = path
        self.bridge = bridge
        self._tcpdump: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sniffer:
        self._tcpdump = subprocess.Popen(
            self.lab.argv(
                *("core", "tcpdump", "-i", self.bridge, "-s", str(SNAPLEN_BYTES), "--time-stamp-precision=nano"),
                *("-B", "16384", "--immediate-mode", "-U", "-Z", "root", "-w", str(self.path)),
            ),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._tcpdump.stderr is not None
        while line := self._tcpdump.stderr.readline():
            if "listening on" in line:
                return self
        raise LabError("tcpdump did not start on the lab's bridge")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tcpdump is not None
        if error is None:
            self._wait_until_written()
        self._tcpdump.send_signal(signal.SIGINT)
        _, report = self._tcpdump.communicate(timeout=300)
        dropped = re.search(r"(\d+) packets? dropped by kernel", report)
        if error is None and (dropped is None or int(dropped[1]) > 0):
            raise LabError(f"tcpdump lost packets: {report.strip()!r}")

    def _wait_until_written(self) -> None:
        size, since_s, deadline_s = -1, time.monotonic(), time.monotonic() + 5.0
        while time.monotonic() - since_s < QUIET_S and time.monotonic() < deadline_s:
            now = self.path.stat().st_size
            if now != size:
                size, since_s = now, time.monotonic()
            time.sleep(0.05)


def count_packets(path: Path, expression: str) -> int:
    """Count the packets of a capture that match a pcap filter, with tcpdump."""
    done = subprocess.run(
        ["tcpdump", "--count", "-r", str(path), expression], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[0])
