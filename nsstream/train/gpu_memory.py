"""Room in a GPU's memory: taken before a fit begins, so that it does not run out in the middle; and what to call it.

Several workers may share a GPU. Each takes what a fit is told to need at once, and torch's allocator keeps it: so none
counts on memory that another is about to take, and what the fit then asks for is there already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import torch

from nsstream.clock import Clock
from nsstream.errors import TrainError

LOOK_S: Final = 1.0
WAIT_S: Final = 60.0  # for others to end; after that the job waits, and not its worker
_SIGNS: Final = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class GpuMemoryError(TrainError):
    """The GPU has no room for a fit."""


class Memory(Protocol):
    """The memory of one GPU."""

    def look(self) -> tuple[int, int]:
        """Octets that are free, and all that there are."""
        ...

    def take(self, octets: int) -> bool:
        """Take them for this process; whether they were still there."""
        ...


class CudaMemory:
    """The memory of a GPU that torch sees."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def look(self) -> tuple[int, int]:
        """As CUDA tells it, other processes counted."""
        free, total = torch.cuda.mem_get_info(self._device)
        return free, total

    def take(self, octets: int) -> bool:
        """Let torch's allocator have them, which keeps what a tensor gives back."""
        try:
            torch.empty(octets, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError:
            return False
        return True


def take_memory(
    need: int, memory: Memory, clock: Clock, wait: Callable[[float], object], waiting: Callable[[], object]
) -> None:
    """Take `need` octets of a GPU's memory as soon as they are free.

    Args:
        need: 0 takes nothing.
        memory: of the GPU.
        clock: by which it is waited for `WAIT_S` at most.
        wait: sleeps for so many seconds.
        waiting: told before each wait.

    Raises:
        GpuMemoryError: there is not so much, or it was not free in time.
    """
    deadline_ns = clock.monotonic_ns() + round(WAIT_S * 1e9)
    while need:
        free, total = memory.look()
        if total < need:
            raise GpuMemoryError(
                f"the GPU has {total >> 20} MB of memory, and gpu_memory_octets asks for {need >> 20} MB"
            )
        if free >= need and memory.take(need):
            return
        if clock.monotonic_ns() >= deadline_ns:
            raise GpuMemoryError(
                f"of the GPU's memory {free >> 20} MB are free after {WAIT_S:g} s, "
                f"and gpu_memory_octets asks for {need >> 20} MB"
            )
        waiting()
        wait(LOOK_S)


def is_out_of_memory(err: BaseException) -> bool:
    """Whether a GPU's memory was used up: torch says so in several ways."""
    return isinstance(err, torch.OutOfMemoryError) or (
        isinstance(err, RuntimeError) and any(sign in str(err) for sign in _SIGNS)
    )
