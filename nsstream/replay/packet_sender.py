"""PacketSender: frames onto one or two interfaces at their instants, by a thread that never waits for the interpreter.

Frames are lined up in a ring (where they lie in memory, how long they are, when they are due); a thread takes them from
there in one numba loop without the GIL (`send_loop`): it sleeps until an absolute instant of CLOCK_MONOTONIC, and hands
all that is due to the kernel by one sendmmsg(2) on an AF_PACKET socket. So no frame's delay adds to the next one's, and
a thread that draws does not hold up what is lined up.

Promises: each frame that `put` took is counted once: sent, or by the reason why not (`counts`); a frame that finds no
room in the kernel is tried again. `stop` ends the sending within 20 ms and one batch. What is lined up is bounded by
`RING_FRAMES`; octets are not copied, and kept until they are sent. Needs CAP_NET_RAW (and CAP_SYS_NICE or RLIMIT_RTPRIO
for real-time scheduling only), in the network namespace of the thread that makes it.

Theory. The two threads share the ring and a few counters. The one that lines up fills rows, and then adds their number
to an eventfd which the sender reads: the system calls order the memory, and an idle sender sleeps in the kernel. Rows
are free again once `DONE` has passed them, of which a second eventfd tells.

Source: packet(7), sendmmsg(2), clock_nanosleep(2), eventfd(2), sched(7), PR_SET_TIMERSLACK in prctl(2).
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from nsstream.replay import send_loop
from nsstream.replay.rate_cap import RateCap
from nsstream.replay.waking import LEAST_SPIN_NS

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

RING_FRAMES: Final = 1 << 14
BATCH_FRAMES: Final = 256
SEND_BUFFER_BYTES: Final = 1 << 20
WAIT_S: Final = 0.02  # how soon a `put` or `drain` that waits sees a stop

_SOL_PACKET: Final = 263
_PACKET_QDISC_BYPASS: Final = 20
_PR_SET_TIMERSLACK: Final = 29
_REAL_TIME_PRIORITY: Final = 1
_FIRST_CHUNK: Final = 256
_LEAST_CHUNK: Final = 16
_SHORT_NS: Final = 2_000_000
_LONG_NS: Final = 10_000_000
_AT_ONCE: Final = np.empty(0, np.int64)

_T = TypeVar("_T", bound=np.generic)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SendOptions:
    """How frames go out."""

    bypasses_qdisc: bool = True  # past the queueing discipline, straight to the device (PACKET_QDISC_BYPASS)
    spin_ns: int | None = None  # of each wait at most so many are not slept; None: as `waking` finds best
    is_real_time: bool = False  # SCHED_FIFO, where that is permitted
    batch_frames: int = BATCH_FRAMES  # a system call


class StoppedError(Exception):
    """`is_stopped` said yes while the sender was waited for."""


class PacketSender:
    """Sends on these interfaces: of the client's side, and of the server's (only one: it is both).

    Raises OSError where a socket cannot be made or bound. `is_stopped` is asked while `put` and `drain` wait.
    """

    def __init__(
        self,
        interfaces: Sequence[str],
        cap: RateCap,
        is_stopped: Callable[[], bool],
        options: SendOptions | None = None,
    ) -> None:
        options = options or SendOptions()
        self._is_stopped = is_stopped
        self._cap = cap
        self._options = options
        self._control = np.zeros(send_loop.CONTROL_WORDS, np.int64)
        self._counts = np.zeros(send_loop.COUNT_WORDS, np.int64)
        self._vectors = np.zeros((RING_FRAMES, 2), np.int64)
        self._due_ns = np.zeros(RING_FRAMES, np.int64)
        self._side = np.zeros(RING_FRAMES, np.uint8)
        self._messages = np.zeros((options.batch_frames, send_loop.MESSAGE_WORDS), np.int64)
        self._messages[:, send_loop.VECTOR_COUNT_WORD] = 1
        self._chunk_frames = _FIRST_CHUNK
        self._head = 0
        self._held: deque[tuple[int, NDArray[np.uint8]]] = deque()
        self._sockets: list[socket.socket] = []
        self._wake = self._done = -1
        self._thread: threading.Thread | None = None
        try:
            self._wake, self._done = os.eventfd(0, os.EFD_CLOEXEC), os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            for interface in interfaces:
                self._sockets.append(_open_socket(interface, options))
        except BaseException:
            self._release()
            raise
        self._poll = select.poll()
        self._poll.register(self._done, select.POLLIN)
        self._load()
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        self._thread.start()

    def put(self, frames: Frames, due_ns: NDArray[np.int64] | None = None) -> None:
        """Line frames up; waits where there is no room.

        Args:
            frames: those of side 1 go to the second interface, if there are two.
            due_ns: (m,) rising, on CLOCK_MONOTONIC; 0, or None for all of them: at once.

        Raises OSError with what ended the sending, and StoppedError.
        """
        due_ns = _AT_ONCE if due_ns is None else due_ns
        if len(due_ns) not in (0, len(frames)):
            raise ValueError(f"due_ns must be of {len(frames)} frames, got {len(due_ns)}")
        octets, offset = _column(frames.octets, np.uint8), _column(frames.offset, np.int64)
        due_ns = _column(due_ns, np.int64)
        side = _column(frames.side if len(self._sockets) == 2 else np.zeros_like(frames.side), np.uint8)
        at = 0
        while at < len(frames):
            is_ahead = len(due_ns) > 0 and due_ns[at] > time.monotonic_ns()
            room = RING_FRAMES - self.waiting_count if is_ahead else self._wait_for_room()
            if room == 0:
                self._wait()
                continue
            count = min(room, len(frames) - at)
            ring = self._vectors, self._due_ns, self._side
            send_loop.line_up(self._head, *ring, octets, offset, due_ns, side, at, count)
            self._head += count
            at += count
            self._held.append((self._head, octets))
            os.eventfd_write(self._wake, count)
        self._check()

    @property
    def waiting_count(self) -> int:
        """Frames that are lined up."""
        done = int(self._control[send_loop.DONE])
        while self._held and self._held[0][0] <= done:
            self._held.popleft()
        return self._head - done

    @property
    def counts(self) -> dict[str, int]:
        """What became of the frames that were put, by name, less those that are still lined up."""
        counts = self._counts.tolist()
        return {
            "frames_written": counts[send_loop.SENT],
            "frames_oversize": counts[send_loop.OVERSIZE],  # longer than the interface's MTU allows
            "frames_refused": counts[send_loop.REFUSED],  # by the kernel: no whole Ethernet header
            "octets": counts[send_loop.SENT_BYTES],
            "retries": counts[send_loop.RETRIES],
            "cap_waits": counts[send_loop.CAP_WAITS],
            "late_frames": counts[send_loop.LATE],  # by more than a millisecond, of those sent
            "latest_ns": counts[send_loop.LATEST_NS],
        }

    def drain(self) -> None:
        """Wait until all that is lined up has been sent, then end. Raises as `put` does."""
        if self._thread is None:
            return
        os.eventfd_write(self._wake, send_loop.CLOSING)
        while self._thread.is_alive() and self.waiting_count:
            self._wait()
        self._check()
        self.stop()

    def stop(self) -> int:
        """Send no more, and release everything; may be repeated. Gives the number of frames that were not sent."""
        if self._thread is not None:
            self._control[send_loop.STOP] = 1
            os.eventfd_write(self._wake, send_loop.CLOSING)
            self._thread.join()
            self._thread = None
            self._release()
        left = self.waiting_count
        self._held.clear()
        return left

    def _wait_for_room(self) -> int:
        """Wait until no more than one chunk is lined up; the size of the next.

        A chunk is what goes out within some milliseconds, as was seen from those before: so what is lined up never
        takes long to go, however slow the interface or the cap is, and who pauses or changes his rate is heeded soon.
        """
        began_ns = time.monotonic_ns()
        has_waited = False
        while self.waiting_count > self._chunk_frames:
            self._wait()
            has_waited = True
        if has_waited:
            elapsed_ns = time.monotonic_ns() - began_ns
            if elapsed_ns > _LONG_NS:
                self._chunk_frames = max(self._chunk_frames // 2, _LEAST_CHUNK)
            elif elapsed_ns < _SHORT_NS:
                self._chunk_frames = min(self._chunk_frames * 2, RING_FRAMES // 4)
        return self._chunk_frames

    def _wait(self) -> None:
        """Wait for the sender to get on, for `WAIT_S` at most."""
        self._check()
        if self._is_stopped():
            raise StoppedError
        if self._poll.poll(1000 * WAIT_S):
            with suppress(BlockingIOError):
                os.eventfd_read(self._done)

    def _check(self) -> None:
        number = int(self._control[send_loop.ERROR])
        if number:
            raise OSError(number, os.strerror(number))

    def _run(self) -> None:
        """The sender's thread; what it asks of the kernel is for itself alone."""
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # 50 us otherwise
        if self._options.is_real_time:
            try:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REAL_TIME_PRIORITY))
            except OSError as err:
                _log.warning("no real-time scheduling: not permitted error=%s", err.strerror)
        self._loop(self._control)

    def _load(self) -> None:
        """Have the loops compiled, or loaded, before the first frame waits for them."""
        told_to_stop = np.zeros_like(self._control)
        told_to_stop[send_loop.STOP] = 1
        self._loop(told_to_stop)
        octet, number = _column(np.zeros(1), np.uint8), _column(np.zeros(1), np.int64)
        ring = self._vectors, self._due_ns, self._side
        send_loop.line_up(0, *ring, octet, number, number, octet, 0, 0)

    def _loop(self, control: NDArray[np.int64]) -> None:
        cap, options = self._cap, self._options
        descriptors = np.array([s.fileno() for s in self._sockets] * (3 - len(self._sockets)), np.int32)
        send_loop.send_loop(
            descriptors,
            self._vectors,
            self._due_ns,
            self._side,
            self._messages,
            control,
            self._counts,
            cap.limits,
            cap.tokens,
            cap.last_ns,
            self._wake,
            self._done,
            LEAST_SPIN_NS if options.spin_ns is None else options.spin_ns,
            options.spin_ns is None and not options.is_real_time,
        )

    def _release(self) -> None:
        for sock in self._sockets:
            sock.close()
        for descriptor in (self._wake, self._done):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake = self._done = -1


def _column(values: NDArray[Any], kind: type[_T]) -> NDArray[_T]:
    """A column in one piece that is not written to: always of one type, so that the loop is compiled once."""
    column = np.ascontiguousarray(values, kind).view()
    column.flags.writeable = False
    return column


def _open_socket(interface: str, options: SendOptions) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: it receives nothing
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if options.bypasses_qdisc:
            sock.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        sock.bind((interface, 0))
    except BaseException:
        sock.close()
        raise
    return sock
