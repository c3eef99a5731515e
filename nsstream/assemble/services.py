"""Services: what payload a port gets, as data, so that dissectors find a whole message where they look for one.

A `Message` is a head, a run of one octet and a tail, with numbers patched into the head (lengths, a running id). A
service lists messages by direction, each with the least payload that it fits; the greatest that fits is taken.
Without any that fits the payload is the service's fill octet. `fills` names the ports where one octet, or a least
length, is all it takes.

Which port needs what was found by `bench/payload_sweep.py` with tshark 4.0; ports outside these tables get
`DEFAULT_FILL`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble.fills import DEFAULT_FILL, Fill


class PatchKind(IntEnum):
    """What is written over the head."""

    LENGTH_8 = 0  # payload length less the argument
    LENGTH_16 = 1
    SERIAL_16 = 2  # number of the message in its direction
    DIGITS_4 = 3  # payload length less the argument, as four decimal digits
    CHECKSUM = 4  # Internet checksum of the whole payload; the last patch of its message
    PSEUDO_CHECKSUM = 5  # the same, with the addresses, length and protocol of the datagram


@dataclass(frozen=True, slots=True)
class Patch:
    """A number at a position of the head."""

    at: int
    kind: PatchKind
    argument: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A payload of any length from `least` on (by default head and tail together)."""

    head: bytes
    patches: tuple[Patch, ...] = ()
    tail: bytes = b""
    fill: int = DEFAULT_FILL
    least: int = 0
    is_opaque: bool = False  # the fill may be any octets
    is_first: bool = False  # only as the first message of its side

    @property
    def minimum(self) -> int:
        """The least payload that holds head and tail."""
        return max(self.least, len(self.head) + len(self.tail))


@dataclass(frozen=True, slots=True)
class Service:
    """Messages by direction, and what is done where none fits."""

    tcp: tuple[int, ...]
    udp: tuple[int, ...]
    request: tuple[Message, ...]  # to the service port
    response: tuple[Message, ...]  # from it
    fill: int = DEFAULT_FILL
    protocols: tuple[int, ...] = ()  # IP protocols without ports; 256 more: over IPv6 alone
    minimum: int = 0  # payloads are at least so long, or absent
    step: int = 1  # and longer by multiples of this


class ServiceTable(NamedTuple):
    """Services as arrays for numba.

    Rows of `message_*` are grouped by (service, direction); those that only come first before others, then the longest.
    """

    of_port: NDArray[np.int16]  # (3, 65536): TCP port, UDP port, IP protocol (+ 256 over IPv6) -> service
    fill: NDArray[np.uint8]  # (s,)
    minimum: NDArray[np.int32]  # (s, 2): least payload, step
    message_range: NDArray[np.int32]  # (s, 2, 2): service, 0 request or 1 response, from and to
    message_minimum: NDArray[np.int32]
    message_fill: NDArray[np.uint8]
    is_random: NDArray[np.uint8]  # (s,) whether the fill octet gives way to random octets
    message_is_random: NDArray[np.uint8]
    message_is_first: NDArray[np.uint8]
    head_range: NDArray[np.int32]  # (q, 2) into octets
    tail_range: NDArray[np.int32]
    patch_range: NDArray[np.int32]  # (q, 2) into patches
    patches: NDArray[np.int32]  # (p, 3): at, kind, argument
    octets: NDArray[np.uint8]


