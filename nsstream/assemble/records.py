"""Records: the three row types that the loops of this package share, and the names of all repairs and drops.

`CONVERSATION` is what is constant for a conversation, `STREAM` the state of a five-tuple that outlives a table, and
`PACKET` the plan of one frame: `tcp` and `plan` fill it, `emit` turns it into octets. Sides of a stream (index 0
and 1 in `STREAM`) are the two ends in the order of their addresses, whoever opened it; `CONVERSATION.is_swapped`
leads from the directions of a conversation to the sides of its stream.

Sequence numbers are held unwrapped in int64 and cut to 32 bits where they are written.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np

CONVERSATION: Final = np.dtype(
    [
        ("address", np.uint8, (2, 16)),  # by direction: 0 initiator, 1 responder
        ("mac", np.uint8, (2, 6)),
        ("link", np.int64, (2,)),  # the MACs as numbers
        ("word", np.int64, (2, 2)),  # the addresses as two numbers each, of IPv4 the second's low half
        ("address_sum", np.int64),  # ones' complement sum of both addresses
        ("port", np.uint16, (2,)),
        ("ttl", np.uint8, (2,)),
        ("syn_ttl", np.uint8, (2,)),  # of segments with SYN
        ("class_of_service", np.uint8, (2,)),
        ("vlan_id", np.uint16),
        ("protocol", np.uint8),
        ("version", np.uint8),
        ("is_fragment", np.uint8),
        ("is_group", np.uint8),  # the responder is a multicast or broadcast address, which never sends
        ("is_swapped", np.uint8),  # side = direction ^ is_swapped
        ("server", np.uint8),  # the direction whose source owns the service port
        ("stream", np.int32),
        ("service", np.int32),  # row of the payload table
        ("fill", np.int16, (2,)),  # by direction, the octet that all payload is made of; -1: there are messages
        ("flow_label", np.uint32),
        ("identifier", np.uint16),  # ICMP echo
    ],
    align=True,
)

STREAM: Final = np.dtype(
    [
        ("next", np.int64, (2,)),  # next sequence number of each side
        ("ack", np.int64, (2,)),  # last acknowledgement number that each side sent; -1 for none
        ("low", np.int64, (2,)),  # first sequence number behind the SYN, or where the side was first seen
        ("fin_sequence", np.int64, (2,)),
        ("syn_sequence", np.int64, (2,)),
        ("syn_payload", np.int64, (2,)),
        ("ts_offset", np.uint32, (2,)),
        ("ts_value", np.uint32, (2,)),  # the last timestamp that each side sent
        ("ip_id", np.uint16, (2,)),
        ("serial", np.uint16, (2,)),  # messages that each side sent, for DNS ids and ICMP sequence numbers
        ("window", np.uint16, (2,)),
        ("syn_window", np.uint16, (2,)),
        ("data_row", np.int64, (2,)),  # the plan row of each side's last fresh data in this table, -1 for none
        ("last_row", np.int64, (2,)),  # the plan row of each side's last segment in this table, -1 for none
        ("options", np.uint8, (2,)),  # options that each side's SYN offered
        ("syn", np.uint8, (2,)),  # 0 none, 1 SYN, 2 SYN|ACK
        ("fin", np.uint8, (2,)),
        ("rst", np.uint8, (2,)),
        ("seen", np.uint8, (2,)),  # the side has sent a segment that counts
        ("has_acked", np.uint8, (2,)),
        ("is_active", np.uint8),
        ("is_known", np.uint8),  # the row was set up at all
        ("last_time_ns", np.int64),
        ("random", np.uint64),  # state of the stream's own generator
    ],
    align=True,
)

PACKET: Final = np.dtype(
    [
        ("time_ns", np.int64),
        ("conversation", np.int32),
        ("sequence", np.uint32),
        ("acknowledgement", np.uint32),
        ("ts_value", np.uint32),
        ("ts_echo", np.uint32),
        ("ip_id", np.uint32),
        ("sack_left", np.uint32),
        ("sack_right", np.uint32),
        ("tail", np.int32),  # octets of its datagram in later fragments
        ("fragment", np.uint16),  # flags and offset as in the IPv4 header, but for "don't fragment"
        ("source_row", np.int32),  # a repeat: where the repeated octets end; an ICMP error: what is quoted; -1 for none
        ("before_row", np.int32),  # the fresh data of its side before this, -1 for none
        ("total_length", np.int32),  # octets of the datagram
        (
            "payload",
            np.int32,
        ),  # octets behind the transport header; of protocols without one here, behind the IP header
        ("ip_header", np.int32),
        ("control", np.uint16),  # TCP control bits, or ICMP type << 8 | code
        ("window", np.uint16),
        ("serial", np.uint16),
        ("transport_header", np.uint8),
        ("options", np.uint8),  # TCP options to write
        ("direction", np.uint8),
        ("is_kept", np.uint8),
    ],
    align=True,
)


class Repair(IntEnum):
    """What was changed or left out; the keys of `Assembler.tally` are these names in lower case."""

    MTU_CLAMPED = 0  # datagram longer than the MTU, cut
    LENGTH_ENLARGED = 1  # datagram shorter than its headers
    IP_HEADER_REPAIRED = 2  # header length that IP cannot have
    TCP_HEADER_REPAIRED = 3  # header length that TCP cannot have
    BODY_RESIZED = 4  # ICMP, IGMP or SCTP body brought to a length that its type can have
    PAYLOAD_RESIZED = 5  # payload of a length that no message of its service has
    TIME_RAISED = 6  # packet earlier than the one before it in its conversation
    TTL_DEFAULTED = 7  # direction that speaks with TTL 0
    GROUP_SOURCE_TURNED = 8  # packet from a multicast or broadcast address, sent to it instead
    FLAGS_REPAIRED = 9  # control bits that exclude each other
    ACK_ADDED = 10  # segment of an open connection without ACK
    PORT_REUSED = 11  # SYN on a five-tuple that was used before: a new, higher ISN
    PORT_MOVED = 12  # one that overlaps another of its five-tuple: next free port; a client of TFTP: a port of its own
    HANDSHAKE_REPAIRED = 13  # first answer to a SYN that was neither SYN|ACK nor RST: made a SYN|ACK
    RESET_TRIMMED = 14  # RST with payload
    KEEP_ALIVE_TRIMMED = 15  # keep-alive with more than one octet
    AFTER_FIN_TRIMMED = 16  # data or FIN after the FIN of the same side: a bare ACK
    IDLE_ACK_DROPPED = 17  # bare ACK when nothing is left to acknowledge, or a segment with nothing at all
    SYN_DROPPED = 18  # SYN or SYN|ACK in the midst of a connection
    BEFORE_HANDSHAKE_DROPPED = 19  # segment between a SYN and its answer
    AFTER_RESET_DROPPED = 20  # segment from the side that has reset the connection, or after a refusal
    ADDRESS_DROPPED = 21  # packet from one multicast or broadcast address to another
    PROTOCOL_DROPPED = 22  # packet of a protocol that its IP version cannot carry, or of an ICMPv6 type of other links
    REPEAT_FRESH = 23  # data to be repeated where its side has not sent so much in this table: sent as new
    QUOTE_INVENTED = 24  # ICMP error to a host that has sent nothing yet: it quotes a datagram that is made up
    SEGMENTED = 25  # TCP segment longer than the MTU, sent as several
    FRAGMENT_ALONE = 26  # later fragment without a datagram that it could be of: it never reassembles
    FRAGMENTED = 27  # UDP datagram or ICMP echo longer than the MTU, sent as IP fragments


class Options(IntEnum):
    """TCP options, as bits."""

    MSS = 1
    SACK_PERMITTED = 2
    TIMESTAMPS = 4
    WINDOW_SCALE = 8
    SACK = 16
