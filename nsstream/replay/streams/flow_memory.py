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
from nsstream.trace.recent_set import RecentSet, add, find, has, new_table

SLOTS: Final = 1 << 20
CAPACITY: Final = SLOTS // 2
FIRST_PORT: Final = 32_768  # what Linux gives by default (ip_local_port_range); no service of ours lives there
PORTS: Final = 28_232
TRIES: Final = 64
_NONE = np.uint64(0)
_PASS, _BEYOND = 0, 1  # what `counts` counts


class FlowMemory(NamedTuple):
    """The tables; `counts` are flows of this pass, and flows beyond the capacity."""

    flows: NDArray[np.uint64]  # (SLOTS,) of this pass
    ports: NDArray[np.uint16]  # (SLOTS,) the new port of each
    used: RecentSet  # five-tuples
    counts: NDArray[np.int64]  # (2,)


def new_memory() -> FlowMemory:
    """Nothing is remembered."""
    # Not np.zeros, whose pages come to be as they are written: what a stream takes it takes at once.
    return FlowMemory(
        new_table(SLOTS), np.full(SLOTS, 0, np.uint16), RecentSet.with_capacity(CAPACITY), np.zeros(2, np.int64)
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
    if not has(memory.used, value):
        add(memory.used, value)


@njit(cache=True, nogil=True)
def port_of(memory: FlowMemory, pair: np.uint64, port: int, turn: int) -> int:
    """The port of this pass in place of an ephemeral port as recorded; the same for all frames of a flow."""
    flow = five_tuple(pair, port)
    slot = find(memory.flows, flow)
    if memory.flows[slot] == flow:
        return int(memory.ports[slot])
    is_remembered = memory.counts[_PASS] < CAPACITY
    new = 0
    for k in range(TRIES):
        salt = mix(np.uint64(turn) << np.uint64(8) | np.uint64(k))
        new = FIRST_PORT + int(np.int64(mix(flow ^ salt) % np.uint64(PORTS)))
        if not is_remembered or not has(memory.used, five_tuple(pair, new)):
            break
    if is_remembered:
        memory.flows[slot] = flow
        memory.ports[slot] = new
        memory.counts[_PASS] += 1
        add(memory.used, five_tuple(pair, new))
    else:
        memory.counts[_BEYOND] += 1
    return new
