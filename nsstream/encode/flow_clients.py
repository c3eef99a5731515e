"""Flow records in conversations whose client is told by their own records alone, as a promise to each client needs.

A conversation is all records of one five-tuple, either way (ICMP: and of one type and code). Its client is the side
that does not have a known service's port (`public_services`, `port_families`); where both or neither have one, the side
whose record starts first; of records that start together, the higher port's side, and of equal ports the higher
address's. Who else is in the table changes nothing: `flow_conversations`, which asks what all records have most, would.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_conversations import FlowConversations
from nsstream.encode.flow_schema import MOST_RECORDS
from nsstream.encode.port_families import FAMILIES
from nsstream.encode.public_services import PUBLIC_SERVICES
from nsstream.trace.fields import ICMP, ICMPV6
from nsstream.trace.flows import FlowTable

_KNOWN: Final = np.zeros((256, 65_536), np.bool_)  # which ports of a protocol are a known service's
for _protocol, _, _, _port in PUBLIC_SERVICES:
    if _port > 0:
        _KNOWN[_protocol, _port] = True
for _family in FAMILIES:
    for _protocol, _port in _family.services():
        _KNOWN[_protocol, _port] = True
_KNOWN[:, 0] = False


def group_by_client(table: FlowTable) -> FlowConversations:
    """Group a flow table; a conversation of more than `MOST_RECORDS` records goes on as another one. No labels."""
    n = len(table)
    is_icmp = np.isin(table.protocol_identifier, (ICMP, ICMPV6))
    ends = [
        _end(table.source_address, table.source_transport_port),
        _end(table.destination_address, table.destination_transport_port),
    ]
    is_high = _is_above(ends[0], ends[1])
    low, high = (np.where(is_high[:, None], a, b) for a, b in ((ends[1], ends[0]), (ends[0], ends[1])))
    numbers = np.stack(
        [table.protocol_identifier, table.ip_version, np.where(is_icmp, table.icmp_type_code, 0)], axis=1
    ).astype(np.uint16)
    key = np.concatenate([low, high, numbers.view(np.uint8).reshape(n, 6)], axis=1)
    _, which = np.unique(np.ascontiguousarray(key).view(f"V{key.shape[1]}").ravel(), return_inverse=True)
    rank = np.lexsort((_rest_of(table), ~is_high, table.flow_start_ns, which))
    which = which[rank]
    begin = np.flatnonzero(np.append(True, which[1:] != which[:-1])) if n else np.zeros(0, np.int64)
    count = np.diff(np.append(begin, n))
    opening = rank[begin]
    source, destination = (
        _KNOWN[table.protocol_identifier[opening], port[opening]]
        for port in (table.source_transport_port, table.destination_transport_port)
    )
    client_is_source = np.where(source == destination, True, ~source)
    client_is_high = client_is_source == is_high[opening]
    # Pieces of at most so many records, in order of their first record's start.
    place = np.arange(n) - np.repeat(begin, count)
    piece = np.flatnonzero(place % MOST_RECORDS == 0)
    owner = np.repeat(np.arange(len(begin)), count)[piece]
    sizes = np.diff(np.append(piece, n))
    order = np.argsort(table.flow_start_ns[rank[piece]], kind="stable")
    offset = np.concatenate([[0], np.cumsum(sizes[order])]).astype(np.int64)
    rows = rank[np.repeat(piece[order] - offset[:-1], sizes[order]) + np.arange(n)]
    first, is_clients = opening[owner[order]], client_is_source[owner[order]]
    from_service = is_high[rows] != np.repeat(client_is_high[owner[order]], sizes[order])
    ours = is_clients[:, None]
    ports = (
        table.source_transport_port[first].astype(np.int64),
        table.destination_transport_port[first].astype(np.int64),
    )
    systems = (
        table.bgp_source_as_number[first].astype(np.int64),
        table.bgp_destination_as_number[first].astype(np.int64),
    )
    service_port = np.where(is_clients, ports[1], ports[0])
    return FlowConversations(
        records=unlabelled(table.take(rows)),
        offset=offset,
        from_service=from_service,
        client_address=np.where(ours, table.source_address[first], table.destination_address[first]),
        server_address=np.where(ours, table.destination_address[first], table.source_address[first]),
        client_port=np.where(is_icmp[first], 0, np.where(is_clients, ports[0], ports[1])),
        service_port=np.where(is_icmp[first], table.icmp_type_code[first], service_port).astype(np.int64),
        client_as=np.where(is_clients, systems[0], systems[1]),
        server_as=np.where(is_clients, systems[1], systems[0]),
    )


def unit_keys(conversations: FlowConversations, unit: Literal["host", "flow"]) -> NDArray[np.uint8]:
    """What tells units apart, an octet string a conversation (n, octets): the client, or the five-tuple either way."""
    table, first = conversations.records, conversations.first
    version = table.ip_version[first][:, None]
    if unit == "host":
        return np.concatenate([version, conversations.client_address], axis=1)
    ends = [
        _end(table.source_address[first], table.source_transport_port[first]),
        _end(table.destination_address[first], table.destination_transport_port[first]),
    ]
    is_high = _is_above(ends[0], ends[1])[:, None]
    low, high = np.where(is_high, ends[1], ends[0]), np.where(is_high, ends[0], ends[1])
    return np.concatenate([version, table.protocol_identifier[first][:, None], low, high], axis=1)


def unlabelled(table: FlowTable) -> FlowTable:
    """The same flows without labels, which are nobody's to tell."""
    return FlowTable.from_columns(table.columns() | {"label": np.zeros(len(table), np.uint16)})


def _end(address: NDArray[np.uint8], port: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Port and address as octets that sort as they do: (n, 18)."""
    return np.concatenate([port.astype(">u2")[:, None].view(np.uint8), address], axis=1)


def _is_above(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether octet strings (n, k) sort behind others."""
    differs = left != right
    at = differs.argmax(axis=1)
    rows = np.arange(len(left))
    return np.asarray(left[rows, at] > right[rows, at], np.bool_)


def _rest_of(table: FlowTable) -> NDArray[np.int64]:
    """What orders records of one conversation, direction and start: by their end and counts, not their place."""
    return (
        table.flow_end_ns ^ (table.packet_delta_count.astype(np.int64) << 8) ^ table.octet_delta_count.astype(np.int64)
    )
