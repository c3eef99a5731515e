"""Tokens back to conversations: attributes to five-tuples, TTLs and markings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.codec import Codec, stack_of
from nsstream.encode.schema import ATTRIBUTE_INDEX, BLOCK_PORTS, HOST_SLOTS, PORT_BLOCKS, PORT_SLOTS, RARE_PORT
from nsstream.encode.vocabulary import distinct_rows

# Ephemeral ports that no payload of ours suits: tshark warns of what is sent from there to ports that it does not know.
_SHUNNED: Final = (1628, 1629, 1745, 2246, 3343, 3455, 4341, 4789, 5031, 9214, 9875, 12220, 19132)
_SPARSE: Final = 0.75  # of a block's ports, at least so many unused, where those that were used are not said again
_TRIES: Final = 16  # to make hosts that are not one another


@dataclass(frozen=True)
class Endpoints:
    """Who talks to whom: the attributes of n conversations, decoded; columns as in `ConversationTable`."""

    initiator_address: NDArray[np.uint8]
    responder_address: NDArray[np.uint8]
    ip_version: NDArray[np.uint8]
    protocol_identifier: NDArray[np.uint8]
    initiator_port: NDArray[np.uint16]
    responder_port: NDArray[np.uint16]
    initiator_ttl: NDArray[np.uint8]
    responder_ttl: NDArray[np.uint8]
    responder_syn_ttl: NDArray[np.uint8]
    initiator_class_of_service: NDArray[np.uint8]
    responder_class_of_service: NDArray[np.uint8]
    vlan_id: NDArray[np.uint16]
    is_fragment: NDArray[np.uint8]
    continues_from_before: NDArray[np.uint8]
    stack: NDArray[np.int64]
    has_free_port: NDArray[np.bool_]  # whether another initiator port would do as well


def decode_endpoints(attributes: NDArray[np.int64], codec: Codec, rng: np.random.Generator) -> Endpoints:
    """Decode attribute tokens (n, a); `rng` fills in what a token leaves open: ports within a block, rare hosts."""

    def token(name: str) -> NDArray[np.int64]:
        return attributes[:, ATTRIBUTE_INDEX[name]]

    service = codec.service.table()[token("service")]
    high, low = token("responder_port_high") - 1, token("responder_port_low") - 1
    rare_port = np.maximum(np.maximum(high, 0) << 8 | np.maximum(low, 0), 1)  # nobody listens at 0
    has_ports = np.isin(service[:, 0], (6, 17, 132)) & (service[:, 2] == 0)
    responder_port = np.where(service[:, 3] == RARE_PORT, rare_port, service[:, 3])
    initiator = token("initiator_port")
    known = codec.port.table()[np.minimum(initiator, PORT_SLOTS - 1), 0]
    speaks_from_0 = has_ports & (initiator < PORT_SLOTS) & (known == 0)  # as what has no ports does
    initiator = np.where(speaks_from_0, PORT_SLOTS + int(np.argmax(codec.port_blocks)), initiator)
    drawn = _free_ports(np.maximum(initiator - PORT_SLOTS, 0), codec, rng)
    has_free_port = (initiator >= PORT_SLOTS) & has_ports
    initiator_port = np.where(initiator >= PORT_SLOTS, np.maximum(drawn, 1), known)
    ttl = codec.ttl.table()[token("ttl")]
    marking = codec.marking.table()[token("marking")]
    return Endpoints(
        initiator_address=_addresses(token("initiator_host"), codec, service[:, 1], codec.rare_fresh[0], rng),
        responder_address=_addresses(token("responder_host"), codec, service[:, 1], codec.rare_fresh[1], rng),
        ip_version=service[:, 1].astype(np.uint8),
        protocol_identifier=service[:, 0].astype(np.uint8),
        initiator_port=np.where(has_ports, initiator_port, 0).astype(np.uint16),
        responder_port=np.where(has_ports, responder_port, 0).astype(np.uint16),
        initiator_ttl=ttl[:, 0].astype(np.uint8),
        responder_ttl=ttl[:, 2].astype(np.uint8),
        responder_syn_ttl=ttl[:, 1].astype(np.uint8),
        initiator_class_of_service=marking[:, 1].astype(np.uint8),
        responder_class_of_service=marking[:, 2].astype(np.uint8),
        vlan_id=marking[:, 0].astype(np.uint16),
        is_fragment=service[:, 2].astype(np.uint8),
        continues_from_before=token("continues_from_before").astype(np.uint8),
        stack=stack_of(service[:, 0], service[:, 1], service[:, 2]),
        has_free_port=has_free_port,
    )


def _free_ports(blocks: NDArray[np.int64], codec: Codec, rng: np.random.Generator) -> NDArray[np.int64]:
    """A port of each block (n,) that the chunk's initiators did not use; any, where they used a good part of a block.

    Ports at random (a flood's) are used again by chance, and a twin that kept away from them would be told by that.
    """
    ports = np.arange(1 << 16)
    suits = ~np.isin(ports, _SHUNNED)
    is_free = suits & ~np.isin(ports, codec.taken_ports)
    left, room = (of.reshape(PORT_BLOCKS, BLOCK_PORTS).sum(axis=1) for of in (is_free, suits))
    is_free |= suits & np.repeat(left <= _SPARSE * room, BLOCK_PORTS)
    free, count = ports[is_free], is_free.reshape(PORT_BLOCKS, BLOCK_PORTS).sum(axis=1)
    begin = np.cumsum(count) - count
    at = begin[blocks] + (rng.random(len(blocks)) * count[blocks]).astype(np.int64)
    return np.asarray(free[at], np.int64)


def _addresses(
    tokens: NDArray[np.int64],
    codec: Codec,
    version: NDArray[np.int64],
    fresh_share: float,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Addresses (n, 16) of host tokens (n,); rare hosts are made up under a known prefix, or met again."""
    known = codec.host.table()[np.minimum(tokens, HOST_SLOTS - 1)]
    out = np.zeros((len(tokens), 16), np.uint8)
    is_rare = (tokens >= HOST_SLOTS) | (known[:, 0] != version)
    if not is_rare.all():  # a vocabulary without a host has no columns for one
        out[~is_rare] = known[~is_rare, 1:]
    for v in (4, 6):
        rows = np.flatnonzero(is_rare & (version == v))
        if len(rows):
            out[rows] = _rare_addresses(len(rows), v, codec, fresh_share, rng)
    return out


def _rare_addresses(
    count: int, version: int, codec: Codec, fresh_share: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    prefixes = codec.rare_prefix[codec.rare_prefix[:, 0] == version, 1:]
    if not len(prefixes):  # no rare host of this family in the chunk: any known prefix will do
        known = codec.host.table()
        prefixes = known[codec.host.is_active() & (known[:, 0] == version), 1:].copy()
        prefixes[:, 15 if version == 4 else 8 :] = 0
    if not len(prefixes):
        start = [0] * 10 + [255, 255, 10] if version == 4 else [0xFD]
        prefixes = np.array([start + [0] * (16 - len(start))])
    fresh = max(1, round(count * fresh_share))
    hosts = np.zeros((0, 16), np.uint8)
    for _ in range(_TRIES):  # new hosts are not one another, as far as there is room
        if len(hosts) == fresh:
            break
        more = prefixes[rng.integers(0, len(prefixes), fresh - len(hosts))].astype(np.uint8)
        if version == 4:
            more[:, 15] = rng.integers(1, 255, len(more))
        else:
            more[:, 8:] = rng.integers(0, 256, (len(more), 8))
        hosts = distinct_rows(np.concatenate([hosts, more]).astype(np.int64))[0].astype(np.uint8)
    hosts = np.concatenate([hosts, hosts[rng.integers(0, len(hosts), fresh - len(hosts))]])
    again = np.concatenate([np.arange(fresh), rng.integers(0, fresh, count - fresh)])
    return np.take(hosts, rng.permutation(again), axis=0)
