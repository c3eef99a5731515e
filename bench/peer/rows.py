"""Rows: packets or flow records as plain numbers in columns, as a generator of tables sees them; and files of them.

An address is an index into the table's own list of addresses. `FIELDS` says what each column is, `read_packets` and
`read_flows` make rows of any trace that nsstream reads, `write_packets` makes frames of headers of them, and
`write_flows` the table that nsstream calls plain.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from nsstream.capture import open_source, read_trace
from nsstream.chunk.header_frames import header_frames
from nsstream.errors import InputError
from nsstream.trace import FlowTable, PacketBatch
from nsstream.trace.fields import ICMP, ICMPV6, SCTP, TCP, UDP
from nsstream.wire import pcap_header, write_records

Columns = Mapping[str, NDArray[np.int64]]
HEADERS = {TCP: 20, UDP: 8, ICMP: 8, ICMPV6: 8, SCTP: 12}
PORTS = (TCP, UDP, SCTP)


class Role(StrEnum):
    """What a column is to a generator."""

    TIME = "time"  # a number, linear
    AMOUNT = "amount"  # a number whose logarithm is what matters
    SIZE = "size"  # a number, linear
    ADDRESS = "address"
    PORT = "port"
    NAME = "name"  # values that stand for themselves


PACKET_ROLES = {
    "time_ns": Role.TIME,
    "source": Role.ADDRESS,
    "destination": Role.ADDRESS,
    "protocol": Role.NAME,
    "source_port": Role.PORT,
    "destination_port": Role.PORT,
    "octets": Role.SIZE,
    "ttl": Role.NAME,
    "control": Role.NAME,  # TCP: control bits; ICMP and ICMPv6: type << 8 | code
}
FLOW_ROLES = {
    "time_ns": Role.TIME,
    "duration_ns": Role.AMOUNT,
    "source": Role.ADDRESS,
    "destination": Role.ADDRESS,
    "protocol": Role.NAME,
    "source_port": Role.PORT,
    "destination_port": Role.PORT,
    "packets": Role.AMOUNT,
    "octets": Role.AMOUNT,
    "label": Role.NAME,
}


@dataclass(frozen=True)
class Rows:
    """n rows: columns (n,) as `roles` says, in order of time, and the addresses (k, 16) that they index."""

    columns: Columns
    roles: Mapping[str, Role]
    addresses: NDArray[np.uint8]
    label_names: tuple[str, ...] = ()  # a label is an index into them plus 1; 0: none

    def __post_init__(self) -> None:
        if list(self.columns) != list(self.roles) or len({len(c) for c in self.columns.values()}) != 1:
            raise ValueError(f"columns must be {list(self.roles)}, of one length")

    def __len__(self) -> int:
        return len(self.columns["time_ns"])

    def with_columns(self, columns: Columns) -> Rows:
        """Other rows of the same kind, by time."""
        order = np.argsort(columns["time_ns"], kind="stable")
        return Rows(
            {name: columns[name][order].astype(np.int64) for name in self.roles},
            self.roles, self.addresses, self.label_names,
        )  # fmt: skip


def read_packets(trace: Path) -> Rows:
    """The IP packets of a capture file."""
    batch, _ = read_trace(trace)
    addresses, source, destination = _indexed(batch.source_address, batch.destination_address)
    is_icmp = np.isin(batch.protocol_identifier, (ICMP, ICMPV6))
    icmp = batch.icmp_type.astype(np.int64) << 8 | batch.icmp_code
    columns = {
        "time_ns": batch.observation_time_ns,
        "source": source,
        "destination": destination,
        "protocol": batch.protocol_identifier,
        "source_port": batch.source_transport_port,
        "destination_port": batch.destination_transport_port,
        "octets": batch.ip_total_length,
        "ttl": batch.ip_ttl,
        "control": np.where(is_icmp, icmp, batch.tcp_control_bits),
    }
    return Rows(_wide(columns), PACKET_ROLES, addresses).with_columns(_wide(columns))


def read_flows(table: Path, most: int | None = None) -> Rows:
    """The first `most` flow records of a file, by time; counts are those of both directions."""
    source, tables = open_source(str(table)), []
    source.open()
    try:
        while (batch := source.read_batch()) is not None:
            if not isinstance(batch, FlowTable):
                raise InputError(f"{table}: holds packets, not flow records")
            tables.append(batch)
    finally:
        source.close()
    flows = FlowTable.concatenate(tables)
    if not len(flows):
        raise InputError(f"{table}: holds no flow record")
    flows = flows.take(np.argsort(flows.flow_start_ns, kind="stable")[:most])
    addresses, origin, target = _indexed(flows.source_address, flows.destination_address)
    columns = {
        "time_ns": flows.flow_start_ns,
        "duration_ns": flows.flow_end_ns - flows.flow_start_ns,
        "source": origin,
        "destination": target,
        "protocol": flows.protocol_identifier,
        "source_port": flows.source_transport_port,
        "destination_port": np.maximum(flows.destination_transport_port, flows.icmp_type_code),
        "packets": flows.packet_delta_count + flows.reverse_packet_delta_count,
        "octets": flows.octet_delta_count + flows.reverse_octet_delta_count,
        "label": flows.label,
    }
    return Rows(_wide(columns), FLOW_ROLES, addresses, flows.label_names)


def write_packets(rows: Rows, path: Path) -> int:
    """Write rows as a capture of headers, as a snaplen would leave it; gives how many had to be made longer.

    A row whose length has no room for its headers is given that room, one beyond 65,535 octets is cut there, and ports
    of what has none are left out: all else is as the row says.
    """
    c, n = rows.columns, len(rows)
    batch = {name: column.copy() for name, column in PacketBatch.empty(n).columns().items()}
    source, destination = rows.addresses[c["source"]], rows.addresses[c["destination"]]
    is_4 = _is_4(source)
    network = np.where(is_4, 20, 40)
    least = network + np.array([HEADERS.get(p, 0) for p in range(256)])[c["protocol"]]
    is_icmp = np.isin(c["protocol"], (ICMP, ICMPV6))
    with_ports = np.isin(c["protocol"], PORTS)
    is_tcp = c["protocol"] == TCP
    values = {
        "observation_time_ns": c["time_ns"],
        "ip_version": np.where(is_4, 4, 6),
        "source_address": source,
        "destination_address": _of_family(destination, is_4),
        "protocol_identifier": c["protocol"],
        "source_transport_port": np.where(with_ports, c["source_port"], 0),
        "destination_transport_port": np.where(with_ports, c["destination_port"], 0),
        "ip_total_length": np.clip(c["octets"], least, 65_535),
        "ip_header_length": network,
        "ip_ttl": c["ttl"],
        "tcp_control_bits": np.where(is_tcp, c["control"] & 0xFFF, 0),
        "tcp_header_length": np.where(is_tcp, 20, 0),
        "icmp_type": np.where(is_icmp, c["control"] >> 8 & 0xFF, 0),
        "icmp_code": np.where(is_icmp, c["control"] & 0xFF, 0),
    }
    for name, value in values.items():
        batch[name][:] = value
    packets = PacketBatch.from_columns(batch)
    offset, octets, on_wire = header_frames(packets)
    path.write_bytes(pcap_header() + write_records(packets.observation_time_ns, offset, octets, on_wire))
    return int((c["octets"] < least).sum())


def write_flows(rows: Rows, path: Path) -> None:
    """Write rows as a table of nsstream's plain preset; at least one packet a flow."""
    c = rows.columns
    names = np.array(["", *rows.label_names])
    text = np.array([_text(address) for address in rows.addresses], object)
    columns = {
        "ts_first": [f"{t // 10**9}.{t % 10**9:09d}" for t in c["time_ns"].tolist()],
        "duration": [f"{t // 10**9}.{t % 10**9:09d}" for t in np.maximum(c["duration_ns"], 0).tolist()],
        "proto": c["protocol"],
        "src_ip": text[c["source"]],
        "dst_ip": text[c["destination"]],
        "src_port": c["source_port"],
        "dst_port": c["destination_port"],
        "packets": np.maximum(c["packets"], 1),
        "bytes": np.maximum(c["octets"], 0),
        **({"label": names[c["label"]]} if rows.label_names else {}),
    }
    pa.csv.write_csv(pa.table(columns), path, pa.csv.WriteOptions(quoting_style="needed"))


def _indexed(*sides: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct addresses, the most frequent first, and the index of each address of both sides."""
    distinct, where, counts = np.unique(np.concatenate(sides), axis=0, return_inverse=True, return_counts=True)
    rank = np.argsort(-counts, kind="stable")
    place = np.empty(len(rank), np.int64)
    place[rank] = np.arange(len(rank))
    index = place[where.reshape(-1)]
    return distinct[rank], index[: len(sides[0])], index[len(sides[0]) :]


def _wide(columns: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.int64]]:
    return {name: column.astype(np.int64) for name, column in columns.items()}


def _is_4(addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = (addresses[:, :10] == 0).all(axis=1) & (addresses[:, 10:12] == 0xFF).all(axis=1)
    return out


def _of_family(addresses: NDArray[np.uint8], is_4: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Addresses (n, 16) that can stand in a header of IPv4 where that is asked for; the last octets are kept."""
    out = addresses.copy()
    wrong = is_4 & ~_is_4(addresses)
    out[wrong, :10], out[wrong, 10:12] = 0, 0xFF
    return out


def _text(address: NDArray[np.uint8]) -> str:
    parsed = ipaddress.IPv6Address(address.tobytes())
    return str(parsed.ipv4_mapped or parsed)
