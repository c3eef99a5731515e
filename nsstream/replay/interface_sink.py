"""InterfaceSink: frames onto a network interface when they are due, or as fast as it takes them.

Frames of the client's side and of the server's may go to two interfaces, so that what stands between them sees both
directions where it expects them. `packet_sender` sends, `safety` says whether it may.

Promises: a stop is seen within 20 ms. What is handed to `write_due` is on its way `AHEAD_NS` before it is due at most,
so that what the caller changes takes effect within that. Frames that the interface cannot take (too long, no header)
are counted and left out. What has been sent cannot be undone; `abort` sends no more.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nsstream.errors import OutputError
from nsstream.replay.packet_sender import PacketSender, SendOptions, StoppedError
from nsstream.replay.safety import InterfaceName
from nsstream.replay.sink import SinkContext, SinkSpec, output_error

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

AHEAD_NS: Final = 20_000_000
MAX_SPIN_US: Final = 20_000  # no sleep at all between frames


class InterfaceSinkSpec(SinkSpec):
    """Interfaces of Ethernet frames, which the server's configuration must name."""

    kind: Literal["interface"] = "interface"
    interface: InterfaceName
    server_interface: InterfaceName | None = None  # for frames of responders; None: all go to the one
    default_route: bool = False  # a default route leads through one of them, and that is meant
    bypass_qdisc: bool = True  # past the queueing discipline; tcpdump on the same interface then sees nothing
    spin_us: Annotated[int, Field(ge=0, le=MAX_SPIN_US)] | None = None  # of each wait at most so many are not slept
    real_time: bool = False  # SCHED_FIFO, where it is permitted


class InterfaceSink:
    """One or two interfaces."""

    spec_type: ClassVar[type[SinkSpec]] = InterfaceSinkSpec

    def __init__(self, spec: InterfaceSinkSpec, context: SinkContext) -> None:
        self._names = [spec.interface]
        if spec.server_interface not in (None, spec.interface):
            self._names.append(str(spec.server_interface))
        self._label = "+".join(self._names)
        self._is_default_route_meant = spec.default_route
        self._options = SendOptions(
            bypasses_qdisc=spec.bypass_qdisc,
            spin_ns=None if spec.spin_us is None else spec.spin_us * 1000,
            is_real_time=spec.real_time,
        )
        self._context = context
        self._sender: PacketSender | None = None
        self._given_count = 0
        self._last: dict[str, int] = {}
        self._has_ended = False

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of the frames; `frames_waiting` are lined up, `late_frames` were sent 1 ms late or more."""
        counts = dict(self._last if self._sender is None else self._sender.counts)
        rest = self._given_count - sum(n for name, n in counts.items() if name.startswith("frames_"))
        counts["frames_undone"], counts["frames_waiting"] = (rest, 0) if self._has_ended else (0, rest)
        return {"frames": self._given_count} | counts

    def check(self) -> None:
        """Raise OutputError if nothing may, or could, be sent."""
        for name in self._names:
            self._context.rules.check(name, is_default_route_meant=self._is_default_route_meant)

    def open(self) -> None:
        """Make the sockets, and start the sender."""
        self.check()
        try:
            rules = self._context.rules
            self._sender = PacketSender(self._names, rules.cap, self._context.is_stopped, self._options)
        except PermissionError as err:
            raise OutputError(f"{self._label}: to send on an interface takes the capability CAP_NET_RAW") from err
        except OSError as err:
            raise output_error(self._label, err) from err

    def write(self, frames: Frames) -> None:
        """Send frames as fast as it goes; returns when the last of them are lined up."""
        self._put(frames, None)

    def write_due(self, frames: Frames, due_ns: NDArray[np.int64]) -> None:
        """Send each frame at its time of CLOCK_MONOTONIC, 0 for at once; returns `AHEAD_NS` before the last at most."""
        self._put(frames, due_ns)
        poll = select.poll()  # of nothing: it waits
        while len(due_ns) and (early_ns := int(due_ns[-1]) - AHEAD_NS - self._context.clock.monotonic_ns()) > 0:
            if self._context.is_stopped():
                raise OutputError(f"{self._label}: stopped before all frames were sent")
            poll.poll(min(early_ns, AHEAD_NS) / 1e6)

    def close(self) -> None:
        """Wait until the last frame is sent."""
        sender = self._opened()
        self._guard(sender.drain)
        self.abort()

    def abort(self) -> None:
        """Send no more."""
        if self._sender is not None:
            sender, self._sender = self._sender, None
            sender.stop()
            self._last, self._has_ended = sender.counts, True

    def _put(self, frames: Frames, due_ns: NDArray[np.int64] | None) -> None:
        sender = self._opened()
        self._given_count += len(frames)
        self._guard(lambda: sender.put(frames, due_ns))

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except StoppedError as err:
            raise OutputError(f"{self._label}: stopped before all frames were sent") from err
        except OSError as err:
            raise output_error(self._label, err) from err

    def _opened(self) -> PacketSender:
        if self._sender is None:
            raise ValueError("a sink is written to between open and close")
        return self._sender
