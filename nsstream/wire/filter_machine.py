"""The classic BPF machine: a compiled capture filter run over frames that are in memory.

Promises: for every program that `check_program` passes, `accepted` ends, reads nothing outside of a frame, and gives
what the kernel's and libpcap's machines give: a load beyond the end of a frame rejects it, and so does a division by 0.

Source: McCanne and Jacobson, "The BSD Packet Filter" (USENIX 1993); linux/bpf_common.h for the codes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.errors import InputError

_SCRATCH_WORDS: Final = 16
_JUMPS: Final = (0x05, 0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D, 0x45, 0x4D)
_LOADS: Final = (0x00, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x60, 0x80, 0x01, 0x61, 0x81, 0xB1)
_STORES: Final = (0x02, 0x03)
_RETURNS: Final = (0x06, 0x16)
_OTHERS: Final = (0x07, 0x87)
_OPERATIONS: Final = tuple(
    op | source | 0x04 for op in range(0, 0xB0, 0x10) for source in (0, 8) if (op, source) != (0x80, 8)
)
_Int = int | np.int64
_CODES: Final = frozenset((*_JUMPS, *_LOADS, *_STORES, *_RETURNS, *_OTHERS, *_OPERATIONS))


def check_program(program: NDArray[np.int64]) -> None:
    """Raise InputError unless a program (k, 4), of code, jump_true, jump_false and k, is one that ends."""
    count = len(program)
    if not count or int(program[-1, 0]) not in _RETURNS:
        raise InputError("a filter program must end with a return")
    for at, (code, jump_true, jump_false, k) in enumerate(program.tolist()):
        if code not in _CODES:
            raise InputError(f"a filter program has the instruction {code:#x}, which is none")
        farthest = at + 1 + (k if code == 0x05 else max(jump_true, jump_false) if code in _JUMPS else 0)
        if code not in _RETURNS and farthest >= count:
            raise InputError("a filter program jumps behind its end")
        if code in (0x60, 0x61, *_STORES) and not 0 <= k < _SCRATCH_WORDS:
            raise InputError("a filter program stores where there is no memory")


@njit(cache=True, nogil=True)
def accepted(
    program: NDArray[np.int64], octets: NDArray[np.uint8], offset: NDArray[np.int64], wire_length: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of m frames a checked program lets pass; frame i is ``octets[offset[i]:offset[i + 1]]``."""
    out = np.zeros(len(offset) - 1, np.bool_)
    scratch = np.zeros(_SCRATCH_WORDS, np.int64)
    for i in range(len(out)):
        out[i] = _run(program, octets, offset[i], offset[i + 1], wire_length[i], scratch) != 0
    return out


@njit(cache=True, nogil=True)
def _load(octets: NDArray[np.uint8], at: _Int, end: _Int, size: _Int) -> _Int:
    """A big-endian value of 1, 2 or 4 octets; -1 beyond the end."""
    if at + size > end:
        return -1
    value: _Int = np.int64(0)
    for k in range(size):
        value = value << 8 | np.int64(octets[at + k])
    return value


@njit(cache=True, nogil=True)
def _run(
    program: NDArray[np.int64],
    octets: NDArray[np.uint8],
    start: _Int,
    end: _Int,
    length: _Int,
    scratch: NDArray[np.int64],
) -> _Int:
    """What the program returns of one frame."""
    a: _Int = np.int64(0)
    x: _Int = np.int64(0)
    at: _Int = 0
    while True:
        code, k = program[at, 0], program[at, 3]
        kind = code & 0x07
        if kind == 0x06:  # return
            return a if code & 0x18 else k
        if kind <= 0x01:  # load A, load X
            mode = code & 0xE0
            value = k
            if mode in (0x20, 0x40):
                where = start + k + (x if mode == 0x40 else 0)
                value = _load(octets, where, end, 1 if code & 0x18 == 0x10 else 2 if code & 0x18 else 4)
            elif mode == 0x60:
                value = scratch[k]
            elif mode == 0x80:
                value = np.int64(length)
            elif mode == 0xA0:
                value = _load(octets, start + k, end, 1)
                if value >= 0:
                    value = (value & 0x0F) << 2
            if value < 0:
                return 0
            if kind == 0x00:
                a = value
            else:
                x = value
        elif kind == 0x02:
            scratch[k] = a
        elif kind == 0x03:
            scratch[k] = x
        elif kind == 0x04:
            b = x if code & 0x08 else k
            op = code & 0xF0
            if op in (0x30, 0x90) and b == 0:
                return 0
            a = _operate(op, a, b) & 0xFFFFFFFF
        elif kind == 0x05:
            op = code & 0xF0
            b = x if code & 0x08 else k
            if op == 0x00:
                at += k
            elif (
                (op == 0x10 and a == b)
                or (op == 0x20 and a > b)
                or (op == 0x30 and a >= b)
                or (op == 0x40 and a & b != 0)
            ):
                at += program[at, 1]
            else:
                at += program[at, 2]
        elif code == 0x07:
            x = a
        else:
            a = x
        at += 1


@njit(cache=True, nogil=True)
def _operate(op: _Int, a: _Int, b: _Int) -> _Int:
    """An operation of the machine on numbers of 32 bits; the result has more."""
    if op == 0x00:
        return a + b
    if op == 0x10:
        return a - b
    if op == 0x20:
        return a * b
    if op == 0x30:
        return a // b
    if op == 0x40:
        return a | b
    if op == 0x50:
        return a & b
    if op == 0x60:
        return a << b if b < 32 else 0
    if op == 0x70:
        return a >> b if b < 32 else 0
    if op == 0x90:
        return a % b
    if op == 0xA0:
        return a ^ b
    return -a
