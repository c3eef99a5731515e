"""A second device for torch, made of the processor's own memory, that mixes with nothing: as a GPU would, without one.

A tensor there (`There`) holds its numbers as the processor's. An operation that gets tensors of both devices fails, as
CUDA lets it fail, except for moving (`to`, `copy_`) and numbers without dimension; so does noise whose generator is of
the other device. Whatever is learned on it is learned with the very same numbers as on the processor, but for a
recurrence's rounding.

The device is registered for the whole process, so this is one of its own: it fits small chunks on both devices, and
writes what it found as one JSON object.
"""

import contextlib
import json
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from made_flows import START_NS as FLOWS_NS
from made_flows import made_flows
from made_traffic import MINUTE_NS, START_NS, made_table
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from nsstream.clock import ManualClock
from nsstream.encode.address_map import AddressMap
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import encode_flows
from nsstream.encode.series import encode_series
from nsstream.encode.series_codec import SeriesCodec
from nsstream.model.checkpoint import load_checkpoint, new_networks, save_checkpoint
from nsstream.model.doppelganger import SeriesLayout, new_series_networks
from nsstream.model.flow_checkpoint import new_flow_networks
from nsstream.model.portrait import portrait_of_measured
from nsstream.train.config import FitConfig
from nsstream.train.device import CPU
from nsstream.train.doppelganger_fit import DoppelgangerConfig, DoppelgangerFit
from nsstream.train.fit import Fit
from nsstream.train.flow_fit import FlowFit

NAME = "elsewhere"
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
SMALL = FitConfig(steps=6, windows_per_step=4, packets_per_step=512, groups_per_step=4, critic_rounds=1)
done_there: Counter[str] = Counter()


class MixedError(Exception):
    """An operation on tensors of two devices."""


class There(torch.Tensor):
    """A tensor of the second device; `here` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, here):
        self.here = here

    def __deepcopy__(self, memo):
        new = There(self.here.detach().clone()).requires_grad_(self.requires_grad)
        new._is_param = getattr(self, "_is_param", False)
        memo[id(self)] = new
        return new

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """Do an operation with the numbers here, if it is one that the device would do."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    is_there = any(isinstance(x, There) for x in tensors)
    if is_there and func not in MOVES and any(not isinstance(x, There) and x.dim() for x in tensors):
        raise MixedError(f"{func} of tensors on {sorted({str(x.device) for x in tensors})}")
    if (device := kwargs.get("device")) is not None:
        is_there = device.type == NAME
    kwargs = {name: CPU if name == "device" and value is not None else value for name, value in kwargs.items()}
    given = tree_map(lambda x: x.here if isinstance(x, There) else x, (args, kwargs))
    if is_there:
        done_there[func.name()] += 1
    made = FUSED.get(func, func)(*given[0], **given[1])
    if any(is_written(result) for result in func._schema.returns):  # in place: the tensor that was given
        changed = next(x for x, argument in zip(args, func._schema.arguments, strict=False) if is_written(argument))
        if isinstance(changed, There) and changed.shape != changed.here.shape:  # `transpose_`, say
            changed.data = There(changed.here)
        return changed
    return tree_map(lambda x: There(x) if is_there and isinstance(x, torch.Tensor) else x, made)


def is_written(argument):
    return argument.alias_info is not None and argument.alias_info.is_write


def gru_cell(said, told, state, said_bias=None, told_bias=None):
    """A step of a gated recurrent unit, and what its way back needs, as CUDA's kernel gives both."""
    said = said if said_bias is None else said + said_bias
    told = told if told_bias is None else told + told_bias
    d = state.shape[1]
    reset = torch.sigmoid(said[:, :d] + told[:, :d])
    update = torch.sigmoid(said[:, d : 2 * d] + told[:, d : 2 * d])
    fresh = torch.tanh(said[:, 2 * d :] + reset * told[:, 2 * d :])
    return fresh + update * (state - fresh), torch.cat([reset, update, fresh, state, told[:, 2 * d :]], dim=1)


def gru_cell_backward(grad, kept, has_bias):
    reset, update, fresh, state, told = kept.chunk(5, dim=1)
    of_fresh = grad * (1 - update) * (1 - fresh * fresh)
    of_update = grad * (state - fresh) * update * (1 - update)
    of_reset = of_fresh * told * reset * (1 - reset)
    of_said = torch.cat([of_reset, of_update, of_fresh], dim=1)
    of_told = torch.cat([of_reset, of_update, of_fresh * reset], dim=1)
    return of_said, of_told, grad * update, of_said.sum(0), of_told.sum(0)


def lstm_cell(said, told, cell, said_bias=None, told_bias=None):
    """A step of a long short-term memory, and what its way back needs."""
    gates = said + told
    gates = gates if said_bias is None else gates + said_bias + told_bias
    enter, keep, fresh, leave = gates.chunk(4, dim=1)
    enter, keep, fresh, leave = torch.sigmoid(enter), torch.sigmoid(keep), torch.tanh(fresh), torch.sigmoid(leave)
    after = keep * cell + enter * fresh
    return leave * torch.tanh(after), after, torch.cat([enter, keep, fresh, leave], dim=1)


