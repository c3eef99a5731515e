"""What can become of an exported record, set or datagram: kept, malformed for a reason, or not supported.

The loops count codes in an array; `add_fates` turns the counts into a `Tally` by name. The table is the reference of
every reason that reading exports can give. A datagram, set or template that cannot be read counts as one record.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.counters import Tally

KEPT: Final = 0
SHORT_DATAGRAM: Final = 1
NOT_AN_EXPORT: Final = 2
BAD_LENGTH: Final = 3
CUT_MESSAGE: Final = 4
CUT_SET: Final = 5
BAD_SET_LENGTH: Final = 6
CUT_RECORD: Final = 7
SHORT_SET: Final = 8
BAD_TEMPLATE: Final = 9
NO_TEMPLATE: Final = 10
FIRST_UNSUPPORTED: Final = 11
EXPORT_VERSION: Final = 11
RESERVED_SET: Final = 12
NO_ADDRESSES: Final = 13
NO_PACKET_COUNT: Final = 14
NAT_EVENT: Final = 15
FIREWALL_EVENT: Final = 16
NO_PACKETS: Final = 17
PARKED_OPTIONS: Final = 18

REASONS: Final = (
    "",  # kept
    "short_datagram",  # no room for the header
    "not_an_export",  # the version is none that NetFlow ever had, nor IPFIX's
    "bad_length",  # an IPFIX message that claims to be shorter than its header
    "cut_message",  # a message longer than its datagram; what is there is read
    "cut_set",  # a set longer than its message; whole records in it are read
    "bad_set_length",  # a set shorter than its own header, and not the zeros of padding
    "cut_record",  # a record that the datagram or the set ends in
    "short_set",  # a data set with octets, more than padding can be, but without one whole record
    "bad_template",  # a template that is cut, has an id below 256, too many fields, or no octet a record
    "no_template",  # a data set whose template did not come in time, or that found no room to wait for it
    "export_version",  # NetFlow v1, v7 or v8
    "reserved_set",  # a set id that has no meaning in its version
    "no_addresses",  # a template without IP addresses: MAC only, statistics
    "no_packet_count",  # a template without a count of packets: not a flow, or of octets only
    "nat_event",  # a template of NAT events (natEvent, RFC 8158): no counts
    "firewall_event",  # a template of firewall events (firewallEvent, Cisco ASA) without counts of packets
    "no_packets",  # a record that counts zero packets both ways
    "parked_options",  # a data set that waited for its template, which then was one of options: one record each
)


def add_fates(tally: Tally, counts: NDArray[np.int64]) -> None:
    """Add counts by fate code to a tally; every record counted was offered."""
    tally.offered += int(counts.sum())
    tally.kept += int(counts[KEPT])
    for code in np.flatnonzero(counts[1:]).tolist():
        add_fate(tally, code + 1, int(counts[code + 1]), is_new=False)


def add_fate(tally: Tally, code: int, count: int, *, is_new: bool = True) -> None:
    """Add `count` records of a fate other than kept; `is_new`: they were not offered before."""
    reasons = tally.malformed if code < FIRST_UNSUPPORTED else tally.unsupported
    reasons[REASONS[code]] += count
    if is_new:
        tally.offered += count
