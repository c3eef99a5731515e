"""Inherit: a parent's weights made ready for another chunk's codec.

Slots of the vocabularies keep their values from parent to child, so most weights stay as they are. A slot that was
given to a newcomer starts from the mean of the slots that were in use: as likely as an average value, known for
nothing. Starting services from those like them (`ip2vec.service_shares`) was no better (`bench/ip2vec.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nsstream.encode.codec import VOCABULARIES, Codec
from nsstream.encode.schema import ATTRIBUTE_INDEX

_ATTRIBUTES_OF = {
    "host": ("initiator_host", "responder_host"),
    "service": ("service",),
    "port": ("initiator_port",),
    "ttl": ("ttl",),
    "marking": ("marking",),
}
_PACKET_TABLES_OF = {
    "kind": ("packets.kind.weight", "packets.kind_head.weight", "packets.kind_head.bias", "critic.kind.weight"),
    "size": ("packets.size.weight", "packets.size_head.weight", "packets.size_head.bias", "critic.size.weight"),
}


Shares = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]  # (f, k), (u, k) -> (f, u)


def equal_shares(fresh: NDArray[np.int64], used: NDArray[np.int64]) -> NDArray[np.float32]:
    """The mean of all values in use (u, k), for each newcomer (f, k): (f, u)."""
    return np.full((len(fresh), len(used)), 1 / len(used), np.float32)


@torch.no_grad()
def inherit(networks: nn.ModuleDict, parent: Codec, child: Codec, of_services: Shares = equal_shares) -> int:
    """Reset the rows of all slots whose value changed; gives how many slots those are. Networks change in place.

    `of_services` says how much of each service in use goes into each new one, by their values.
    """
    weights = networks.state_dict()
    changed = 0
    for name in VOCABULARIES:
        old, new = getattr(parent, name), getattr(child, name)
        fresh = [i for i, (a, b) in enumerate(zip(old.slots, new.slots, strict=True)) if b is not None and a != b]
        used = [i for i, count in enumerate(old.counts) if count]
        changed += len(fresh)
        if not fresh or not used:
            continue
        shares_of = of_services if name == "service" else equal_shares
        shares = torch.from_numpy(shares_of(new.table()[fresh], old.table()[used]))
        for rows in rows_of(name, weights):
            rows[fresh] = shares @ rows[used]
    return changed


def rows_of(vocabulary: str, weights: dict[str, Tensor]) -> Iterator[Tensor]:
    """Every weight that has a row a slot of this vocabulary."""
    for key in _PACKET_TABLES_OF.get(vocabulary, ()):
        yield weights[key]
    for attribute in _ATTRIBUTES_OF.get(vocabulary, ()):
        i = ATTRIBUTE_INDEX[attribute]
        for key in (
            f"attributes.said.{i}.weight",
            f"attributes.head.{i}.weight",
            f"attributes.head.{i}.bias",
            f"packets.attribute.{i}.weight",
            f"critic.attribute.{i}.weight",
        ):
            yield weights[key]
    for position, attribute in enumerate(("initiator_host", "service")):  # the narrow head's own tables
        if attribute in _ATTRIBUTES_OF.get(vocabulary, ()):
            yield weights[f"attributes.narrow_said.{position}.weight"]