def lstm_cell_backward(grad, grad_cell, cell, after, kept, has_bias):
    enter, keep, fresh, leave = kept.chunk(4, dim=1)
    said = torch.tanh(after)
    grad = torch.zeros_like(cell) if grad is None else grad
    of_after = grad * leave * (1 - said * said) + (0 if grad_cell is None else grad_cell)
    of_gates = torch.cat(
        [
            of_after * fresh * enter * (1 - enter), of_after * cell * keep * (1 - keep),
            of_after * enter * (1 - fresh * fresh), grad * said * leave * (1 - leave),
        ],
        dim=1,
    )  # fmt: skip
    return of_gates, of_after * keep, of_gates.sum(0)


FUSED = {
    aten._thnn_fused_lstm_cell.default: lstm_cell,
    aten._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
    aten._thnn_fused_gru_cell.default: gru_cell,
    aten._thnn_fused_gru_cell_backward.default: gru_cell_backward,
}


class Generator(torch.Generator):
    """Chance that says which device it is of."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.place = torch.device(device)
        return self

    @property
    def device(self):
        return self.place


class Watch(TorchDispatchMode):
    """Hands the second device's operations over, those that make tensors too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class NoiseWatch(TorchFunctionMode):
    """Refuses noise of another device's generator."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, Generator) and "device" in kwargs:
            wanted = torch.device(kwargs["device"] or "cpu")
            if wanted.type != generator.device.type:
                raise MixedError(f"{func} on {wanted} by a generator of {generator.device}")
        return func(*args, **kwargs)


@contextlib.contextmanager
def second_device():
    with Watch(), NoiseWatch(), torch.autograd.set_multithreading_enabled(False):
        yield torch.device(NAME, 0)


def without_chance_of_torch(networks):
    """Torch's own dropout takes its chance differently on each device."""
    for module in networks.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return networks


def check_is_here(networks):
    assert all(type(w) in (torch.Tensor, torch.nn.Parameter) for w in networks.state_dict().values())
    assert all(w.device == CPU for w in networks.state_dict().values())


def packets(device):
    table = made_table(count=40)
    codec = Codec.fit(table, START_NS, START_NS + MINUTE_NS)
    tokens = encode(table, codec)
    torch.manual_seed(3)
    networks = without_chance_of_torch(new_networks())
    config = replace(SMALL, has_adversary=True, steps=60, likelihood_share=0.1)
    portraits = portrait_of_measured(table, tokens, codec)
    fit = Fit(networks, tokens, portraits, codec, config, 3, ManualClock(), lambda _: None, device=device)
    fit.learn()
    with tempfile.TemporaryDirectory() as folder:  # of a part of a learning in parallel
        loaded = load_checkpoint(save_checkpoint(Path(folder), networks, fit.trees, codec, {}))
        check_is_here(loaded.packets)
    fit.finish()
    check_is_here(networks)
    return fit.facts()["held_out_nats"] | {"critic": fit.facts()["steps"]["critic"], "trees": len(fit.trees.roots)}


def flows(device):
    given = group_flows(made_flows(count=300))
    codec = FlowCodec.fit(given, FLOWS_NS, FLOWS_NS + 700 * 10**9)
    torch.manual_seed(3)
    networks = without_chance_of_torch(new_flow_networks())
    tokens, start_ns = encode_flows(given, codec), given.records.flow_start_ns
    fit = FlowFit(networks, tokens, start_ns, codec, SMALL, 3, ManualClock(), lambda _: None, device)
    fit.run()
    check_is_here(networks)
    return fit.facts()["held_out_nats"]


def series(device):
    table = made_table(count=40)
    codec = SeriesCodec.fit(table, START_NS, START_NS + MINUTE_NS, AddressMap(b"sixteen octets..").networks)
    torch.manual_seed(3)
    networks = new_series_networks(SeriesLayout(20, 10))
    config = DoppelgangerConfig(rounds=2, batch=12, critic_steps=2)
    fit = DoppelgangerFit(networks, encode_series(table, codec), config, 3, ManualClock(), lambda _: None, device)
    fit.run()
    check_is_here(networks)
    return {"distance": fit.facts()["distance"]}


def refuses_to_mix():
    """That this device would notice."""
    found = []
    with second_device() as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        for mixed in (
            lambda: there + here,
            lambda: here[torch.zeros(2, dtype=torch.int64, device=device)],
            lambda: torch.cat([there, here]),
            lambda: torch.rand(3, generator=Generator("cpu"), device=device),
        ):
            try:
                mixed()
            except MixedError:
                found.append(True)
    return found


def main():
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend(NAME)
    torch.Generator = Generator
    told = {"refuses": refuses_to_mix()}
    for fitted in (packets, flows, series):
        here = fitted(CPU)
        done_there.clear()
        with second_device() as device:
            there = fitted(device)
        told[fitted.__name__] = {"here": here, "there": there, "operations": done_there.total()}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
