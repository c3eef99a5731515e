"""Whether IP2Vec helps: newcomers among the services start as those like them, or from the mean of all, and learn.

    python bench/ip2vec.py TRACE... [--seed MODEL] [--seed-steps N] [--steps N...] [--packets N] [--json OUT]

A seed (--seed, or one that learns the bundled lab capture for --seed-steps) is fine-tuned on the first --packets of
each TRACE for each number of --steps, from weights whose new services start either way; all else, chance included, is
the same. The measure is nats on held-out conversations: of the service, of all attributes, and of a packet.

There is no bar: the figures say whether it is worth having.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from bars.runs import run_main
from bars.traces import lab_capture
from bars.verdict import Bar, as_dict, finish, show
from torch import nn

from nsstream.capture import read_trace
from nsstream.clock import SystemClock
from nsstream.encode.address_map import AddressMap
from nsstream.encode.codec import Codec
from nsstream.encode.encoding import encode, sort_by_start
from nsstream.encode.ip2vec import service_shares
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.checkpoint import load_checkpoint, new_networks
from nsstream.model.networks import AttributeNetwork, PacketNetwork
from nsstream.model.portrait import portrait_of_measured
from nsstream.trace import ConversationTable
from nsstream.trace.grouping import group_conversations
from nsstream.train.calibrate import reset_corrections
from nsstream.train.config import FitConfig, Progress
from nsstream.train.evaluate import attribute_nats, held_out_rows, packet_nats
from nsstream.train.fit import Fit
from nsstream.train.inherit import Shares, equal_shares, inherit

SEED = 1
WAYS: dict[str, Shares] = {"mean": equal_shares, "ip2vec": service_shares}
SERVICE = ATTRIBUTE_INDEX["service"]


@dataclass(frozen=True)
class Learned:
    """Networks, and what their tokens mean."""

    networks: nn.ModuleDict
    codec: Codec


def conversations_of(trace: Path, packets: int) -> ConversationTable:
    """The conversations of a trace's first packets, addresses mapped."""
    read, _ = read_trace(trace)
    read = read.take(np.argsort(read.observation_time_ns, kind="stable")[:packets])
    table = sort_by_start(group_conversations(read)[0])
    addresses = AddressMap(bytes(range(32)))
    return replace(
        table,
        initiator_address=addresses.map(table.initiator_address),
        responder_address=addresses.map(table.responder_address),
    )


def codec_of(table: ConversationTable, parent: Codec | None = None) -> Codec:
    times = table.observation_time_ns
    return Codec.fit(table, int(times.min()), int(times.max()) + 1, parent)


def learn(networks: nn.ModuleDict, table: ConversationTable, codec: Codec, steps: int, rate: float) -> None:
    """Learn by likelihood alone, without what is made for drawing."""
    tokens = encode(table, codec)
    portraits = portrait_of_measured(table, tokens, codec)
    config = FitConfig(steps=steps, learning_rate=rate)
    Fit(networks, tokens, portraits, codec, config, SEED, SystemClock(), _silent).learn()


def judge(learned: Learned, table: ConversationTable) -> dict[str, float]:
    """Nats on held-out conversations."""
    tokens, networks = encode(table, learned.codec), learned.networks.eval()
    reset_corrections(networks)
    held = held_out_rows(tokens, SEED)
    attributes, packets = cast(AttributeNetwork, networks["attributes"]), cast(PacketNetwork, networks["packets"])
    nats = attribute_nats(attributes, tokens, learned.codec, held)
    return {
        "service": float(nats[SERVICE]),
        "conversation": float(nats.sum()),
        "packet": packet_nats(packets, tokens, learned.codec, held),
    }


def measure(seed: Learned, table: ConversationTable, steps: Sequence[int]) -> dict[str, Any]:
    """Figures by way and number of steps; and how many conversations are of services that the seed does not know."""
    codec = codec_of(table, seed.codec)
    services = encode(table, codec).attributes[:, SERVICE]
    is_new = np.array([a != b for a, b in zip(seed.codec.service.slots, codec.service.slots, strict=True)])
    figures: dict[str, Any] = {
        "conversations": len(table),
        "new services": int(is_new.sum()),
        "share of conversations": float(is_new[services].mean()),
    }
    for name, shares in WAYS.items():
        began = copy.deepcopy(seed.networks)
        inherit(began, seed.codec, codec, shares)
        for count in steps:
            networks = copy.deepcopy(began)
            if count:
                learn(networks, table, codec, count, rate=2e-3)
            figures[f"{name} {count}"] = judge(Learned(networks, codec), table)
            print(name, count, figures[f"{name} {count}"], flush=True)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+", metavar="TRACE")
    parser.add_argument("--seed", type=Path, help="a model's directory; none: one is learned")
    parser.add_argument("--seed-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 30, 120])
    parser.add_argument("--packets", type=int, default=20_000, help="of each trace")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    with ExitStack() as stack:
        if given.seed is None:
            table = conversations_of(stack.enter_context(lab_capture()), given.packets)
            seed = Learned(new_networks(), codec_of(table))
            learn(seed.networks, table, seed.codec, given.seed_steps, rate=3e-3)
        else:
            model = load_checkpoint(given.seed)
            halves = {"attributes": model.attributes, "packets": model.packets, "critic": model.critic}
            seed = Learned(nn.ModuleDict(halves), model.codec)
    bars, figures = [], {}
    for trace in given.traces:
        found = figures[trace.name] = measure(seed, conversations_of(trace, given.packets), given.steps)
        told = f"{found['new services']:,} new services, {found['share of conversations']:.0%} of conversations"
        bars.append(Bar(trace.name, told))
        for count in given.steps:
            for what, nats in found[f"ip2vec {count}"].items():
                mean = found[f"mean {count}"][what]
                bars.append(Bar(f"  {what} after {count} steps, nats", round(nats, 3), beside=round(mean, 3)))
    show("new services as those like them", bars, beside="as the mean")
    return finish(as_dict(bars) | {"figures": figures}, given.json, passed=None)


def _silent(progress: Progress) -> None:
    """Listen to nothing."""


if __name__ == "__main__":
    raise SystemExit(run_main(main))
