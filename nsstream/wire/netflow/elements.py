"""Elements: which information elements can fill which role, best first. The one table to edit for a new element.

An element is (private enterprise number, id); NetFlow v9's field types up to 32767 are the same as IPFIX's of PEN 0, by
the design of RFC 7012. Sources: the IANA IPFIX registry; RFC 5103 (reverse elements, PEN 29305); RFC 5477 (sampling);
CERT YAF's elements (PEN 6871).
"""

from __future__ import annotations

from typing import Final

from nsstream.wire.netflow.roles import OptionRole, Role, TimeKind

Element = tuple[int, int]

REVERSE: Final = 29305
YAF: Final = 6871


def _iana(*ids: int) -> tuple[Element, ...]:
    return tuple((0, i) for i in ids)


IPV4_ADDRESSES: Final[dict[Role, tuple[Element, ...]]] = {
    Role.SOURCE_IPV4: _iana(8),
    Role.DESTINATION_IPV4: _iana(12),
    Role.NEXT_HOP_IPV4: _iana(15),
}

# The role of the high half; the low half's follows it.
IPV6_ADDRESSES: Final[dict[Role, tuple[Element, ...]]] = {
    Role.SOURCE_IPV6_HIGH: _iana(27),
    Role.DESTINATION_IPV6_HIGH: _iana(28),
    Role.NEXT_HOP_IPV6_HIGH: _iana(62),
}

INTEGERS: Final[dict[Role, tuple[Element, ...]]] = {
    Role.IP_VERSION: _iana(60),
    Role.PROTOCOL: _iana(4),
    Role.SOURCE_PORT: _iana(7, 182, 180),  # of TCP or UDP alone, too
    Role.DESTINATION_PORT: _iana(11, 183, 181),
    Role.ICMP_TYPE_CODE: _iana(32, 139),
    Role.ICMP_TYPE: _iana(176, 178),
    Role.ICMP_CODE: _iana(177, 179),
    Role.TCP_BITS: (*_iana(6), (YAF, 14)),
    Role.MORE_TCP_BITS: ((YAF, 15),),
    Role.REVERSE_TCP_BITS: ((REVERSE, 6), (YAF, 14 | 0x4000)),
    Role.MORE_REVERSE_TCP_BITS: ((YAF, 15 | 0x4000),),
    Role.CLASS_OF_SERVICE: _iana(5),
    Role.END_REASON: _iana(136),
    Role.DIRECTION: _iana(61),
    Role.INGRESS: _iana(10, 252),  # logical before physical
    Role.EGRESS: _iana(14, 253),
    Role.SOURCE_AS: _iana(16),
    Role.DESTINATION_AS: _iana(17),
    Role.SOURCE_PREFIX_IPV4: _iana(9),
    Role.DESTINATION_PREFIX_IPV4: _iana(13),
    Role.SOURCE_PREFIX_IPV6: _iana(29),
    Role.DESTINATION_PREFIX_IPV6: _iana(30),
    Role.VLAN: _iana(58, 243),
    Role.SAMPLING_INTERVAL: _iana(34, 50),
    Role.SAMPLER: _iana(48, 302),
    Role.SYSTEM_INIT_TIME: _iana(160),
}

# (packets, octets) of the forward direction, best first: delta; initiator; behind the middlebox; total.
COUNT_PAIRS: Final[tuple[tuple[Element, Element], ...]] = (
    ((0, 2), (0, 1)),
    ((0, 298), (0, 231)),
    ((0, 24), (0, 23)),
    ((0, 86), (0, 85)),
    ((0, 172), (0, 171)),
)
POST_COUNTS: Final = COUNT_PAIRS[2]
OTHER_OCTET_COUNTS: Final = _iana(1, 231, 23, 85, 171, 352, 353)  # last: with layer 2 headers
REVERSE_PAIRS: Final[tuple[tuple[Element, Element], ...]] = (
    ((REVERSE, 2), (REVERSE, 1)),
    ((REVERSE, 86), (REVERSE, 85)),
    ((0, 299), (0, 232)),
)

_OBSERVATION: Final[tuple[tuple[int, TimeKind], ...]] = (
    (325, TimeKind.NTP_NANOSECONDS),
    (324, TimeKind.NTP_MICROSECONDS),
    (323, TimeKind.MILLISECONDS),
    (322, TimeKind.SECONDS),
)
START_TIMES: Final[tuple[tuple[int, TimeKind], ...]] = (
    (156, TimeKind.NTP_NANOSECONDS),
    (154, TimeKind.NTP_MICROSECONDS),
    (152, TimeKind.MILLISECONDS),
    (150, TimeKind.SECONDS),
    (22, TimeKind.UPTIME),
    (158, TimeKind.BEFORE_EXPORT),
)
END_TIMES: Final[tuple[tuple[int, TimeKind], ...]] = (
    (157, TimeKind.NTP_NANOSECONDS),
    (155, TimeKind.NTP_MICROSECONDS),
    (153, TimeKind.MILLISECONDS),
    (151, TimeKind.SECONDS),
    (21, TimeKind.UPTIME),
    (159, TimeKind.BEFORE_EXPORT),
    *_OBSERVATION,  # when a firewall saw the flow end
)
DURATIONS: Final[tuple[tuple[int, TimeKind], ...]] = (
    (162, TimeKind.DURATION_MICROSECONDS),
    (161, TimeKind.DURATION_MILLISECONDS),
)

NAT_EVENT: Final[Element] = (0, 230)
FIREWALL_EVENTS: Final[tuple[Element, ...]] = ((0, 233), (0, 40005))  # 40005: what ASA's v9 called it first

OPTIONS: Final[dict[OptionRole, tuple[Element, ...]]] = {
    OptionRole.SYSTEM_INIT_TIME: _iana(160),
    OptionRole.SAMPLER: _iana(48, 302),
    OptionRole.INTERVAL: _iana(34, 50),
    OptionRole.SAMPLED_PACKETS: _iana(305),
    OptionRole.SKIPPED_PACKETS: _iana(306),
    OptionRole.SAMPLE_SIZE: _iana(309),
    OptionRole.POPULATION: _iana(310),
    OptionRole.PROBABILITY: _iana(311),
}
