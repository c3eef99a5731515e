"""The catalogue: what messages the common services send, and what the ports need whose dissectors a plain fill upsets.

Every message is a lawful one of its protocol, of whatever length the plan asks for; lengths that a service cannot
have are brought to the next that it can (`Service.minimum`, `Service.step`).

Payload is one of three kinds. `template`: these messages, filled with one octet. `random`: the same, with random octets
where any will do (ports without a service, TLS records, bodies of HTTP, RDATA, octet strings); so dissectors still find
whole messages, and the octets do not compress. `zero`: nothing but zeros behind TCP and UDP, of just the lengths that
were asked for; a dissector that looks for a message at a port may call that malformed.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

from nsstream.assemble.fills import PROTOCOL_FILLS, TCP_FILLS, UDP_FILLS
from nsstream.assemble.services import Message, Patch, PatchKind, Service, ServiceTable, compile_services

_L8, _L16, _ID = PatchKind.LENGTH_8, PatchKind.LENGTH_16, PatchKind.SERIAL_16
_DIGITS, _SUM, _PSEUDO = PatchKind.DIGITS_4, PatchKind.CHECKSUM, PatchKind.PSEUDO_CHECKSUM


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
            Message(blank + null, (*number, Patch(prefix + len(null) - 2, _L16, prefix + len(null))), is_opaque=True),
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
        return Message(head, (*(Patch(at, kind, end) for at, end in patches), Patch(number, _ID)), is_opaque=True)

    long = build(b"\x82\x00\x00")
    return build(b"\x00"), Message(long.head, long.patches, least=128, is_opaque=True)


def _dhcp(operation: int, kind: int) -> tuple[Message, ...]:
    fixed = bytes([operation, 1, 6, 0]) + b"twin" + bytes(20) + b"\x02\x00\x00\x00\x00\x01" + bytes(202)
    return (Message(fixed + bytes.fromhex("63825363 3501") + bytes([kind, 255]), fill=0),)


def _ntp(first: int) -> tuple[Message, ...]:
    return (Message(bytes([first, 2, 6, 0xEC]) + bytes(8) + b"twin" + bytes(32), fill=0),)


def _raw(head: str, *patches: Patch, fill: int = 0, least: int = 0) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """One message for both directions."""
    message = (Message(bytes.fromhex(head), patches, fill=fill, least=least),)
    return message, message


_NETBIOS_NAME: Final = b"\x20" + b"FEFHEJEO" + b"CA" * 11 + b"AA" + b"\x00"
_NBNS: Final = bytes.fromhex("0000 0110 0001 0000 0000 0000") + _NETBIOS_NAME + bytes.fromhex("0020 0001")
_NBNS_MORE: Final = _NBNS[:10] + b"\x00\x01" + _NBNS[12:] + bytes.fromhex("c00c 000a 0001 0000003c 0000")
_QUIC: Final = (Message(b"\x40", fill=0x7F),)
_SSDP_HEAD: Final = b"NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nX-FILL: "
# Datagrams in a tunnel hold no upper layer: RFC 8200 section 4.7.
_IN_IPV4: Final = "4500 0000 0000 4000 40 3b 0000 0a000001 0a000002"
_IN_IPV6: Final = "60000000 0000 3b40" + "fd" + "00" * 14 + "01" + "fd" + "00" * 14 + "02"
_SCTP_HEARTBEAT: Final = "0001 0002 00000001 00000000 0400 0000 0001 0000"  # over UDP, RFC 6951
_DNS_UDP, _DNS_TCP = _dns(0), _dns(2)
_TLS: Final = (Message(bytes.fromhex("170303 0000"), (Patch(3, _L16, 5),), least=6, is_opaque=True),)
# A version, then packets of RFC 4253 section 6 that hold SSH_MSG_IGNORE.
_SSH: Final = (
    Message(b"SSH-2.0-twin ", tail=b"\r\n", fill=ord("x"), is_first=True),
    Message(
        bytes.fromhex("0000 0000 04 02 0000 0000"),
        (Patch(2, _L16, 4), Patch(8, _L16, 14)),
        bytes(4),
        fill=0,
        is_opaque=True,
    ),
)
_HTTP_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: twin\r\nX-Fill: "
_HTTP_RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 0000\r\n\r\n"
_MODBUS: Final = (Message(bytes.fromhex("0000 0000 0000 01 41"), (Patch(0, _ID), Patch(4, _L16, 6)), fill=0),)

SERVICES: Final = (
    Service((), (53, 5353, 5355), *_DNS_UDP, minimum=19),
    Service((53,), (), *_DNS_TCP, minimum=21),  # a part of a message alone would be read as a length
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
        (Message(b"\x00\x03\x00\x00", (Patch(2, _ID),), fill=ord("x")),),
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
    Service((), (514,), *((Message(b"<13>", fill=ord("x"), least=5),),) * 2, fill=ord("x")),
    Service((), (443,), _QUIC, _QUIC),
    Service((443, 465, 636, 853, 993, 995, 8443), (), _TLS, _TLS),
    Service(
        (80, 3128, 8000, 8008, 8080, 8081, 8888),
        (),
        (Message(_HTTP_REQUEST, tail=b"\r\n\r\n", fill=ord("x")),),
        (
            Message(
                _HTTP_RESPONSE,
                (Patch(len(_HTTP_RESPONSE) - 8, _DIGITS, len(_HTTP_RESPONSE)),),
                fill=ord("x"),
                is_opaque=True,
            ),
        ),
        fill=ord("x"),
    ),
    Service((22, 29418), (), _SSH, _SSH, minimum=16),
    Service((502,), (), _MODBUS, _MODBUS),
    Service((), (), *_raw(_IN_IPV4, Patch(2, _L16), Patch(10, _SUM)), protocols=(4,), minimum=20),
    Service((), (), *_raw(_IN_IPV6, Patch(4, _L16, 40)), protocols=(41,), minimum=40),
    Service(
        (),
        (),
        *_raw("0301 0000 00000000 00000000 0000", Patch(2, _L16), Patch(12, _PSEUDO)),
        protocols=(345,),
        minimum=36,
        step=4,
    ),  # OSPFv3
    Service((), (), *_raw("2000 0000", Patch(2, _PSEUDO)), protocols=(359,), minimum=8),  # PIM hello
    Service((), (), *_raw("3101 6401 0064 0000 fe80", Patch(6, _PSEUDO)), protocols=(368,), minimum=24),  # VRRP 3
    Service(
        (),
        (),
        *_raw("0201 0000 00000000 00000000 0000", Patch(2, _L16), Patch(12, _SUM)),
        protocols=(89,),
        minimum=44,
        step=4,
    ),  # OSPF
    Service(
        (),
        (),
        *_raw("0205 0000" + "00" * 16 + "0007 0000", Patch(22, _L16, 20), Patch(2, _SUM)),
        protocols=(88,),
        minimum=24,
    ),
    Service((), (), *_raw("3b02 0000"), protocols=(51,), minimum=16),  # AH before nothing
    Service((), (), *_raw("2000 0000", Patch(2, _SUM)), protocols=(103,), minimum=8),  # PIM hello
    Service((), (), *_raw("2101 6401 0001 0000", Patch(6, _SUM)), protocols=(112,), minimum=20),  # VRRP
    # Password changes (RFC 3244): an AP-REQ and a KRB-PRIV of empty sequences.
    Service((), (464,), *_raw("0000 0001 0004 6e02 3000 7502 3000", Patch(0, _L16)), minimum=14),
    Service((), (513,), *_raw("0101"), minimum=60, step=24),  # who
    Service((), (520,), *_raw("0202 0000"), minimum=24, step=20),  # RIP
    Service((), (521,), *_raw("0201 0000"), minimum=24, step=20),  # RIPng
    Service((639,), (), *_raw("09 0000", Patch(1, _L16)), minimum=3),  # MSDP
    Service((862,), (), *_raw(""), minimum=164),  # TWAMP control
    Service((1723,), (), *_raw("0000 0001 1a2b3c4d 0005 0000", Patch(0, _L16)), minimum=16),  # PPTP: echo request
    Service((2321, 2322), (), *_raw("8001 0000 0000 0000017b", Patch(4, _L16)), minimum=12),  # TPM 2.0
    Service((), (1153,), *_raw("60"), minimum=2),  # C12.22
    Service((), (2313,), *_raw("0100"), minimum=8, step=3),  # IAPP
    Service((), (2945,), *_raw("3082 0000", Patch(2, _L16, 4)), minimum=6),  # H.248 in BER
    Service((), (3130,), *_raw("0402 0000", Patch(2, _L16)), minimum=21),  # ICP
    Service(
        (), (3544,), *_raw("60000000 0000 3b40", Patch(4, _L16, 40)), minimum=40
    ),  # Teredo: IPv6 with no next header
    Service((), (3804,), *_raw("0219 0000 0000", Patch(4, _L16)), minimum=48),  # HiQnet
    Service(
        (3863,), (3863,), *_raw("0f00 0000 ffff 0000", Patch(2, _L16), Patch(6, _L16, 4)), minimum=8, step=4
    ),  # ASAP
    Service((8085,), (), *_raw("0000 7f7f7f7f", Patch(0, _L16, 2), fill=0x7F), minimum=6),  # World of Warcraft
    Service((), (4991,), *_raw("0000 0001"), minimum=4),  # VRT: a header alone
    Service((), (8805,), *_raw("20ff 0000 00000000", Patch(2, _L16, 4)), minimum=8, step=4),  # PFCP
    Service((), (9899,), *_raw(_SCTP_HEARTBEAT, Patch(14, _L16, 12), Patch(18, _L16, 16)), minimum=20, step=4),
    Service(
        (9300,), (), *_raw("4553 0000 0000 0000000000000001 01 00070f63", Patch(4, _L16, 6)), minimum=19
    ),  # Elasticsearch
    Service((13400,), (13400,), *_raw("02fd f000 0000 0000", Patch(6, _L16, 8)), minimum=8),  # DoIP
    Service((), (23272,), *_raw(""), minimum=7, step=2),  # A21
    Service((), (25826,), *_raw("7fff 0000", Patch(2, _L16)), minimum=4),  # collectd
    Service((), (41170,), *_raw(""), minimum=20, step=4),  # Manolito
    Service(
        (), (54328,), *_raw("01090804 00 00000000 0000000000 0001 00 04 7f000001"), minimum=40
    ),  # Elasticsearch Zen
)

PayloadKind = Literal["template", "zero", "random"]


@cache
def services_for(kind: PayloadKind) -> ServiceTable:
    """The table of one kind of payload; read-only."""
    if kind == "zero":
        without_ports = tuple(service for service in SERVICES if service.protocols)
        return compile_services(without_ports, (), (), PROTOCOL_FILLS, default_fill=0)
    if kind in ("template", "random"):
        return compile_services(SERVICES, TCP_FILLS, UDP_FILLS, PROTOCOL_FILLS, fills_randomly=kind == "random")
    raise ValueError(f"payload must be template, zero or random, got {kind!r}")
