"""Source: the protocol of everything that packets come from.

Rules for a source: it is inert until `open`; `read_batch` gives batches of at least one packet until it gives None for
good; `close` may be called at any time, also twice, also unopened; `tally` adds up after every call (`Tally.check`),
and tells what was read so far. Input that cannot be used raises InputError, one sentence that names the input.
"""

from __future__ import annotations

from typing import Protocol

from nsstream.counters import Tally
from nsstream.trace import PacketBatch


class Source(Protocol):
    """Where packets come from."""

    tally: Tally

    def open(self) -> None:
        """Acquire what is read: a file, a socket, a child process."""

    def read_batch(self) -> PacketBatch | None:
        """The next packets, in the order of observation; None at the end."""

    def close(self) -> None:
        """Release what `open` acquired."""
