"""What notebooks share: a twin frame by frame, and a feed of frames to a daemon. Used by `scapy` and `pyshark`."""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.resources import as_file
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nsstream.errors import InputError, OutputError
from nsstream.replay.framing import Framing
from nsstream.replay.scenario import Limits, ModelsSpec, RecordedSpec, Scenario, StreamSpec
from nsstream.replay.stream import FrameBlock, open_stream
from nsstream.wire.link import ETHERNET
from nsstream.wire.pcap import MAX_SNAPLEN, pcap_header
from nsstream_plugins.lab import LAB

Where = str | os.PathLike[str]
SNAPLEN: Final = 192  # headers: what is behind them, nsstream does not keep
_RECORD: Final = struct.Struct("<IIII")


def frames(
    of: Where | Sequence[Where] | None = None,
    *,
    seed: int = 0,
    count: int | None = None,
    services: Sequence[str] | None = None,
    hosts: Sequence[str] | None = None,
) -> Iterator[tuple[int, bytes]]:
    """The frames of a twin: nanoseconds since the Unix epoch, and octets of Ethernet.

    Args:
        of: a model's directory, or several in the order of their chunks, or a capture file; None: the bundled one.
        seed: the same seed gives the same frames.
        count: how many at most; None: one pass.
        services: only these, as of a scenario: ``["tcp/443", "udp/53"]``; None: all.
        hosts: only what has one end in these prefixes: ``["10.0.0.0/8"]``; None: all.

    Raises NsstreamError as it goes. Close the iterator, or take all of it, to let go of the files.
    """
    scenario = Scenario(
        services=None if services is None else list(services),
        hosts=None if hosts is None else list(hosts),
        limits=Limits(packets=count),
    )
    stopped = threading.Event()
    with ExitStack() as stack:
        spec: StreamSpec
        if of is None:
            spec = RecordedSpec(path=str(stack.enter_context(as_file(LAB))))
        else:
            paths = [Path(path).absolute() for path in ([of] if isinstance(of, str | os.PathLike) else of)]
            are_models = all(path.is_dir() for path in paths)
            if not are_models and len(paths) > 1:
                raise InputError("give one capture, or directories of models")
            names = [str(path) for path in paths]
            spec = ModelsSpec(models=names) if are_models else RecordedSpec(path=names[0])
        framing = Framing(mtu=65_535 if isinstance(spec, RecordedSpec) else 1500)
        stream = open_stream(spec, scenario, seed, framing, stopped=stopped)
        stack.callback(stream.close)
        stack.callback(stopped.set)
        while (block := stream.read()) is not None:
            if not isinstance(block, FrameBlock):
                raise InputError("a model of flows draws records, and no frames")
            times, offset = block.frames.observation_time_ns.tolist(), block.frames.offset.tolist()
            octets = block.frames.octets.tobytes()
            for at, time_ns in enumerate(times):
                yield time_ns, octets[offset[at] : offset[at + 1]]


class FrameFeed:
    """Writes frames where a daemon, or `nsstream ingest`, reads them: a FIFO (``fifo:/run/tap``), or a new file.

    Waits while the reader is slow; `count` says how many were written. A context manager. Raises OutputError where
    nobody reads any more, or the file is there already.
    """

    def __init__(self, path: Where, snaplen: int = SNAPLEN) -> None:
        if not 14 <= snaplen <= MAX_SNAPLEN:
            raise InputError(f"snaplen must be 14 to {MAX_SNAPLEN}, got {snaplen}")
        self._path = Path(path)
        self._snaplen = snaplen
        self._link_type: int | None = None
        self.count = 0
        try:
            is_fifo = self._path.exists() and stat.S_ISFIFO(self._path.stat().st_mode)
            self._file = self._path.open("wb" if is_fifo else "xb", buffering=0)  # of a FIFO: waits for a reader
        except OSError as err:
            raise OutputError(f"{self._path}: {(err.strerror or str(err)).lower()}") from err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, time_ns: int, octets: bytes, wire_length: int | None = None, link_type: int = ETHERNET) -> None:
        """Add a frame; all of one feed are of one link type."""
        if self._link_type is None:
            self._put(pcap_header(link_type, self._snaplen))
            self._link_type = link_type
        if link_type != self._link_type:
            raise InputError(f"a feed of link type {self._link_type} takes no frame of link type {link_type}")
        kept = octets[: self._snaplen]
        length = max(len(octets), wire_length or 0)
        self._put(_RECORD.pack(time_ns // 10**9, time_ns % 10**9, len(kept), length) + kept)
        self.count += 1

    def close(self) -> None:
        """Let the reader see the end; may be repeated."""
        self._file.close()

    def _put(self, octets: bytes) -> None:
        left = memoryview(octets)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as err:
            reason = (
                "nobody reads it any more" if isinstance(err, BrokenPipeError) else (err.strerror or str(err)).lower()
            )
            raise OutputError(f"{self._path}: {reason}") from err
