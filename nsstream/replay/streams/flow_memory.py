"""FlowMemory: which five-tuples a recording has had, and which new port each flow of this pass has. Of a fixed size.

A five-tuple is known by 64 bits of a keyed hash. The last `CAPACITY` to twice as many are remembered; a pass has new
ports for its first `CAPACITY` flows, and those beyond get theirs by hash alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.assemble.chance import mix

SLOTS: Final = 1 << 20
CAPACITY: Final = SLOTS // 2
FIRST_PORT: Final = 32_768  # what Linux gives by default (ip_local_port_range); no service of ours lives there
PORTS: Final = 28_232
TRIES: Final = 64
_MASK = np.uint64(SLOTS - 1)
_NONE = np.uint64(0)
_PASS, _USED, _BEYOND = 0, 1, 2  # what `counts` counts


class FlowMemory(NamedTuple):
    """The tables; `counts` are flows of this pass, five-tuples in `used`, and flows beyond the capacity."""

    flows: NDArray[np.uint64]  # (SLOTS,) of this pass
    ports: NDArray[np.uint16]  # (SLOTS,) the new port of each
    used: NDArray[np.uint64]  # (SLOTS,) five-tuples
    used_before: NDArray[np.uint64]  # (SLOTS,) those before them
    counts: NDArray[np.int64]  # (3,)


def new_memory() -> FlowMemory:
    """Nothing is remembered."""
    # Not np.zeros, whose pages come to be as they are written: what a stream takes it takes at once.
    return FlowMemory(
        np.full(SLOTS, 0, np.uint64),
        np.full(SLOTS, 0, np.uint16),
        np.full(SLOTS, 0, np.uint64),
        np.full(SLOTS, 0, np.uint64),
        np.zeros(3, np.int64),
    )


def begin_pass(memory: FlowMemory) -> None:
    """Forget which flow has which port, not which five-tuples there were."""
    memory.flows[:] = 0
    memory.counts[_PASS] = 0


@njit(cache=True, nogil=True)
def five_tuple(pair: np.uint64, port: int) -> np.uint64:
    """The hash of a five-tuple: of all but the ephemeral port, and that."""
    value = mix(pair ^ np.uint64(port))
    return value if value != _NONE else np.uint64(1)


@njit(cache=True, nogil=True)
def note(memory: FlowMemory, pair: np.uint64, port: int) -> None:
    """Remember a five-tuple."""
    value = five_tuple(pair, port)
    if not _is_used(memory, value):
        _use(memory, value)


@njit(cache=True, nogil=True)
def port_of(memory: FlowMemory, pair: np.uint64, port: int, turn: int) -> int:
    """The port of this pass in place of an ephemeral port as recorded; the same for all frames of a flow."""
    flow = five_tuple(pair, port)
    slot = _find(memory.flows, flow)
    if memory.flows[slot] == flow:
        return int(memory.ports[slot])
    is_remembered = memory.counts[_PASS] < CAPACITY
    new = 0
    for k in range(TRIES):
        salt = mix(np.uint64(turn) << np.uint64(8) | np.uint64(k))
        new = FIRST_PORT + int(np.int64(mix(flow ^ salt) % np.uint64(PORTS)))
        if not is_remembered or not _is_used(memory, five_tuple(pair, new)):
            break
    if is_remembered:
        memory.flows[slot] = flow
        memory.ports[slot] = new
        memory.counts[_PASS] += 1
        _use(memory, five_tuple(pair, new))
    else:
        memory.counts[_BEYOND] += 1
    return new


@njit(cache=True, nogil=True)
def _find(table: NDArray[np.uint64], value: np.uint64) -> np.uint64:
    """The slot that holds a value, or the free one where it belongs."""
    slot = value & _MASK
    while table[slot] != _NONE and table[slot] != value:
        slot = (slot + np.uint64(1)) & _MASK
    return slot


@njit(cache=True, nogil=True)
def _is_used(memory: FlowMemory, value: np.uint64) -> bool:
    if memory.used[_find(memory.used, value)] == value:
        return True
    return bool(memory.used_before[_find(memory.used_before, value)] == value)


@njit(cache=True, nogil=True)
def _use(memory: FlowMemory, value: np.uint64) -> None:
    if memory.counts[_USED] >= CAPACITY:
        memory.used_before[:] = memory.used
        memory.used[:] = _NONE
        memory.counts[_USED] = 0
    slot = _find(memory.used, value)
    if memory.used[slot] != value:
        memory.used[slot] = value
        memory.counts[_USED] += 1
