"""The shape of what a model of flow tables sees: attributes of a conversation, fields of a record, and their sizes.

All sizes are constants, the same for every chunk: they are what checkpoints must agree on to be fine-tuned
(`FLOW_SCHEMA_ID`). Order matters: an attribute is drawn given those before it, a field given the conversation, the
records before and the fields before. The label comes first, so that whatever else is drawn is drawn for it.
"""

from __future__ import annotations

from typing import Final

from nsstream.encode.bins import Grid

FLOW_SCHEMA_ID: Final = "flows-4"

START_GAP_GRID: Final = Grid(exact=0, first=1_000, per_decade=8, largest=100_000 * 10**9)  # nanoseconds
RECORD_GAP_GRID: Final = Grid(exact=0, first=1_000, per_decade=16, largest=1_000_000 * 10**9)
DURATION_GRID: Final = Grid(exact=0, first=1_000, per_decade=24, largest=10_000_000 * 10**9)
RECORDS_GRID: Final = Grid(exact=16, first=17, per_decade=12, largest=128)  # records of a conversation
PACKETS_GRID: Final = Grid(exact=48, first=49, per_decade=24, largest=10**12)
RATIO_GRID: Final = Grid(exact=0, first=1_000, per_decade=24, largest=65_536_000)  # octets a packet, in thousandths

MOST_RECORDS: Final = 128  # a longer conversation goes on as another one
LABELS: Final = 256
HOST_SLOTS: Final = 1024
LAGS: Final = 64
PEERS: Final = 8
SERVICE_SLOTS: Final = 3072
RARE_PORT: Final = -1
PORT_SLOTS: Final = 512
PORT_BLOCKS: Final = 256
BLOCK_PORTS: Final = 65_536 // PORT_BLOCKS

PARTIES: Final = 4 * (HOST_SLOTS + 1)  # a slot, or all who have none, as client or server, that sends or gets a record

# Tokens of a client: a slot, somebody new, or somebody of a kind, last named so many rare hosts ago. A server's begin
# with the client's latest peers.
FRESH: Final = HOST_SLOTS
LAG: Final = FRESH + 1
HOSTS: Final = LAG + LAGS

ATTRIBUTES: Final[dict[str, int]] = {
    "label": LABELS,
    "start_gap": len(START_GAP_GRID),
    "service": SERVICE_SLOTS,  # (protocol, IP version, port of the service's side or ICMP type and code)
    "service_port_high": 257,  # 0 unless the service's port is rare; else 1 + high octet
    "service_port_low": 257,
    "service_first": 2,  # whether the first record comes from the service's side
    "client": HOSTS,
    "server": PEERS + HOSTS,
    "client_port": PORT_SLOTS + PORT_BLOCKS,  # a frequent port, or the block of another
    "record_count": len(RECORDS_GRID),
}
ATTRIBUTE_INDEX: Final = {name: i for i, name in enumerate(ATTRIBUTES)}
NARROW: Final = "client_port"  # an ephemeral port has nothing to do with the hour
NARROW_KNOWS: Final = ("service", "service_first", "client")

PACKET_ATOMS: Final = 384
OCTET_ATOMS: Final = 768
OCTET_RATES: Final = 768  # whole octets a packet
DURATION_ATOMS: Final = 384
FLAG_SLOTS: Final = 192
INTERFACE_SLOTS: Final = 768

FIELDS: Final[dict[str, int]] = {
    "is_reverse": 2,  # from the side that did not send the first record
    "gap": len(RECORD_GAP_GRID),  # from the start of the conversation's record before; no meaning in the first
    "mark": 256,  # class of service, interfaces' kin and all else that is a code, see `flow_values.MARK_COLUMNS`
    "path": 256,  # next hop and exporter
    "ingress": INTERFACE_SLOTS,
    "egress": INTERFACE_SLOTS,
    "flags": FLAG_SLOTS,  # both directions'
    "packets": PACKET_ATOMS + len(PACKETS_GRID),
    "reverse_packets": PACKET_ATOMS + len(PACKETS_GRID),
    "octets": OCTET_RATES + OCTET_ATOMS + len(RATIO_GRID),
    "reverse_octets": OCTET_RATES + OCTET_ATOMS + len(RATIO_GRID),
    "duration": DURATION_ATOMS + len(DURATION_GRID),
}
FIELD_INDEX: Final = {name: i for i, name in enumerate(FIELDS)}

MOMENTS: Final = 32  # parts of a chunk with as many conversations each
START_FEATURES: Final = MOMENTS + 2
POSITIONS: Final = 8
COUNTDOWNS: Final = 12
TIMES_LEFT: Final = 96  # eight a decade from a millisecond
RUNNING: Final = (POSITIONS, COUNTDOWNS, TIMES_LEFT)
SIZE_CLASSES: Final = 9
PLACES: Final = 3 * SIZE_CLASSES  # where the corrections of fields are counted apart, see `flow_encoding.place_of`
BY_SIZE: Final = ("octets", "reverse_octets", "duration")  # fields whose corrections depend on the packets
CELLS: Final = 1024  # at most: parts of a chunk with as many conversations each, whose bounds a codec keeps
SLICES: Final = 120  # equal parts of its time, whose bounds it keeps too
LEAST_OF_CELL: Final = 8  # conversations between two bounds
