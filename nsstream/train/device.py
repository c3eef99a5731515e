"""Where a fit computes: on the processor, or on the GPU that its worker was given.

A worker sees the GPUs that CUDA_VISIBLE_DEVICES names, and computes on the first of them. It was *given* one where that
variable names one: its lane did, or Ray, or whoever started it. `auto` computes there if torch can, and else on the
processor, and says why; `cuda` insists. Networks, batches, noise and optimisers are there; numba's loops, the trees and
whatever is drawn stay on the processor, and so do saved checkpoints.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.errors import InputError
from nsstream.train.job import DeviceName

CPU: Final = torch.device("cpu")
NO_GPU: Final = ("", "-1", "none", "void", "NoDevFiles")  # what CUDA_VISIBLE_DEVICES says where there is to be none
PRIVATELY: Final = "what is learned privately is learned on the CPU"
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a worker computes."""

    device: torch.device
    gpu: str | None = None  # what it is called
    unused: str | None = None  # why a GPU that was given is not used

    def facts(self) -> dict[str, object]:
        """What the manifest and the ``done`` line say of it."""
        told = {"device": self.device.type, "gpu": self.gpu, "gpu_unused": self.unused}
        return {name: value for name, value in told.items() if value is not None}


def choose_device(asked: DeviceName, visible: str | None, lack_of_gpu: Callable[[], str | None]) -> Seat:
    """Where to compute.

    Args:
        asked: `cuda` insists on a GPU, `auto` takes one that was given.
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.
        lack_of_gpu: why none can be used; None: one can.

    Raises:
        InputError: `cuda` was asked for, and cannot be had.
    """
    is_given = visible is not None and visible.split(",")[0].strip() not in NO_GPU
    if asked == "cpu" or (asked == "auto" and not is_given):
        return Seat(CPU)
    lack = lack_of_gpu()
    if lack is None:
        return Seat(torch.device("cuda", 0))
    if asked == "cuda":
        raise InputError(f"device cuda cannot be used: {lack}")
    return Seat(CPU, unused=lack)


def lack_of_gpu() -> str | None:
    """Why torch can use no GPU; None where it can."""
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return f"torch {torch.__version__} is built without CUDA"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    why = (
        str(told[0].message).splitlines()[0] if told else "is the driver there, and does CUDA_VISIBLE_DEVICES name it?"
    )
    return f"torch {torch.__version__} finds no GPU: {why}"


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device


def new_generator(seed: int, device: torch.device) -> torch.Generator:
    """Chance of its own, on a device; on the processor the same as ever."""
    return torch.Generator(device).manual_seed(seed)


def tensor_of(array: NDArray[Any], device: torch.device = CPU) -> Tensor:
    """An array as a tensor there; one that must not be written to is copied, since torch knows no such thing."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def compact(network: Network) -> Network:
    """Lay the weights of recurrences side by side again, as cuDNN wants them: those of a copy are not."""
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return network
