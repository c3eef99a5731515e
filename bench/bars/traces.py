"""Traces to work on: the bundled lab capture, and pieces of any trace, cut by editcap with whole records and times."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from pathlib import Path

from nsstream.errors import InputError
from nsstream.score.frames import frame_blocks
from nsstream.score.plain import plain_file

LAB_CAPTURE = "lab.pcap.xz"


@contextmanager
def lab_capture() -> Iterator[Path]:
    with resources.as_file(resources.files("nsstream_daemon") / "data" / LAB_CAPTURE) as path:
        yield path


def cut_first(trace: Path, length_s: float, output: Path) -> Path:
    """Write the first seconds of a trace, counted from its first packet, as a nanosecond pcap."""
    with plain_file(trace) as plain:
        start_ns = min(int(block.index.time_ns[: block.count].min()) for block in frame_blocks(plain) if block.count)
        _cut(plain, start_ns, start_ns + round(length_s * 1e9), output)
    return output


def cut_day(trace: Path, day: date, output: Path) -> Path:
    """Write a day (UTC) of a trace as a nanosecond pcap; raises InputError if no packet is of that day."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    start_ns, end_ns = (round(t.timestamp()) * 10**9 for t in (start, start + timedelta(days=1)))
    with plain_file(trace) as plain:
        _cut(plain, start_ns, end_ns, output)
    if not any(block.count for block in frame_blocks(output)):
        raise InputError(f"{trace}: holds no packet of {day}")
    return output


def cut_between(trace: Path, start_ns: int, end_ns: int, output: Path) -> Path:
    """Write what a trace has from one time on and before another as a nanosecond pcap."""
    with plain_file(trace) as plain:
        _cut(plain, start_ns, end_ns, output)
    return output


def count_frames(trace: Path) -> tuple[int, int]:
    """Frames of a trace, and their octets as captured."""
    frames, octets = 0, 0
    with plain_file(trace) as plain:
        for block in frame_blocks(plain):
            frames += block.count
            octets += int(block.index.captured_length[: block.count].sum())
    return frames, octets


def _cut(plain: Path, start_ns: int, end_ns: int, output: Path) -> None:
    """Keep the records with start <= time < end."""
    command = ["editcap", "-F", "nsecpcap", "-A", _utc(start_ns), "-B", _utc(end_ns), str(plain), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"})
    if done.returncode:
        raise InputError(f"{plain}: editcap cannot cut it: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


def _utc(time_ns: int) -> str:
    seconds, ns = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%d %H:%M:%S}.{ns:09d}"
