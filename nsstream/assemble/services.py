"""Services: what payload a port gets, as data, so that dissectors find a whole message where they look for one.

A `Message` is a head, a run of one octet and a tail, with numbers patched into the head (lengths, a running id). A service
lists messages by direction, each with the least payload that it fits; the greatest that fits is taken. Without any that
fits the payload is the service's fill octet. `fills` names the ports where one octet, or a least length, is all it takes.

Which port needs what was found by `bench/payload_sweep.py` with tshark 4.0; ports outside these tables get `DEFAULT_FILL`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsstream.assemble.fills import DEFAULT_FILL, TCP_FILLS, UDP_FILLS


class PatchKind(IntEnum):
    """What is written over the head."""

    LENGTH_8 = 0  # payload length less the argument
    LENGTH_16 = 1
    SERIAL_16 = 2  # number of the message in its direction
    DIGITS_4 = 3  # payload length less the argument, as four decimal digits


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
    minimum: int = 0  # UDP payloads are at least so long


class ServiceTable(NamedTuple):
    """Services as arrays for numba; rows of `message_*` are grouped by (service, direction), the longest first."""

    of_port: NDArray[np.int16]  # (2, 65536): TCP, UDP -> service
    fill: NDArray[np.uint8]  # (s,)
    minimum: NDArray[np.int32]  # (s,)
    message_range: NDArray[np.int32]  # (s, 2, 2): service, 0 request or 1 response, from and to
    message_minimum: NDArray[np.int32]
    message_fill: NDArray[np.uint8]
    head_range: NDArray[np.int32]  # (q, 2) into octets
    tail_range: NDArray[np.int32]
    patch_range: NDArray[np.int32]  # (q, 2) into patches
    patches: NDArray[np.int32]  # (p, 3): at, kind, argument
    octets: NDArray[np.uint8]


_L8, _L16, _ID, _DIGITS = PatchKind.LENGTH_8, PatchKind.LENGTH_16, PatchKind.SERIAL_16, PatchKind.DIGITS_4


def _dns(prefix: int) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Queries and responses (RFC 1035, RFC 7830), behind a length of `prefix` octets (2 over TCP, RFC 1035 4.2.2)."""
    length = (Patch(0, _L16, 2),) if prefix else ()
    blank = bytes(prefix)
    query, reply = bytes.fromhex("0000 0100 0001 0000 0000 0000"), bytes.fromhex("0000 8180 0001 0000 0000 0000")
    number = (*length, Patch(prefix, _ID))
    label = Patch(prefix + 12, _L8, prefix + 18)
    end = bytes.fromhex("00 0001 0001")
    question = b"\x04twin" + end
    padded = query[:10] + b"\x00\x01" + question + bytes.fromhex("00 0029 04d0 00000000 0000 000c 0000")
    null = reply[:6] + b"\x00\x01" + reply[8:] + question + bytes.fromhex("c00c 000a 0001 0000003c 0000")
    at = prefix + len(padded)
    return (
        (
            Message(blank + query + b"\x00", (*number, label), end, ord("x"), prefix + 19),
            Message(
                blank + padded, (*number, Patch(at - 6, _L16, at - 4), Patch(at - 2, _L16, at)), fill=0, least=at + 20
            ),
        ),
        (
            Message(blank + reply + b"\x00", (*number, label), end, ord("x"), prefix + 19),
            Message(blank + null, (*number, Patch(prefix + len(null) - 2, _L16, prefix + len(null)))),
        ),
    )


def _snmp(pdu: int) -> tuple[Message, ...]:
    """SNMPv2c with one variable binding of an octet string; BER lengths of one octet, and of three where needed."""
    body = bytes.fromhex("020101") + b"\x04\x06public"
    ids = bytes.fromhex("0202 0000 020100 020100")
    oid = bytes.fromhex("06032b0601")

    def build(length: bytes) -> Message:
        head, patches = b"", []
        for tag, content in ((0x30, body), (pdu, ids), (0x30, b""), (0x30, oid), (0x04, b"")):
            head += bytes([tag]) + length
            at = len(head)
            patches.append((at - (2 if len(length) == 3 else 1), at))
            if tag == pdu:
                number = at + 2
            head += content
        kind = _L16 if len(length) == 3 else _L8
        return Message(head, (*(Patch(at, kind, end) for at, end in patches), Patch(number, _ID)))

    long = build(b"\x82\x00\x00")
    return build(b"\x00"), Message(long.head, long.patches, least=128)


def _dhcp(operation: int, kind: int) -> tuple[Message, ...]:
    fixed = bytes([operation, 1, 6, 0]) + b"twin" + bytes(20) + b"\x02\x00\x00\x00\x00\x01" + bytes(202)
    return (Message(fixed + bytes.fromhex("63825363 3501") + bytes([kind, 255]), fill=0),)


def _ntp(first: int) -> tuple[Message, ...]:
    return (Message(bytes([first, 2, 6, 0xEC]) + bytes(8) + b"twin" + bytes(32), fill=0),)


