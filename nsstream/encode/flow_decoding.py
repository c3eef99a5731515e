"""Tokens back to flow records: starts, endpoints and counts, lawful by construction.

A record ends when it starts or later, and not behind the chunk's last one; it has a packet at least; its octets lie
between what the headers of so many packets need and 65,535 a packet (where the chunk's octets count no headers: between
0 and that); ports are 0 unless TCP, UDP or SCTP.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_codec import FlowCodec, least_octets
from nsstream.encode.flow_hosts import LAG_EDGES, hosts_of_tokens
from nsstream.encode.flow_schema import (
    ATTRIBUTE_INDEX,
    BLOCK_PORTS,
    FIELD_INDEX,
    HOST_SLOTS,
    MOST_RECORDS,
    PORT_BLOCKS,
    PORT_SLOTS,
    RARE_PORT,
    RECORDS_GRID,
)
from nsstream.encode.flow_values import MARK_COLUMNS
from nsstream.encode.vocabulary import distinct_rows
from nsstream.trace.fields import FLOW_FIELDS, ICMP, ICMPV6, SCTP, TCP, UDP
from nsstream.trace.flows import FlowTable

LEAST_FREE_PORT: Final = 1024  # below are ports that stand for something
_TRIES: Final = 8  # to make up a host that is not there yet
_PRIVATE: Final = {4: [*[0] * 10, 255, 255, 10, 0, 0, 0], 6: [0xFD, *[0] * 15]}  # RFC 1918, 4193


def decode_starts(
    attributes: NDArray[np.int64], rows: NDArray[np.int64], codec: FlowCodec, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Start times (n,) of conversations at these places (n,) in the chunk's order.

    The gaps that were drawn say how the starts of a cell lie to each other; its bounds say where.
    """
    cells = len(codec.cells)
    cell = codec.cell_of[rows]
    gap = codec.start_gap.draw(attributes[:, ATTRIBUTE_INDEX["start_gap"]], rng).astype(np.float64) + 1e-3
    total = np.bincount(cell, gap, minlength=cells)
    passed = np.cumsum(gap)
    before = np.concatenate([[0.0], np.cumsum(total)])[cell]
    part = (passed - before - gap * rng.random(len(gap))) / total[cell]
    width = np.diff(codec.edges).astype(np.float64)[cell]
    start = codec.edges[cell] + (width * np.clip(part, 0, 1)).astype(np.int64)
    start[rows == 0] = codec.edges[0]  # the chunk's first record is somebody's first
    return np.asarray(start // codec.tick_ns * codec.tick_ns, np.int64)


def decode_records(
    attributes: NDArray[np.int64],
    offset: NDArray[np.int64],
    fields: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    codec: FlowCodec,
    rng: np.random.Generator,
) -> FlowTable:
    """The flow table of n conversations and their m records: attributes (n, a), fields (m, f), starts (m,)."""
    owner = np.repeat(np.arange(len(attributes)), np.diff(offset))
    ends = _endpoints(attributes, codec, rng)

    def token(name: str) -> NDArray[np.int64]:
        return fields[:, FIELD_INDEX[name]]

    first = attributes[owner, ATTRIBUTE_INDEX["service_first"]] == 1
    from_service = first ^ (token("is_reverse") == 1)
    columns: dict[str, NDArray[np.generic]] = {"flow_start_ns": start_ns}
    for name in ("protocol_identifier", "ip_version", "icmp_type_code", "label"):
        columns[name] = ends[name][owner]
    for name in ("address", "transport_port", "as_number"):
        client, server = ends[f"client_{name}"][owner], ends[f"server_{name}"][owner]
        way = from_service.reshape(-1, *[1] * (client.ndim - 1))
        prefix = "bgp_" if name == "as_number" else ""
        columns[f"{prefix}source_{name}"] = np.where(way, server, client)
        columns[f"{prefix}destination_{name}"] = np.where(way, client, server)
    marks = codec.mark.table()[token("mark")]
    columns |= {name: marks[:, i] for i, name in enumerate(MARK_COLUMNS)}
    path = codec.path.table()[token("path")]
    columns["ip_next_hop_address"], columns["exporter_address"] = path[:, :16], path[:, 16:]
    columns["ingress_interface"] = codec.ingress.table()[token("ingress"), 0]
    columns["egress_interface"] = codec.egress.table()[token("egress"), 0]
    is_tcp = columns["protocol_identifier"] == TCP
    flags = np.where(is_tcp[:, None], codec.flags.table()[token("flags")], 0)
    columns["tcp_control_bits"], columns["reverse_tcp_control_bits"] = flags[:, 0], flags[:, 1]
    duration = codec.duration.draw(token("duration"), rng)
    columns["flow_end_ns"] = start_ns + np.clip(duration, 0, np.maximum(codec.last_ns - start_ns, 0))
    packets = codec.packets.draw(token("packets"), rng)
    reverse = codec.reverse_packets.draw(token("reverse_packets"), rng)
    packets = np.where((packets == 0) & (reverse == 0), 1, packets)
    columns["packet_delta_count"], columns["reverse_packet_delta_count"] = packets, reverse
    columns["octet_delta_count"] = codec.octets.draw(token("octets"), rng, packets)
    columns["reverse_octet_delta_count"] = codec.reverse_octets.draw(token("reverse_octets"), rng, reverse)
    table = FlowTable.from_columns(
        {name: np.asarray(column, FLOW_FIELDS[name][0]) for name, column in columns.items()}, codec.label_names
    )
    return lawful_octets(table, has_headers=codec.has_headers)


def lawful_octets(table: FlowTable, *, has_headers: bool) -> FlowTable:
    """The same records, with as many octets as their packets can have."""
    least = least_octets(table) if has_headers else np.zeros(len(table), np.int64)
    columns = table.columns()
    for prefix in ("", "reverse_"):
        packets = columns[f"{prefix}packet_delta_count"].astype(np.int64)
        octets = columns[f"{prefix}octet_delta_count"].astype(np.int64)
        columns[f"{prefix}octet_delta_count"] = np.clip(octets, packets * least, packets * 65_535).astype(np.uint64)
    return FlowTable.from_columns(columns, table.label_names)


def _endpoints(
    attributes: NDArray[np.int64], codec: FlowCodec, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Columns of conversations (n,): who, and what for."""

    def token(name: str) -> NDArray[np.int64]:
        return attributes[:, ATTRIBUTE_INDEX[name]]

    n = len(attributes)
    service = codec.service.table()[token("service")]
    high, low = token("service_port_high") - 1, token("service_port_low") - 1
    rare_port = np.maximum(high, 0) << 8 | np.maximum(low, 0)
    port = np.where(service[:, 2] == RARE_PORT, rare_port, service[:, 2])
    has_ports = np.isin(service[:, 0], (TCP, UDP, SCTP))
    is_icmp = np.isin(service[:, 0], (ICMP, ICMPV6))
    client_port = token("client_port")
    known = codec.port.table()[np.minimum(client_port, PORT_SLOTS - 1), 0]
    made = np.maximum(client_port - PORT_SLOTS, 0) * BLOCK_PORTS + rng.integers(0, BLOCK_PORTS, n)
    family = (service[:, 1] == 6).astype(np.int64)
    client, server, families = hosts_of_tokens(
        token("client"),
        token("server"),
        token("service"),
        token("service_first"),
        family,
        LAG_EDGES,
        rng.random((n, 3)),
        codec.share_again,
    )
    address, systems = _hosts(codec, families, rng)
    client_port = np.where(has_ports, np.where(client_port < PORT_SLOTS, known, made), 0)
    server = _apart(client, server, address, token("service"), family, rng)
    kind = np.stack([token("service"), port, token("label")], axis=1)
    goes_on = token("record_count") >= RECORDS_GRID.tokens(np.array([MOST_RECORDS]))[0]
    server, client_port = _distinct(client, server, client_port, kind, family, goes_on, rng)
    return {
        "protocol_identifier": service[:, 0],
        "ip_version": service[:, 1],
        "icmp_type_code": np.where(is_icmp, port, 0),
        "label": token("label"),
        "client_address": address[client],
        "server_address": address[server],
        "client_as_number": systems[client],
        "server_as_number": systems[server],
        "client_transport_port": client_port,
        "server_transport_port": np.where(has_ports, port, 0),
    }


def _apart(
    client: NDArray[np.int64],
    server: NDArray[np.int64],
    address: NDArray[np.int64],
    service: NDArray[np.int64],
    family: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Servers (n,) with which two numbers of one host (a private one may have one in each role) do not meet.

    Who would meet himself changes servers with somebody else who asks for the same, or else for anything.
    """
    number = np.arange(len(address))
    _, first, same = np.unique(_keys(address[:HOST_SLOTS]), return_index=True, return_inverse=True)
    number[:HOST_SLOTS] = first[same.reshape(-1)]  # free slots are all one, and nobody's
    who, whom, server = number[client], number[server], server.copy()
    is_twin = np.bincount(number, minlength=len(number)) > 1
    free = np.flatnonzero(~is_twin[who] & ~is_twin[whom])
    order = free[np.argsort(service[free], kind="stable")]
    first = np.searchsorted(service[order], service)
    alike = np.searchsorted(service[order], service, side="right") - first
    for attempt in range(2 * _TRIES):
        rows = np.flatnonzero((who == whom) & (client != server))
        if not len(rows) or not len(order):
            break
        chance = rng.random(len(rows))
        is_alike = (alike[rows] > 0) & (attempt < _TRIES)
        other = order[
            np.where(
                is_alike, first[rows] + (chance * alike[rows]).astype(np.int64), (chance * len(order)).astype(np.int64)
            )
        ]
        is_fit = (who[other] != whom[rows]) & (whom[other] != who[rows]) & (family[other] == family[rows])
        _, once = np.unique(other, return_index=True)
        is_fit &= np.isin(np.arange(len(rows)), once) & (who[other] != whom[other])
        rows, other = rows[is_fit], other[is_fit]
        for mine in (server, whom):
            mine[rows], mine[other] = mine[other], mine[rows]
    return server


def _distinct(
    client: NDArray[np.int64],
    server: NDArray[np.int64],
    client_port: NDArray[np.int64],
    kind: NDArray[np.int64],
    family: NDArray[np.int64],
    goes_on: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Servers and client ports (n,) with which no two conversations of a kind (n, k) are one, as far as that goes.

    Who comes second takes another client port near its own, or, where that is no free one, another's server; but not
    where one of them is as long as any can be and goes on as another (n,).
    """
    server, client_port = server.copy(), client_port.copy()
    for attempt in range(2 * _TRIES):
        keys = np.concatenate([client[:, None], server[:, None], client_port[:, None], kind], axis=1)
        which = distinct_rows(keys)[1]
        _, first = np.unique(which, return_index=True)
        may = np.bincount(which, goes_on) > 0
        rows = np.setdiff1d(np.flatnonzero(~may[which]), first)
        if not len(rows):
            break
        is_free = client_port[rows] >= LEAST_FREE_PORT
        block = client_port[rows] // BLOCK_PORTS if attempt < _TRIES else rng.integers(128, PORT_BLOCKS, len(rows))
        near = block * BLOCK_PORTS + rng.integers(0, BLOCK_PORTS, len(rows))
        client_port[rows] = np.where(is_free, near, client_port[rows])
        for version in (0, 1):
            others = np.flatnonzero((family == version) & (client_port < LEAST_FREE_PORT))
            stuck = rows[~is_free & (family[rows] == version)]
            if len(others):
                server[stuck] = server[rng.choice(others, len(stuck))]
    return server, client_port


def _hosts(
    codec: FlowCodec, families: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Address (h, 16) and AS (h,) of every slot and then of every made-up host; no address twice while there is room.

    Made-up hosts are in the network and the AS of a rare host each, whose turn comes again when all others have had it.
    """
    table = codec.host.table()
    slots = np.zeros((HOST_SLOTS, 16), np.int64)
    if table.shape[1] == 17:
        slots[:] = np.maximum(table[:, 1:], 0)
    taken = slots[codec.host.is_active()]
    made, made_as = np.zeros((len(families), 16), np.int64), np.zeros(len(families), np.int64)
    for family, version in ((0, 4), (1, 6)):
        rows = np.flatnonzero(families == family)
        pool = np.flatnonzero(codec.networks[:, 0] == version)
        networks, their_as = codec.networks[pool, 1:], codec.rare_as[pool]
        if not len(pool):
            networks, their_as = np.array([_PRIVATE[version]]), np.zeros(1, np.int64)
        rounds = -(-len(rows) // len(networks))
        like = np.concatenate([rng.permutation(len(networks)) for _ in range(rounds)] or [rows])[: len(rows)]
        made[rows], made_as[rows] = networks[like], their_as[like]
        free = slice(14, 16) if version == 4 else slice(8, 16)
        for _ in range(_TRIES):
            made[rows, free] = rng.integers(0, 256, (len(rows), free.stop - free.start))
            _, first = np.unique(_keys(np.concatenate([taken, made[rows]])), return_index=True)
            is_new = np.isin(np.arange(len(rows)) + len(taken), first)
            taken = np.concatenate([taken, made[rows[is_new]]])
            rows = rows[~is_new]
            if not len(rows):
                break
    return np.concatenate([slots, made]), np.concatenate([codec.host_as, made_as])


def _keys(addresses: NDArray[np.int64]) -> NDArray[np.void]:
    """Addresses (k, 16) as one item each (k,)."""
    return np.ascontiguousarray(addresses.astype(np.uint8)).view("V16").ravel()