def compile_services(
    services: tuple[Service, ...],
    tcp_fills: tuple[Fill, ...],
    udp_fills: tuple[Fill, ...],
    protocol_fills: tuple[Fill, ...],
    default_fill: int = DEFAULT_FILL,
    *,
    fills_randomly: bool = False,
) -> ServiceTable:
    """Lay services and fills (octet, least length, ports) out as arrays; row 0 is every other port.

    If it `fills_randomly`, other ports and opaque messages get random octets.
    """
    rows = [Service((), (), (), (), fill=default_fill), *services]
    rows += [Service(ports, (), (), (), fill, minimum=minimum) for fill, minimum, ports in tcp_fills]
    rows += [Service((), ports, (), (), fill, minimum=minimum) for fill, minimum, ports in udp_fills]
    rows += [Service((), (), (), (), fill, numbers, minimum) for fill, minimum, numbers in protocol_fills]
    of_port = np.zeros((3, 65_536), np.int16)
    ranges = np.zeros((len(rows), 2, 2), np.int32)
    messages: list[Message] = []
    for s, row in reversed(list(enumerate(rows))):  # a service wins over a fill
        of_port[0, list(row.tcp)] = s
        of_port[1, list(row.udp)] = s
        of_port[2, list(row.protocols)] = s
        of_port[2, [256 + number for number in row.protocols if number < 256]] = s
        for k, offered in enumerate((row.request, row.response)):
            ordered = sorted(offered, key=lambda message: (not message.is_first, -message.minimum))
            ranges[s, k] = len(messages), len(messages) + len(ordered)
            messages += ordered
    octets, head, tail, patch = b"", [], [], []
    patches: list[tuple[int, int, int]] = []
    for message in messages:
        head.append((len(octets), len(octets) + len(message.head)))
        octets += message.head
        tail.append((len(octets), len(octets) + len(message.tail)))
        octets += message.tail
        patch.append((len(patches), len(patches) + len(message.patches)))
        patches += [(p.at, int(p.kind), p.argument) for p in message.patches]
    return ServiceTable(
        of_port,
        np.array([row.fill for row in rows], np.uint8),
        np.array([(row.minimum, row.step) for row in rows], np.int32),
        ranges,
        np.array([message.minimum for message in messages], np.int32),
        np.array([message.fill for message in messages], np.uint8),
        np.array([fills_randomly and s == 0 for s in range(len(rows))], np.uint8),
        np.array([fills_randomly and message.is_opaque for message in messages], np.uint8),
        np.array([message.is_first for message in messages], np.uint8),
        np.array(head, np.int32).reshape(-1, 2),
        np.array(tail, np.int32).reshape(-1, 2),
        np.array(patch, np.int32).reshape(-1, 2),
        np.array(patches, np.int32).reshape(-1, 3),
        np.frombuffer(octets, np.uint8).copy(),
    )


def plain_fill(table: ServiceTable, service: NDArray[np.int32], server: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The octet that all payload of a direction is made of, -1 where there are messages or random octets: (n, 2).

    Args:
        table: from `compile_services`.
        service: (n,) rows of the table.
        server: (n,) the direction whose source owns the service port.
    """
    has_messages = (table.message_range[..., 0] < table.message_range[..., 1]) | (table.is_random[:, None] != 0)
    fill = np.where(has_messages, -1, table.fill.astype(np.int16)[:, None]).astype(np.int16)  # (s, request or response)
    direction = np.arange(2, dtype=np.uint8)
    chosen: NDArray[np.int16] = fill[service[:, None], (direction == server[:, None]).astype(np.intp)]
    return chosen


def service_of(
    table: ServiceTable, transport: int, ports: NDArray[np.uint16]
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The service of each pair of ports, as dissectors choose: by the lower port that has one.

    Args:
        table: from `compile_services`.
        transport: 0 TCP, 1 UDP.
        ports: (n, 2) uint16, initiator and responder.

    Returns:
        service (n,) and the index (0 or 1) of the port that it is of, (n,).
    """
    lower = np.minimum(ports[:, 0], ports[:, 1])
    higher = np.maximum(ports[:, 0], ports[:, 1])
    service = table.of_port[transport, lower]
    is_higher = service == 0
    port = np.where(is_higher & (table.of_port[transport, higher] > 0), higher, lower)
    chosen = np.where(is_higher, table.of_port[transport, higher], service)
    return chosen.astype(np.int32), (ports[:, 1] == port).astype(np.uint8)
