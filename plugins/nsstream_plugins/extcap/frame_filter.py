"""FrameFilter: the capture filter that a user typed into Wireshark, on frames that no kernel sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble.frames import Frames
from nsstream.capture.bpf import compile_filter
from nsstream.errors import InputError
from nsstream.wire.link import ETHERNET
from nsstream.wire.pcap import MAX_SNAPLEN


class FrameFilter:
    """Says which frames pass; raises InputError for an expression that libpcap does not take. None or blank: all."""

    def __init__(self, expression: str | None) -> None:
        text = (expression or "").strip()
        self._program = compile_filter(text, ETHERNET, MAX_SNAPLEN) if text else None

    def rows(self, frames: Frames, wire_length: NDArray[np.int64] | None = None) -> NDArray[np.int64] | None:
        """The rising indices of those that pass; None: all do."""
        if self._program is None:
            return None
        length = np.diff(frames.offset) if wire_length is None else wire_length
        passed = self._program.run_over(frames.octets, frames.offset, length)
        return None if passed.all() else np.flatnonzero(passed)


def complaint(expression: str) -> Iterator[str]:
    """What is wrong with an expression, as Wireshark wants to know it before a capture; nothing if it is right."""
    try:
        FrameFilter(expression)
    except InputError as err:
        yield str(err)
