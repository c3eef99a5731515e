"""nsstream-nfcapd-twin: synthetic flows as a directory of nfcapd's, file after file, which nfdump and NfSen read.

A run of the replay server with the sink `nfcapd`, until it ends or is told to stop; files appear whole.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.resources import as_file
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from nsstream.errors import NsstreamError
from nsstream.replay import spawn_server
from nsstream.replay.rate import parse_rate
from nsstream_plugins.lab import LAB

ROTATE_S: Final = 300  # nfcapd's own


def main(arguments: Sequence[str]) -> int:
    """``DIRECTORY``: play a model or a trace into it; the exit status."""
    parser = argparse.ArgumentParser(description="Synthetic flows as nfcapd's files: nfdump -R DIRECTORY.")
    parser.add_argument("--model", type=Path, help="a model's directory; drawn without end")
    parser.add_argument("--trace", type=Path, help="a capture, once; without either, the bundled one")
    parser.add_argument("--rotate", type=int, default=ROTATE_S, help="seconds of a file (%(default)s)")
    parser.add_argument("--rate", default="1.0", help="1.0 is real time; max, 60x (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, help="of the twin's time, then it ends")
    parser.add_argument("directory", type=Path)
    asked = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    sink = {"kind": "nfcapd", "path": str(asked.directory.absolute()), "rotate_s": asked.rotate}
    limits = {} if asked.hours is None else {"limits": {"twin_s": asked.hours * 3600.0}}
    try:
        with as_file(LAB) as lab, spawn_server() as client:
            client.start(_stream(asked, lab), sink, seed=asked.seed, rate=parse_rate(asked.rate), scenario=limits,
                         loop=1 if asked.model is None else None)  # fmt: skip
            try:
                client.wait()
            except KeyboardInterrupt:
                client.stop()
    except KeyboardInterrupt:
        return 130
    except NsstreamError as err:
        print(f"nsstream: {err}", file=sys.stderr)
        return 1
    return 0


def _stream(asked: argparse.Namespace, lab: Path) -> dict[str, Any]:
    if asked.model is not None:
        return {"kind": "model", "model": str(asked.model.absolute())}
    return {"kind": "recorded", "path": str((asked.trace or lab).absolute())}


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
