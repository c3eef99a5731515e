"""The shape of what a model sees: attributes of a conversation, tokens of a packet, and how many values each has.

All sizes are constants: they are public, the same for every chunk, and what checkpoints must agree on to be fine-tuned
(`SCHEMA_ID`). Order matters: an attribute is drawn given those before it.
"""

from __future__ import annotations

from typing import Final

from nsstream.encode.bins import Grid

SCHEMA_ID: Final = "conversations-7"

START_GAP_GRID: Final = Grid(exact=0, first=1_000, per_decade=10, largest=100_000 * 10**9)  # nanoseconds
PACKET_GAP_GRID: Final = Grid(exact=0, first=1_000, per_decade=30, largest=100_000 * 10**9)
LENGTH_GRID: Final = Grid(exact=32, first=33, per_decade=12, largest=10_000_000)  # packets of a conversation
SIZE_GRID: Final = Grid(exact=0, first=20, per_decade=16, largest=65_535)  # octets of a datagram

HOST_SLOTS: Final = 1024
RARE_IPV4: Final = HOST_SLOTS  # the token of an IPv4 host that has no slot
RARE_IPV6: Final = HOST_SLOTS + 1
SERVICE_SLOTS: Final = 3072
PORT_SLOTS: Final = 128
SIZE_SLOTS: Final = 384
KIND_SLOTS: Final = 320
PORT_BLOCKS: Final = 64
BLOCK_PORTS: Final = 65_536 // PORT_BLOCKS
RARE_PORT: Final = -1  # stands for the responder port of a service without a slot

ATTRIBUTES: Final[dict[str, int]] = {
    "continues_from_before": 2,
    "start_gap": len(START_GAP_GRID),  # since the previous conversation's start, or since the slice's
    "initiator_host": HOST_SLOTS + 2,
    "service": SERVICE_SLOTS,  # (protocol, IP version, is_fragment, responder port or RARE_PORT)
    "responder_port_high": 257,  # 0 unless the service's port is rare; else 1 + high octet
    "responder_port_low": 257,
    "responder_host": HOST_SLOTS + 2,
    "initiator_port": PORT_SLOTS + PORT_BLOCKS,  # a frequent port, or the block of another
    "ttl": 384,  # (initiator's, of the responder's SYN, responder's)
    "marking": 64,  # (VLAN, class of service of both directions)
    "packet_count": len(LENGTH_GRID),
}
ATTRIBUTE_INDEX: Final = {name: i for i, name in enumerate(ATTRIBUTES)}

KINDS: Final = KIND_SLOTS  # (stack, direction, control, IP header, TCP header, has_payload, TcpEvent)
SIZES: Final = SIZE_SLOTS + len(SIZE_GRID)
GAPS: Final = len(PACKET_GAP_GRID)
COUNTDOWNS: Final = 40  # how many packets of the conversation are left, by bin
POSITIONS: Final = 16  # how many have been, by bin
TIMES_LEFT: Final = 40  # time to the end of the chunk, by bin

SLICES: Final = 512  # a chunk's start profile: conversations that start in each equal part of it
MOMENTS: Final = 32  # coarser parts, by which a model may tell early from late
START_FEATURES: Final = 4 + MOMENTS  # numbers that go with each conversation's start, see `tokens.start_features`
