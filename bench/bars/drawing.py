"""Drawing taken apart: packets alone, the law and the matrix products in it, and one very long conversation.

Times are of the processor: the work is of one thread, so that on a shared machine too they are those of one core.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numba import njit

from nsstream.encode.encoding import allowed_kinds
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.checkpoint import load_checkpoint
from nsstream.model.conversations import draw_conversations
from nsstream.model.frozen_packets import freeze_packets
from nsstream.model.lawful import allow, begin_law, kind_rules, law_budget, say
from nsstream.model.one_thread import one_blas_thread
from nsstream.model.packet_loop import empty_slots
from nsstream.model.sample_packets import draw_packets


@dataclass(frozen=True, slots=True)
class Shares:
    """Seconds of processor time; `products_s` and `law_s` are parts of `packets_s`, measured apart from it."""

    conversations: int
    count: int  # packets
    attributes_s: float
    packets_s: float
    products_s: float
    law_s: float


@dataclass(frozen=True, slots=True)
class Elephant:
    seconds: float
    octets: int  # of resident memory at the peak, more than before


def time_packets(model: Path, seed: int) -> Shares:
    """Each conversation of a model's chunk drawn once, on one thread."""
    torch.set_num_threads(1)
    loaded, rng = load_checkpoint(model), np.random.default_rng(seed)
    network, codec = loaded.packets, loaded.codec
    began = time.process_time()
    given = draw_conversations(loaded.attributes, codec, rng)
    attributes_s = time.process_time() - began
    attributes, stack, counts = given.attributes, given.ends.stack, given.counts
    events = np.array(codec.endings.events)
    began = time.process_time()
    drawn = draw_packets(network, codec, attributes, stack, given.start_ns, counts, rng, events=events)
    packets_s = time.process_time() - began

    frozen = freeze_packets(network, codec)
    slots = empty_slots(frozen, len(counts))
    c = len(slots.owner)
    sized = round(c * float((codec.kind.table()[drawn.kind, 5] > 0).mean()))
    timed = round(c * (1 - len(counts) / len(drawn.kind)))
    steps = -(-len(drawn.kind) // c)
    parts = slots.state, slots.seen, frozen.recur, frozen.read, frozen.size_head, frozen.gap_head
    with one_blas_thread():
        _products(*parts, sized, timed, 1)
        began = time.process_time()
        _products(*parts, sized, timed, steps)
        products_s = time.process_time() - began

    table = codec.kind.table()[frozen.kinds]
    rules, of_stack = kind_rules(table, codec.endings), np.ascontiguousarray(allowed_kinds(codec)[:, frozen.kinds])
    is_silent = codec.ttl.table()[attributes[:, ATTRIBUTE_INDEX["ttl"]]][:, [0, -1]] == 0
    continues = attributes[:, ATTRIBUTE_INDEX["continues_from_before"]] > 0
    kind = np.searchsorted(frozen.kinds, drawn.kind)
    for part in (1, len(counts)):  # the first compiles
        rows, budget = begin_law(continues, is_silent), law_budget(codec.endings, events)
        began = time.process_time()
        _law(rules, rows, budget, of_stack, stack[:part], counts, drawn.packet_offset, kind)
        law_s = time.process_time() - began
    return Shares(len(counts), len(drawn.kind), attributes_s, packets_s, products_s, law_s)


def draw_elephant(model: Path, seed: int, packets: int) -> Elephant:
    """One conversation, TCP if the model has any, of so many packets; in a process that does nothing else."""
    torch.set_num_threads(1)
    loaded, rng = load_checkpoint(model), np.random.default_rng(seed)
    all_of_them = draw_conversations(loaded.attributes, loaded.codec, rng)
    stack = all_of_them.ends.stack
    one = np.argsort(stack % 3 != 1, kind="stable")[:1]
    given = loaded.packets, loaded.codec, all_of_them.attributes[one], stack[one], all_of_them.start_ns[one]
    draw_packets(*given, np.array([100]), rng)  # loads what was compiled
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on, proc(5)
    before, began = _status("VmRSS"), time.process_time()
    drawn = draw_packets(*given, np.array([packets]), rng)
    seconds = time.process_time() - began
    assert len(drawn.kind) == packets
    return Elephant(seconds, _status("VmHWM") - before)


def _status(name: str) -> int:
    """A line of /proc/self/status, in octets."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@njit(cache=True)
def _products(state, seen, recur, read, size_head, gap_head, sized, timed, steps):
    """As many matrix products as drawing makes, with all slots taken."""
    gates = np.empty((len(state), recur.shape[1]), np.float32)
    told = np.empty((len(state), read.shape[1]), np.float32)
    sizes = np.empty((len(state), size_head.shape[1]), np.float32)
    gaps = np.empty((len(state), gap_head.shape[1]), np.float32)
    for _ in range(steps):
        np.dot(state, recur, gates)
        np.dot(state, read, told)
        np.dot(seen[:sized], size_head, sizes[:sized])
        np.dot(seen[:timed], gap_head, gaps[:timed])


@njit(cache=True)
def _law(rules, rows, budget, of_stack, stack, counts, offset, kind):
    """What the law had to say to these packets."""
    may = np.empty(of_stack.shape[1], np.bool_)
    for c in range(len(stack)):
        for step in range(offset[c + 1] - offset[c]):
            allow(rules, rows[c], counts[c] - step - 1, budget, of_stack[stack[c]], may)
            say(rules, rows[c], budget, kind[offset[c] + step])
