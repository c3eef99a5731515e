"""The loop that sends: rows of a ring to AF_PACKET sockets when they are due. One numba function, without the GIL.

The C library's functions are called by their names (numba's `ExternalFunction`), which unlike ctypes pointers keeps the
compiled code cacheable. Structures are rows of 64-bit words: struct timespec, struct iovec, and struct mmsghdr, whose
words are name, name length, vectors, vector count, control, control length, flags, sent length.

When it sleeps between frames, and when it waits awake, says `waking`. Who owns what is told by `packet_sender`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from nsstream.replay.rate_cap import give_back, refill, take, wait_ns
from nsstream.replay.waking import AWAKE_NS, lead_ns, new_waiter, note_awake, note_sleep

# Words of `control`.
STOP: Final = 0  # set by the owner: send no more
DONE: Final = 1  # rows behind which nothing is to be done any more
ERROR: Final = 2  # errno that ended the loop, 0 for none
CONTROL_WORDS: Final = 3

# Words of `counts`.
SENT: Final = 0
SENT_BYTES: Final = 1
OVERSIZE: Final = 2
REFUSED: Final = 3
RETRIES: Final = 4
CAP_WAITS: Final = 5
LATE: Final = 6
LATEST_NS: Final = 7
COUNT_WORDS: Final = 8

CLOSING: Final = 1 << 40  # added to the eventfd: no more rows will come
MESSAGE_WORDS: Final = 8
VECTORS_WORD: Final = 2
VECTOR_COUNT_WORD: Final = 3
SLICE_NS: Final = AWAKE_NS  # the longest sleep, so that a stop is seen
LATE_NS: Final = 1_000_000  # a frame that goes so long after its instant is counted as late
TELL_EVERY: Final = 128  # rows

_CLOCK_MONOTONIC: Final = 1
_TIMER_ABSTIME: Final = 1
_MSG_DONTWAIT: Final = 0x40
_POLLOUT: Final = 4
_ROOM_WAIT_MS: Final = 5
_BUSY_WAIT_NS: Final = 20_000  # a device's queue is full: so long until it is tried again

_EINTR: Final = 4
_EAGAIN: Final = 11
_EINVAL: Final = 22
_EMSGSIZE: Final = 90
_ENOBUFS: Final = 105

_INT, _UINT, _WORD, _SIZE = types.int32, types.uint32, types.intp, types.uintp


def _libc(name: str, result: Any, *arguments: Any) -> Any:
    return types.ExternalFunction(name, result(*arguments))


_sendmmsg = _libc("sendmmsg", _INT, _INT, _WORD, _UINT, _INT)
_clock_gettime = _libc("clock_gettime", _INT, _INT, _WORD)
_clock_nanosleep = _libc("clock_nanosleep", _INT, _INT, _INT, _WORD, _WORD)
_read = _libc("read", _WORD, _INT, _WORD, _SIZE)
_write = _libc("write", _WORD, _INT, _WORD, _SIZE)
_poll = _libc("poll", _INT, _WORD, _SIZE, _INT)
_errno_location = _libc("__errno_location", types.CPointer(_INT))  # type: ignore[no-untyped-call]


@njit(cache=True, nogil=True)
def line_up(
    start: int,
    vectors: NDArray[np.int64],
    ring_due_ns: NDArray[np.int64],
    ring_side: NDArray[np.uint8],
    octets: NDArray[np.uint8],
    offset: NDArray[np.int64],
    due_ns: NDArray[np.int64],
    side: NDArray[np.uint8],
    first: int,
    count: int,
) -> None:
    """Fill rows ``start .. start + count`` of the ring with frames ``first .. first + count``; no due_ns: at once."""
    mask = len(ring_due_ns) - 1
    base = octets.ctypes.data
    for k in range(count):
        row, i = (start + k) & mask, first + k
        vectors[row, 0] = base + offset[i]
        vectors[row, 1] = offset[i + 1] - offset[i]
        ring_due_ns[row] = due_ns[i] if len(due_ns) else 0
        ring_side[row] = side[i]


@njit(cache=True, nogil=True)
def send_loop(
    sockets: NDArray[np.int32],  # (2,), of the client's and the server's side
    vectors: NDArray[np.int64],  # (r, 2), r a power of two
    ring_due_ns: NDArray[np.int64],  # (r,), on CLOCK_MONOTONIC, 0: at once
    ring_side: NDArray[np.uint8],  # (r,)
    messages: NDArray[np.int64],  # (b, 8), prepared with one vector each
    control: NDArray[np.int64],
    counts: NDArray[np.int64],
    limits: NDArray[np.float64],
    tokens: NDArray[np.float64],
    last_ns: NDArray[np.int64],
    wake: int,
    done: int,
    spin_ns: int,
    is_adaptive: bool,
) -> None:
    """Send what is lined up until told that no more comes, or to stop, or an error that lasts."""
    mask = len(ring_due_ns) - 1
    word = np.zeros(2, np.int64)
    is_capped = limits[0] > 0 or limits[1] > 0
    at = head = told = 0
    is_closing = False
    waiter = new_waiter(spin_ns)
    while control[STOP] == 0:
        if at == head:
            if is_closing:
                break
            if _read(wake, word.ctypes.data, 8) == 8:
                head += word[0] & (CLOSING - 1)
                is_closing = word[0] >= CLOSING
            elif _errno() != _EINTR:
                control[ERROR] = _errno()
                break
            continue
        now = _now_ns(word)
        lead = lead_ns(waiter, now, spin_ns, is_adaptive)
        due = ring_due_ns[at & mask]
        if due > now:
            if due - lead > now:
                until = min(due - lead, now + SLICE_NS)
                note_sleep(waiter, until)
                _sleep_until(until, word)
            else:
                note_awake(waiter, now)
            continue
        if is_capped:
            refill(limits, tokens, last_ns, now)
        side = ring_side[at & mask]
        ready = 0
        for k in range(min(head - at, len(messages))):
            row = (at + k) & mask
            if ring_due_ns[row] > now or ring_side[row] != side:
                break
            if is_capped and not take(limits, tokens, vectors[row, 1]):
                break
            messages[k, VECTORS_WORD] = vectors.ctypes.data + row * 16
            ready += 1
        if ready == 0:
            counts[CAP_WAITS] += 1
            _sleep_until(now + min(wait_ns(limits, tokens), SLICE_NS), word)
            continue
        sent = _sendmmsg(sockets[side], messages.ctypes.data, ready, _MSG_DONTWAIT)
        error = _errno() if sent < 0 else 0
        sent = max(sent, 0)
        for k in range(sent):
            row = (at + k) & mask
            counts[SENT_BYTES] += vectors[row, 1]
            due = ring_due_ns[row]
            if due:
                counts[LATE] += now - due > LATE_NS
                counts[LATEST_NS] = max(counts[LATEST_NS], now - due)
        counts[SENT] += sent
        if is_capped:
            for k in range(sent, ready):
                give_back(tokens, vectors[(at + k) & mask, 1])
        at += sent
        if error == _EMSGSIZE:
            counts[OVERSIZE] += 1
            at += 1
        elif error == _EINVAL:
            counts[REFUSED] += 1
            at += 1
        elif error == _ENOBUFS:
            counts[RETRIES] += 1
            _sleep_until(now + _BUSY_WAIT_NS, word)
        elif error == _EAGAIN:
            counts[RETRIES] += 1
            word[0] = np.int64(sockets[side]) | _POLLOUT << 32  # struct pollfd
            _poll(word.ctypes.data, 1, _ROOM_WAIT_MS)
        elif error and error != _EINTR:
            control[ERROR] = error
            break
        control[DONE] = at
        if at == head or at - told >= TELL_EVERY:
            told = at
            word[0] = 1
            _write(done, word.ctypes.data, 8)
    word[0] = 1
    _write(done, word.ctypes.data, 8)


@njit(cache=True, nogil=True)
def _now_ns(word: NDArray[np.int64]) -> int:
    _clock_gettime(_CLOCK_MONOTONIC, word.ctypes.data)
    return int(word[0] * 1_000_000_000 + word[1])


@njit(cache=True, nogil=True)
def _sleep_until(instant_ns: int, word: NDArray[np.int64]) -> None:
    word[0], word[1] = instant_ns // 1_000_000_000, instant_ns % 1_000_000_000
    _clock_nanosleep(_CLOCK_MONOTONIC, _TIMER_ABSTIME, word.ctypes.data, 0)


@njit(cache=True, nogil=True)
def _errno() -> int:
    return int(_errno_location()[0])
