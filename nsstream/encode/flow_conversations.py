"""FlowConversations: the records of a flow table, grouped: records of one five-tuple, either way, with one label.

A conversation has a service's side and a client's. The service is the side whose port stands in more of the table's
records; of equally frequent ones the lower port, of equal ports the address that more records name. So 443 is the
service whoever sent the first record, and so is the one port from which a scanner asks all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_schema import MOST_RECORDS
from nsstream.trace.fields import ICMP, ICMPV6
from nsstream.trace.flows import FlowTable


@dataclass(frozen=True)
class FlowConversations:
    """n conversations in order of their first record's start, m records in all.

    Attributes:
        records: the m records, those of a conversation together and in order of start.
        offset: (n + 1,) where each conversation begins.
        from_service: (m,) whether a record's source is the service's side.
        client_address, server_address: (n, 16).
        client_port, service_port: (n,); of ICMP the service's is type and code.
        client_as, server_as: (n,) autonomous systems.
    """

    records: FlowTable
    offset: NDArray[np.int64]
    from_service: NDArray[np.bool_]
    client_address: NDArray[np.uint8]
    server_address: NDArray[np.uint8]
    client_port: NDArray[np.int64]
    service_port: NDArray[np.int64]
    client_as: NDArray[np.int64]
    server_as: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offset) - 1

    @property
    def first(self) -> NDArray[np.int64]:
        """The row of each conversation's first record."""
        return self.offset[:-1]

    @property
    def record_count(self) -> NDArray[np.int64]:
        """Records of each conversation."""
        return np.diff(self.offset)

    @property
    def index(self) -> NDArray[np.int64]:
        """Each record's place in its conversation (m,)."""
        return np.arange(len(self.records)) - np.repeat(self.first, self.record_count)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the conversations (k,), rising, with all of their records."""
        count = self.record_count[rows]
        offset = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        at = np.repeat(self.offset[rows] - offset[:-1], count) + np.arange(int(offset[-1]))
        told = {
            name: getattr(self, name)[rows]
            for name in ("client_address", "server_address", "client_port", "service_port", "client_as", "server_as")
        }
        return type(self)(records=self.records.take(at), offset=offset, from_service=self.from_service[at], **told)


def group_flows(table: FlowTable) -> FlowConversations:
    """Group a flow table; a conversation of more than `MOST_RECORDS` records goes on as another one."""
    from_service = _from_service(table)
    address = np.where(from_service[:, None], table.source_address, table.destination_address)
    other = np.where(from_service[:, None], table.destination_address, table.source_address)
    source, destination = (c.astype(np.int64) for c in (table.source_transport_port, table.destination_transport_port))
    is_icmp = np.isin(table.protocol_identifier, (ICMP, ICMPV6))
    service_port = np.where(is_icmp, table.icmp_type_code, np.where(from_service, source, destination))
    client_port = np.where(is_icmp, 0, np.where(from_service, destination, source))
    numbers = np.stack(
        [table.protocol_identifier, table.ip_version, service_port, client_port, table.label], axis=1
    ).astype(np.uint32)
    key = np.concatenate([address, other, numbers.view(np.uint8).reshape(len(table), -1)], axis=1)
    _, which = np.unique(np.ascontiguousarray(key).view(f"V{key.shape[1]}").ravel(), return_inverse=True)
    rows = np.lexsort((np.arange(len(table)), table.flow_start_ns, which))
    which = which[rows]
    begin = np.flatnonzero(np.append(True, which[1:] != which[:-1])) if len(rows) else np.zeros(0, np.int64)
    place = np.arange(len(rows)) - np.repeat(begin, np.diff(np.append(begin, len(rows))))
    begin = np.flatnonzero(place % MOST_RECORDS == 0)
    count = np.diff(np.append(begin, len(rows)))
    order = np.argsort(table.flow_start_ns[rows[begin]], kind="stable")
    offset = np.concatenate([[0], np.cumsum(count[order])])
    rows = rows[np.repeat(begin[order] - offset[:-1], count[order]) + np.arange(len(rows))]
    first = rows[offset[:-1]]
    ours = from_service[first]
    systems = (
        table.bgp_source_as_number[first].astype(np.int64),
        table.bgp_destination_as_number[first].astype(np.int64),
    )
    return FlowConversations(
        records=table.take(rows),
        offset=offset,
        from_service=from_service[rows],
        client_address=other[first],
        server_address=address[first],
        client_port=client_port[first],
        service_port=service_port[first].astype(np.int64),
        client_as=np.where(ours, systems[1], systems[0]),
        server_as=np.where(ours, systems[0], systems[1]),
    )


def _from_service(table: FlowTable) -> NDArray[np.bool_]:
    """Whether each record's source is the service's side: (m,)."""
    source, destination = (c.astype(np.int64) for c in (table.source_transport_port, table.destination_transport_port))
    count = np.bincount(source, minlength=65_536) + np.bincount(destination, minlength=65_536)
    count[0] = 0
    ends = np.concatenate([table.source_address, table.destination_address])
    _, which = np.unique(np.ascontiguousarray(ends).view("V16").ravel(), return_inverse=True)
    named = np.bincount(which)[which]
    n = len(table)
    rank = [  # the last one decides first
        (which[:n] > which[n:], which[:n] == which[n:]),
        (named[:n] > named[n:], named[:n] == named[n:]),
        (source < destination, source == destination),
        (count[source] > count[destination], count[source] == count[destination]),
    ]
    out = np.zeros(n, bool)
    for is_more, is_equal in rank:
        out = np.where(is_equal, out, is_more)
    return out


def with_addresses(
    conversations: FlowConversations, client: NDArray[np.uint8], server: NDArray[np.uint8]
) -> FlowConversations:
    """The same conversations between other addresses."""
    return replace(conversations, client_address=client, server_address=server)