_NETBIOS_NAME: Final = b"\x20" + b"FEFHEJEO" + b"CA" * 11 + b"AA" + b"\x00"
_NBNS: Final = bytes.fromhex("0000 0110 0001 0000 0000 0000") + _NETBIOS_NAME + bytes.fromhex("0020 0001")
_NBNS_MORE: Final = _NBNS[:10] + b"\x00\x01" + _NBNS[12:] + bytes.fromhex("c00c 000a 0001 0000003c 0000")
_QUIC: Final = (Message(b"\x40", fill=0x7F),)
_SSDP_HEAD: Final = b"NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nX-FILL: "
_DNS_UDP, _DNS_TCP = _dns(0), _dns(2)
_TLS: Final = (Message(bytes.fromhex("170303 0000"), (Patch(3, _L16, 5),), least=6),)
_HTTP_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: twin\r\nX-Fill: "
_HTTP_RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 0000\r\n\r\n"
_MODBUS: Final = (Message(bytes.fromhex("0000 0000 0000 01 41"), (Patch(0, _ID), Patch(4, _L16, 6)), fill=0),)

SERVICES: Final = (
    Service((), (53, 5353, 5355), *_DNS_UDP, minimum=19),
    Service((53,), (), *_DNS_TCP),
    Service((), (123,), _ntp(0x23), _ntp(0x24), minimum=48),
    Service((), (67, 68), _dhcp(1, 1), _dhcp(2, 2), minimum=244),
    Service(
        (),
        (546, 547),
        (Message(bytes.fromhex("0174776e fde9 0000"), (Patch(6, _L16, 8),)),),
        (Message(bytes.fromhex("0774776e fde9 0000"), (Patch(6, _L16, 8),)),),
        minimum=8,
    ),
    Service((), (161, 162), _snmp(0xA0), _snmp(0xA2), minimum=34),
    Service(
        (),
        (69,),
        (Message(b"\x00\x01x", tail=b"\x00octet\x00", fill=ord("x")),),
        (Message(b"\x00\x03\x00\x01"),),
        minimum=10,
    ),
    Service(
        (),
        (137,),
        (Message(_NBNS, (Patch(0, _ID),)), Message(_NBNS_MORE, (Patch(0, _ID), Patch(60, _L16, 62)))),
        (Message(_NBNS, (Patch(0, _ID),)), Message(_NBNS_MORE, (Patch(0, _ID), Patch(60, _L16, 62)))),
        minimum=50,
    ),
    Service((), (1900,), *((Message(_SSDP_HEAD, tail=b"\r\n\r\n", fill=ord("x")),),) * 2, fill=ord("x")),
    Service((), (514,), *((Message(b"<13>", fill=ord("x")),),) * 2, fill=ord("x")),
    Service((), (443,), _QUIC, _QUIC),
    Service((443, 465, 636, 853, 993, 995, 8443), (), _TLS, _TLS),
    Service(
        (80, 3128, 8000, 8008, 8080, 8081, 8888),
        (),
        (Message(_HTTP_REQUEST, tail=b"\r\n\r\n", fill=ord("x")),),
        (Message(_HTTP_RESPONSE, (Patch(len(_HTTP_RESPONSE) - 8, _DIGITS, len(_HTTP_RESPONSE)),), fill=ord("x")),),
        fill=ord("x"),
    ),
    Service((502,), (), _MODBUS, _MODBUS),
)


def compile_services(
    services: tuple[Service, ...] = SERVICES,
    tcp_fills: tuple[tuple[int, int, tuple[int, ...]], ...] = TCP_FILLS,
    udp_fills: tuple[tuple[int, int, tuple[int, ...]], ...] = UDP_FILLS,
    default_fill: int = DEFAULT_FILL,
) -> ServiceTable:
    """Lay services and fills (octet, least length, ports) out as arrays; row 0 is every other port."""
    rows = [Service((), (), (), (), fill=default_fill), *services]
    rows += [Service(ports, (), (), (), fill, minimum) for fill, minimum, ports in tcp_fills]
    rows += [Service((), ports, (), (), fill, minimum) for fill, minimum, ports in udp_fills]
    of_port = np.zeros((2, 65_536), np.int16)
    ranges = np.zeros((len(rows), 2, 2), np.int32)
    messages: list[Message] = []
    for s, row in reversed(list(enumerate(rows))):  # a service wins over a fill
        of_port[0, list(row.tcp)] = s
        of_port[1, list(row.udp)] = s
        for k, offered in enumerate((row.request, row.response)):
            ordered = sorted(offered, key=lambda message: -message.minimum)
            ranges[s, k] = len(messages), len(messages) + len(ordered)
            messages += ordered
    octets, head, tail, patch, patches = b"", [], [], [], []
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
        np.array([row.minimum for row in rows], np.int32),
        ranges,
        np.array([message.minimum for message in messages], np.int32),
        np.array([message.fill for message in messages], np.uint8),
        np.array(head, np.int32).reshape(-1, 2),
        np.array(tail, np.int32).reshape(-1, 2),
        np.array(patch, np.int32).reshape(-1, 2),
        np.array(patches, np.int32).reshape(-1, 3),
        np.frombuffer(octets, np.uint8).copy(),
    )


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
