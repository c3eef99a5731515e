"""FlowCodec: what the tokens of one chunk of flow records mean. Fitted on the chunk, kept with the checkpoint, JSON.

It holds vocabularies and the inner shapes of bins, when conversations start, and how many records there are. Hosts are
stored as the address map left them, and only frequent ones; of the others it keeps networks. A codec fitted with a
parent keeps the parent's slots, so that the parent's weights stay meaningful.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.bins import Bins
from nsstream.encode.flow_conversations import FlowConversations
from nsstream.encode.flow_schema import (
    BLOCK_PORTS,
    CELLS,
    DURATION_ATOMS,
    DURATION_GRID,
    FIELDS,
    FLAG_SLOTS,
    HOST_SLOTS,
    INTERFACE_SLOTS,
    LABELS,
    LEAST_OF_CELL,
    OCTET_ATOMS,
    OCTET_RATES,
    PACKET_ATOMS,
    PACKETS_GRID,
    PARTIES,
    PORT_BLOCKS,
    PORT_SLOTS,
    RARE_PORT,
    RATIO_GRID,
    RECORD_GAP_GRID,
    RECORDS_GRID,
    SERVICE_SLOTS,
    SLICES,
    START_GAP_GRID,
)
from nsstream.encode.flow_urns import OCTAVES, FlowUrns
from nsstream.encode.flow_values import Counts, flag_values, mark_values, path_values
from nsstream.encode.vocabulary import Vocabulary
from nsstream.errors import TrainError
from nsstream.trace.fields import TCP, UDP
from nsstream.trace.flows import FlowTable

LEAST_OF_HOST: Final = 4  # conversations that name a host, for a slot
RARE_NETWORKS: Final = 1024
LAWFUL_SHARE: Final = 0.999  # of a chunk's records that are as long as their headers: then all that are drawn are
VOCABULARIES: Final = ("host", "service", "port", "flags", "mark", "path", "ingress", "egress")
BINS: Final = {"start_gap": START_GAP_GRID, "gap": RECORD_GAP_GRID, "records": RECORDS_GRID}
COUNTS: Final = {
    "packets": (PACKETS_GRID, (0, PACKET_ATOMS)),
    "reverse_packets": (PACKETS_GRID, (0, PACKET_ATOMS)),
    "octets": (RATIO_GRID, (OCTET_RATES, OCTET_ATOMS)),
    "reverse_octets": (RATIO_GRID, (OCTET_RATES, OCTET_ATOMS)),
    "duration": (DURATION_GRID, (0, DURATION_ATOMS)),
}


@dataclass(frozen=True)
class FlowCodec:
    """The meaning of tokens.

    Attributes:
        start_ns, end_ns: the chunk's interval.
        last_ns: the latest end of a record.
        tick_ns: what all starts are multiples of.
        edges: (k + 1,) bounds of the cells in which conversations start; `cells`: (k,) how many do in each.
        conversation_count, record_count: of the chunk.
        label_names: code k is the name at k - 1.
        labels: (LABELS,) conversations of each label.
        host: version and address of frequent hosts; `host_as` is the AS of each slot's host.
        service, port, flags, mark, path, ingress, egress: vocabularies.
        port_blocks: (PORT_BLOCKS,) client ports without a slot, by block.
        start_gap, gap, records: bins.
        packets, reverse_packets, octets, reverse_octets, duration: counts, octets by packet.
        networks: (k, 17) version and address of rare hosts, a row each, host bits zeroed; `rare_as` is each one's AS.
        has_headers: whether octets count headers, so that no packet has fewer than its headers need.
        tail_ns: from the latest start of a record to `last_ns`.
        urns: which tokens come together how often, as `flow_encoding.count_urns` counts them.
        share_again: of rare servers that come back, those that were with the same client before, as
            `flow_encoding.share_again` counts them.
        loads: which hosts sent and got how many large records, as `flow_encoding.count_loads` counts them.
    """

    start_ns: int
    end_ns: int
    last_ns: int
    tick_ns: int
    edges: NDArray[np.int64]
    cells: NDArray[np.int64]
    conversation_count: int
    record_count: int
    label_names: tuple[str, ...]
    labels: NDArray[np.int64]
    host: Vocabulary
    host_as: NDArray[np.int64]
    service: Vocabulary
    port: Vocabulary
    flags: Vocabulary
    mark: Vocabulary
    path: Vocabulary
    ingress: Vocabulary
    egress: Vocabulary
    port_blocks: NDArray[np.int64]
    start_gap: Bins
    gap: Bins
    records: Bins
    packets: Counts
    reverse_packets: Counts
    octets: Counts
    reverse_octets: Counts
    duration: Counts
    networks: NDArray[np.int64]
    rare_as: NDArray[np.int64]
    has_headers: bool
    tail_ns: int = 0
    urns: FlowUrns = field(default_factory=FlowUrns.empty)
    share_again: float = 0.5
    loads: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), np.int64))

    @cached_property
    def layer_of_service(self) -> NDArray[np.int64]:
        """0 where a service runs over TCP, 1 over UDP, 2 over anything else: (SERVICE_SLOTS,)."""
        protocol = self.service.table()[:, 0]
        return np.where(protocol == TCP, 0, np.where(protocol == UDP, 1, 2))

    def cell_at(self, start_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The cell in which each time (k,) lies; of later ones, the last."""
        at = np.searchsorted(self.edges, start_ns, side="right") - 1
        return np.asarray(np.clip(at, 0, len(self.cells) - 1), np.int64)

    @cached_property
    def cell_of(self) -> NDArray[np.int64]:
        """The cell of each conversation in the order of starts: (conversation_count,)."""
        return np.repeat(np.arange(len(self.cells)), self.cells)

    @classmethod
    def fit(cls, flows: FlowConversations, start_ns: int, end_ns: int, parent: Self | None = None) -> Self:
        """Fit on a chunk's conversations, addresses mapped already; raises TrainError where labels are too many."""
        table = flows.records
        starts = table.flow_start_ns[flows.first]
        edges, cells = measure_cells(starts)
        held: dict[str, Vocabulary | None] = {name: getattr(parent, name, None) for name in VOCABULARIES}
        names = join_labels(parent.label_names if parent else (), table.label_names)
        hosts = np.concatenate([host_values(flows, 0), host_values(flows, 1)])
        host = Vocabulary.fit(hosts, HOST_SLOTS, least=LEAST_OF_HOST, parent=held["host"])
        slot = host.tokens(hosts)
        systems = np.concatenate([flows.client_as, flows.server_as])
        host_as = np.zeros(HOST_SLOTS, np.int64)
        host_as[slot[slot >= 0]] = systems[slot >= 0]
        services = service_values(flows)
        common = Vocabulary.fit(services, SERVICE_SLOTS - 32, least=3)
        services[common.tokens(services) < 0, 2] = RARE_PORT
        ports = flows.client_port[:, None]
        is_named = (np.bincount(ports[:, 0])[ports[:, 0]] >= max(4, len(ports) // 2000)) | (ports[:, 0] < 1024)
        port = Vocabulary.fit(ports[is_named], PORT_SLOTS, parent=held["port"])
        networks, rare_as = _rare_hosts(hosts[slot < 0], systems[slot < 0])
        counts = count_columns(table)
        packets = {"octets": counts["packets"], "reverse_octets": counts["reverse_packets"]}
        return cls(
            start_ns=start_ns,
            end_ns=end_ns,
            last_ns=int(table.flow_end_ns.max()),
            tail_ns=int(table.flow_end_ns.max() - table.flow_start_ns.max()),
            tick_ns=max(1, int(np.gcd.reduce(table.flow_start_ns))),
            edges=edges,
            cells=cells,
            conversation_count=len(flows),
            record_count=len(table),
            label_names=names,
            labels=np.bincount(label_codes(table, names)[flows.first], minlength=LABELS),
            host=host,
            host_as=host_as,
            service=Vocabulary.fit(services, SERVICE_SLOTS, parent=held["service"]),
            port=port,
            flags=Vocabulary.fit(flag_values(table), FLAG_SLOTS, parent=held["flags"]),
            mark=Vocabulary.fit(mark_values(table), FIELDS["mark"], parent=held["mark"]),
            path=Vocabulary.fit(path_values(table), FIELDS["path"], parent=held["path"]),
            ingress=_interfaces(table.ingress_interface, held["ingress"]),
            egress=_interfaces(table.egress_interface, held["egress"]),
            port_blocks=np.bincount(ports[port.tokens(ports) < 0, 0] // BLOCK_PORTS, minlength=PORT_BLOCKS),
            start_gap=Bins.fit(START_GAP_GRID, np.diff(starts, prepend=starts[:1])),
            gap=Bins.fit(RECORD_GAP_GRID, record_gaps(flows)[flows.index > 0]),
            records=Bins.fit(RECORDS_GRID, flows.record_count),
            **{  # type: ignore[arg-type]
                name: Counts.fit(grid, capacities, counts[name], packets.get(name), getattr(parent, name, None))
                for name, (grid, capacities) in COUNTS.items()
            },
            networks=networks,
            rare_as=rare_as,
            has_headers=bool(
                (counts["octets"] >= counts["packets"] * least_octets(table)).mean() >= LAWFUL_SHARE
                and (counts["reverse_octets"] >= counts["reverse_packets"] * least_octets(table)).mean() >= LAWFUL_SHARE
            ),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            **{name: getattr(self, name).tolist() for name in _ARRAYS},
            **{name: getattr(self, name).as_json() for name in (*VOCABULARIES, *BINS, *COUNTS, "urns")},
            "label_names": list(self.label_names),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`; raises LookupError, TypeError or ValueError on anything else."""
        share_again = float(data["share_again"])
        if not 0 <= share_again <= 1:
            raise ValueError("share_again is no share")
        loads = np.array(data["loads"], np.int64).reshape(-1, 3)
        if not ((loads >= 0).all() and (loads[:, 0] < PARTIES).all() and (loads[:, 1] < OCTAVES).all()):
            raise ValueError("loads name what there is not")
        networks = np.array(data["networks"], np.int64).reshape(-1, 17)
        rare_as = np.array(data["rare_as"], np.int64)
        if rare_as.shape != (len(networks),):
            raise ValueError("rare hosts have an AS each")
        return cls(
            start_ns=int(data["start_ns"]),
            end_ns=int(data["end_ns"]),
            last_ns=int(data["last_ns"]),
            tail_ns=int(data["tail_ns"]),
            tick_ns=int(data["tick_ns"]),
            conversation_count=int(data["conversation_count"]),
            record_count=int(data["record_count"]),
            has_headers=bool(data["has_headers"]),
            share_again=share_again,
            loads=loads,
            label_names=tuple(str(name) for name in data["label_names"]),
            edges=np.array(data["edges"], np.int64),
            cells=np.array(data["cells"], np.int64),
            labels=np.array(data["labels"], np.int64),
            host_as=np.array(data["host_as"], np.int64),
            port_blocks=np.array(data["port_blocks"], np.int64),
            networks=networks,
            rare_as=rare_as,
            urns=FlowUrns.from_json(data["urns"]),
            **{name: Vocabulary.from_json(data[name]) for name in VOCABULARIES},  # type: ignore[arg-type]
            **{name: Bins.from_json(grid, data[name]) for name, grid in BINS.items()},  # type: ignore[arg-type]
            **{name: Counts.from_json(grid, data[name]) for name, (grid, _) in COUNTS.items()},  # type: ignore[arg-type]
        )


_PLAIN: Final = (
    "start_ns",
    "end_ns",
    "last_ns",
    "tail_ns",
    "tick_ns",
    "conversation_count",
    "record_count",
    "has_headers",
    "share_again",
)
_ARRAYS: Final = ("edges", "cells", "labels", "host_as", "port_blocks", "networks", "rare_as", "loads")


def measure_cells(starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bounds (k + 1,) of the cells of sorted starts (n,), and how many lie in each (k,), `LEAST_OF_CELL` at least.

    Bounds are places of equal shares of the starts and of equal times, so that bursts and idle hours both are told.
    """
    k = max(1, min(CELLS, len(starts) // LEAST_OF_CELL))
    shares = starts[np.arange(k) * len(starts) // k]
    times = starts[0] + np.arange(SLICES) * ((starts[-1] - starts[0]) // SLICES)
    marks = np.unique(np.concatenate([shares, times]))
    before = np.searchsorted(starts, marks)
    kept = [0]
    for at in range(1, len(marks)):
        if before[at] - before[kept[-1]] >= LEAST_OF_CELL and len(starts) - before[at] >= LEAST_OF_CELL:
            kept.append(at)
    edges = np.append(marks[kept], starts[-1])
    return edges, np.diff(np.append(before[kept], len(starts)))


def host_values(flows: FlowConversations, role: int) -> NDArray[np.int64]:
    """Rows (n, 17) of IP version and address octets; role 0 is the client."""
    address = flows.server_address if role else flows.client_address
    return np.concatenate([flows.records.ip_version[flows.first][:, None], address], axis=1).astype(np.int64)


def service_values(flows: FlowConversations) -> NDArray[np.int64]:
    """Rows (n, 3): protocol, IP version, the service's port or ICMP type and code."""
    table, first = flows.records, flows.first
    columns = (table.protocol_identifier[first], table.ip_version[first], flows.service_port)
    return np.stack([c.astype(np.int64) for c in columns], axis=1)


def count_columns(table: FlowTable) -> dict[str, NDArray[np.int64]]:
    """The counts of records by field (m,)."""
    return {
        "packets": table.packet_delta_count.astype(np.int64),
        "reverse_packets": table.reverse_packet_delta_count.astype(np.int64),
        "octets": table.octet_delta_count.astype(np.int64),
        "reverse_octets": table.reverse_octet_delta_count.astype(np.int64),
        "duration": table.flow_end_ns - table.flow_start_ns,
    }


def record_gaps(flows: FlowConversations) -> NDArray[np.int64]:
    """Time (m,) from the start of the conversation's record before; 0 for the first."""
    start = flows.records.flow_start_ns
    return np.where(flows.index > 0, np.diff(start, prepend=start[:1]), 0)


def least_octets(table: FlowTable) -> NDArray[np.int64]:
    """Octets (m,) of the shortest packet of each record's protocol and IP version: RFC 791, 8200, 9293, 768."""
    protocol = table.protocol_identifier
    least = np.where(protocol == TCP, 40, np.where(protocol == UDP, 28, 20))
    return least + np.where(table.ip_version == 6, 20, 0)


def join_labels(parent: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """The parent's labels and then new ones; raises TrainError where they are too many."""
    joined = tuple(dict.fromkeys((*parent, *names)))
    if len(joined) >= LABELS:
        raise TrainError(f"{len(joined)} labels are too many to learn; at most {LABELS - 1}")
    return joined


def label_codes(table: FlowTable, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Each record's label (m,) as a code of these names."""
    code_of = {name: code for code, name in enumerate(names, 1)}
    return np.array([0, *(code_of[name] for name in table.label_names)], np.int64)[table.label]


def _interfaces(values: NDArray[np.uint32], parent: Vocabulary | None) -> Vocabulary:
    return Vocabulary.fit(values[:, None].astype(np.int64), INTERFACE_SLOTS, parent=parent)


def _rare_hosts(hosts: NDArray[np.int64], systems: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """/16 (k, 17) of rare IPv4 hosts and /64 of IPv6 ones, and the AS (k,) of each: a row a host.

    Of each IP version there are so many at most, evenly spread over all in sorted order.
    """
    distinct, first = np.unique(hosts, axis=0, return_index=True)
    rows = np.concatenate([distinct, systems[first, None]], axis=1)
    rows[rows[:, 0] == 4, 15:17] = 0
    rows[rows[:, 0] == 6, 9:17] = 0
    kept = []
    for version in (4, 6):
        of_version = rows[rows[:, 0] == version]
        spread = np.linspace(0, len(of_version) - 1, min(RARE_NETWORKS, len(of_version))).astype(np.int64)
        kept.append(of_version[np.lexsort(of_version.T[::-1])][spread])
    both = np.concatenate(kept)
    return both[:, :17], both[:, 17]
