"""nsstream-tcpdump: ``tcpdump -w - | nsstream ingest -``, ended so that nothing that was captured is left in the pipe.

A shell's pipeline gets Ctrl-C in both its ends: then nsstream stops reading what tcpdump flushes on its way out. Here a
signal goes to tcpdump alone, and nsstream reads to the end of the pipe. If this process is killed, so is tcpdump.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

from nsstream.capture.tool_guard import ToolGuard

GRACE_S: Final = 1.2  # tcpdump's own timeout is a second: then it has taken what came before the signal
DEFAULTS: Final = ("-n", "-U", "-s", "192", "-B", "32768")


def main(arguments: Sequence[str]) -> int:
    """``STATE [tcpdump's options and filter]``: capture into a state directory; the exit status."""
    parser = argparse.ArgumentParser(
        description="Capture with tcpdump into a state directory, as nsstream ingest does.",
        epilog="All other words are tcpdump's: -i eth0 not port 22.",
        allow_abbrev=False,
    )
    parser.add_argument("--chunk", default="60s", help="length of a chunk (%(default)s)")
    parser.add_argument("state", type=Path)
    asked, words = parser.parse_known_args(arguments)
    command = ["tcpdump", *DEFAULTS, *_without_output(words)]
    ingest = [sys.executable, "-P", "-m", "nsstream_daemon", "ingest", "-", "--state", str(asked.state), "--live"]
    try:
        tool = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    except OSError as err:
        print(f"nsstream: tcpdump cannot be started: {err.strerror}", file=sys.stderr)
        return 1
    guard = ToolGuard(tool.pid)
    reader = subprocess.Popen([*ingest, "--chunk", asked.chunk], stdin=tool.stdout, start_new_session=True)
    assert tool.stdout is not None
    tool.stdout.close()

    asked_to_end = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        asked_to_end.set()

    def end() -> None:
        asked_to_end.wait()
        _wait(tool, GRACE_S)
        if tool.poll() is None:
            tool.terminate()

    threading.Thread(target=end, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    read = reader.wait()
    if tool.poll() is None:  # it has nobody to write to
        tool.terminate()
    captured = tool.wait()
    guard.dismiss()
    return read or (captured if captured > 0 else 0)


def _wait(tool: subprocess.Popen[bytes], wait_s: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        tool.wait(wait_s)


def _without_output(words: Sequence[str]) -> list[str]:
    """Tcpdump's words with ``-w -`` before a filter; raises SystemExit where they name another output."""
    if "-w" in words:
        raise SystemExit("nsstream: -w is ours: the packets go to nsstream")
    return ["-w", "-", *words]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
