"""Ports that nobody could know beforehand, found by noisy counts: they get tokens of their own. Post-processing, free.

A port that the public codec spells out or tells by its block is learned as one of many; where the noisy vector has it
more often than noise alone is likely to say (`private_flow_counts.hidden`), it is a service, or a port of clients, by
itself. Which protocol's service a port is, is told by a second, smaller count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_schema import PORT_SLOTS, RARE_PORT
from nsstream.encode.vocabulary import Value, Vocabulary
from nsstream.trace.fields import ICMPV6, TCP, UDP
from nsstream.train.private_flow_counts import PORTS, SPELT_BUCKETS, SPELT_PROTOCOLS
from nsstream.train.private_flow_told import FlowCounts
from nsstream.train.private_settle import hidden

MOST: Final = 128  # of each kind


def find_ports(codec: FlowCodec, counts: FlowCounts) -> tuple[FlowCodec, FlowCounts]:
    """The public codec with the ports that were found, and the counts with tokens for them."""
    blocks = {name: block.copy() for name, block in counts.blocks.items()}
    ports = _seen(blocks["client_ports"], counts.std)
    ports = ports[codec.port.tokens(ports[:, None]) < 0] if len(ports) else ports
    port, named = _with(codec.port, [(int(number),) for number in ports])
    for slot, number in zip(named, ports, strict=False):
        often = blocks["client_ports"][number]
        blocks["client_port"][slot] = often
        blocks["client_port"][PORT_SLOTS + number // PORTS] -= often
    found = _services(codec, blocks, counts.std)
    service, slots = _with(codec.service, list(found))
    table = codec.service.table()
    for slot, (value, often) in zip(slots, found.items(), strict=False):
        spelt = np.flatnonzero((table[:, :2] == value[:2]).all(axis=1) & (table[:, 2] == RARE_PORT))
        blocks["service"][slot] = often
        blocks["service"][spelt] -= often
    return replace(codec, port=port, service=service), replace(counts, blocks=blocks, found=np.array(named, np.int64))


def _services(codec: FlowCodec, blocks: dict[str, NDArray[np.float64]], std: float) -> dict[Value, float]:
    """Services at ports that were seen, and how often each is asked."""
    by_protocol = blocks["spelt_protocols"].reshape(len(SPELT_PROTOCOLS) + 1, SPELT_BUCKETS)
    table, often = codec.service.table(), blocks["service"]
    out: dict[Value, float] = {}
    for number in _seen(blocks["spelt_ports"], std):
        told = by_protocol[: len(SPELT_PROTOCOLS), number % SPELT_BUCKETS]
        told = np.where(told > hidden(std, by_protocol.size), told, 0.0)
        for protocol, share in zip(SPELT_PROTOCOLS, told / max(float(told.sum()), 1.0), strict=True):
            version = 6 if protocol == ICMPV6 else 4
            if protocol in (TCP, UDP):
                spelt = (table[:, 0] == protocol) & (table[:, 2] == RARE_PORT)
                version = int(table[spelt, 1][often[spelt].argmax()]) if spelt.any() else 4
            if share > 0:
                out[protocol, version, int(number)] = float(share * blocks["spelt_ports"][number])
    return out


def _seen(noisy: NDArray[np.float64], std: float) -> NDArray[np.int64]:
    """Ports (k,) that are there more often than noise makes one, the most frequent first."""
    ports = np.flatnonzero(noisy > hidden(std, len(noisy)))
    return ports[np.argsort(-noisy[ports], kind="stable")][:MOST]


def _with(vocabulary: Vocabulary, values: list[Value]) -> tuple[Vocabulary, list[int]]:
    """The vocabulary with more values in free slots, and these."""
    slots, counts = list(vocabulary.slots), list(vocabulary.counts)
    free = [i for i, value in enumerate(slots) if value is None][: len(values)]
    for i, value in zip(free, values, strict=False):
        slots[i], counts[i] = value, 1
    return Vocabulary(tuple(slots), tuple(counts)), free
