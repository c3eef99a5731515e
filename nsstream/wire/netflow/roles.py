"""Roles: what a field of a record can be used as, and the numbers that the loops know each role by.

A template says where its elements are; `plan` gives each useful one a role. The loops read roles, never elements.
"""

from __future__ import annotations

from enum import IntEnum, auto


class Role(IntEnum):
    """One integer of at most 64 bits a record; an IPv6 address is two."""

    SOURCE_IPV4 = 0
    DESTINATION_IPV4 = auto()
    SOURCE_IPV6_HIGH = auto()
    SOURCE_IPV6_LOW = auto()
    DESTINATION_IPV6_HIGH = auto()
    DESTINATION_IPV6_LOW = auto()
    NEXT_HOP_IPV4 = auto()
    NEXT_HOP_IPV6_HIGH = auto()
    NEXT_HOP_IPV6_LOW = auto()
    IP_VERSION = auto()
    PROTOCOL = auto()
    SOURCE_PORT = auto()
    DESTINATION_PORT = auto()
    ICMP_TYPE_CODE = auto()
    ICMP_TYPE = auto()
    ICMP_CODE = auto()
    PACKETS = auto()
    OCTETS = auto()
    OTHER_PACKETS = auto()  # used where the first choice counts none
    OTHER_OCTETS = auto()
    REVERSE_PACKETS = auto()
    REVERSE_OCTETS = auto()
    TCP_BITS = auto()
    MORE_TCP_BITS = auto()  # or-ed to the first
    REVERSE_TCP_BITS = auto()
    MORE_REVERSE_TCP_BITS = auto()
    CLASS_OF_SERVICE = auto()
    END_REASON = auto()
    DIRECTION = auto()
    INGRESS = auto()
    EGRESS = auto()
    SOURCE_AS = auto()
    DESTINATION_AS = auto()
    SOURCE_PREFIX_IPV4 = auto()
    DESTINATION_PREFIX_IPV4 = auto()
    SOURCE_PREFIX_IPV6 = auto()
    DESTINATION_PREFIX_IPV6 = auto()
    VLAN = auto()
    SAMPLING_INTERVAL = auto()
    SAMPLER = auto()
    START = auto()
    END = auto()
    DURATION = auto()
    SYSTEM_INIT_TIME = auto()


class OptionRole(IntEnum):
    """What an options record can tell us."""

    SYSTEM_INIT_TIME = 0
    SAMPLER = auto()
    INTERVAL = auto()
    SAMPLED_PACKETS = auto()  # so many packets taken,
    SKIPPED_PACKETS = auto()  # then so many left
    SAMPLE_SIZE = auto()  # so many packets taken
    POPULATION = auto()  # out of so many
    PROBABILITY = auto()  # the bits of a float


class TimeKind(IntEnum):
    """How a time is written."""

    NONE = 0
    SECONDS = auto()  # since the Unix epoch
    MILLISECONDS = auto()
    NTP_MICROSECONDS = auto()  # RFC 7011 6.1.9: the NTP timestamp, its last 11 bits void
    NTP_NANOSECONDS = auto()
    UPTIME = auto()  # milliseconds since the exporter started, 32 bits
    BEFORE_EXPORT = auto()  # microseconds before the export time
    DURATION_MILLISECONDS = auto()
    DURATION_MICROSECONDS = auto()
