"""Codec: what one chunk's tokens mean. Fitted on the chunk, kept with the checkpoint, JSON and nothing else.

It holds the vocabularies and the bins' inner shapes, the volume of the chunk (how many conversations start in each of
its slices, how many packets it has) and, of hosts too rare for a slot, only prefixes. Hosts are stored as the address
map left them: a codec never holds a real unicast address.

A codec fitted with a parent keeps the parent's slots, so that the parent's weights stay meaningful.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.bins import Bins
from nsstream.encode.clocks import gaps_of, measure_clocks
from nsstream.encode.endings import Endings
from nsstream.encode.gap_shapes import GapShapes
from nsstream.encode.makeup import MAKEUP, fit_makeup
from nsstream.encode.pace import Pace
from nsstream.encode.profiles import Profiles
from nsstream.encode.schema import (
    ATTRIBUTES,
    BLOCK_PORTS,
    HOST_SLOTS,
    KIND_SLOTS,
    LENGTH_GRID,
    PACKET_GAP_GRID,
    PORT_BLOCKS,
    PORT_SLOTS,
    RARE_IPV4,
    RARE_IPV6,
    RARE_PORT,
    SERVICE_SLOTS,
    SIZE_GRID,
    SIZE_SLOTS,
    SLICES,
    START_GAP_GRID,
)
from nsstream.encode.tokens import moment_of
from nsstream.encode.urns import Urns
from nsstream.encode.vocabulary import Vocabulary
from nsstream.encode.waits import WAITS, fit_waits
from nsstream.trace.conversations import ConversationTable
from nsstream.trace.fields import ICMP, ICMPV6, TCP

RARE_PREFIXES: Final = 1024  # how many rare hosts leave their prefix in a codec
VOCABULARIES: Final = ("host", "service", "port", "ttl", "marking", "kind", "size")


@dataclass(frozen=True)
class Codec:
    """The meaning of tokens.

    Attributes:
        start_ns, end_ns: the chunk's interval.
        first_ns, last_ns: times of its first packet and its last; slices are equal parts of what lies between.
        profile: (SLICES,) conversations that start in each slice.
        urns: how often conversations say one thing given another.
        packet_count: packets of the chunk.
        host, service, port, ttl, marking, kind, size: vocabularies.
        start_gap, packet_gap, own_gap, length, octets: bins.
        own_clock: (KIND_SLOTS,) packet kinds whose gap is that since their own side's last packet (`own_gap`).
        gap_shapes: what gaps each kind shows, and how they lie inside their bins.
        port_blocks: (PORT_BLOCKS,) initiator ports without a slot, by block.
        taken_ports: (k,) initiator ports without a slot that the chunk shows; a twin's initiators use others.
        talks_to_itself: whether an address is both ends of a conversation, as on a loopback interface.
        endings: how TCP connections end.
        pace: how soon after one packet the next comes, of any conversation.
        waits: how long each long conversation waits between its packets.
        makeup: what packets each longer conversation is made of.
        rare_prefix: (k, 17) IP version and address of rare hosts, host bits zeroed.
        rare_fresh: share of rare-host tokens that name a host not named before, of initiators and responders.
    """

    start_ns: int
    end_ns: int
    first_ns: int
    last_ns: int
    profile: NDArray[np.int64]
    urns: Urns
    packet_count: int
    host: Vocabulary
    service: Vocabulary
    port: Vocabulary
    ttl: Vocabulary
    marking: Vocabulary
    kind: Vocabulary
    size: Vocabulary
    start_gap: Bins
    packet_gap: Bins
    own_gap: Bins
    own_clock: NDArray[np.bool_]
    gap_shapes: GapShapes
    length: Bins
    octets: Bins
    port_blocks: NDArray[np.int64]
    taken_ports: NDArray[np.int64]
    talks_to_itself: bool
    endings: Endings
    pace: Pace
    waits: Profiles
    makeup: Profiles
    rare_prefix: NDArray[np.int64]
    rare_fresh: tuple[float, float]

    @property
    def slice_ns(self) -> float:
        """Length of a slice of the chunk."""
        return (self.last_ns + 1 - self.first_ns) / SLICES

    def service_classes(self) -> NDArray[np.int64]:
        """Whose lengths, and waits, the conversations of each service are counted with (SERVICE_SLOTS,): see `Urns`."""
        return _service_classes(self.service, self.urns)

    @classmethod
    def fit(
        cls,
        table: ConversationTable,
        start_ns: int,
        end_ns: int,
        parent: Self | None = None,
        *,
        is_closed: bool = False,
    ) -> Self:
        """Fit on a chunk's conversations (addresses mapped already, sorted by start).

        With a parent, what its slots hold stays there; if `is_closed`, they hold nothing else, so that weights learned
        on several chunks mean the same (`train.parallel`).
        """
        vocabulary = partial(Vocabulary.fit, is_closed=is_closed)
        first = table.observation_time_ns[table.packet_offset[:-1]]
        first_ns, last_ns = int(table.observation_time_ns.min()), int(table.observation_time_ns.max())
        held: dict[str, Vocabulary | None] = {name: getattr(parent, name, None) for name in VOCABULARIES}
        hosts = np.concatenate([host_values(table, 0), host_values(table, 1)])
        are_few = len(np.unique(hosts, axis=0)) <= HOST_SLOTS
        host = vocabulary(hosts, HOST_SLOTS, least=1 if are_few else 2, parent=held["host"])
        services = service_values(table)
        common = Vocabulary.fit(services, SERVICE_SLOTS - 32, least=2)
        services[common.tokens(services) < 0, 3] = RARE_PORT
        ports = table.initiator_port[:, None].astype(np.int64)
        is_named = (np.bincount(ports[:, 0])[ports[:, 0]] >= max(4, len(ports) // 500)) | (ports[:, 0] < 1024)
        port = vocabulary(ports[is_named], PORT_SLOTS, parent=held["port"])
        sizes = table.ip_total_length[:, None].astype(np.int64)
        within = np.ones(len(sizes), bool)
        within[table.packet_offset[:-1]] = False
        kinds = kind_values(table)
        kind = vocabulary(kinds, KIND_SLOTS, parent=held["kind"])
        said = kind.nearest(kinds, exact=2)
        since_any, since_own = gaps_of(table)
        own_clock = measure_clocks(said, since_any, since_own, KIND_SLOTS)
        if parent is not None:  # its weights know the gaps of its kinds by its clocks
            knows = [old is not None and old == new for old, new in zip(parent.kind.slots, kind.slots, strict=True)]
            own_clock = np.where(knows, parent.own_clock, own_clock)
        by_own = own_clock[said] & (since_own >= 0)
        gap_ns = np.where(by_own, since_own, since_any)
        size = vocabulary(sizes, SIZE_SLOTS, least=max(3, len(sizes) // 4000), parent=held["size"])
        service = vocabulary(services, SERVICE_SLOTS, parent=held["service"])
        where = slice_of(first, first_ns, last_ns)
        ttl = vocabulary(ttl_values(table), ATTRIBUTES["ttl"], parent=held["ttl"])
        tokens = host.tokens(hosts)
        tokens = np.where(tokens >= 0, tokens, np.where(hosts[:, 0] == 6, RARE_IPV6, RARE_IPV4))
        urns = Urns.fit(
            moment=moment_of(where),
            initiator=tokens[: len(table)],
            service=service.nearest(services, exact=3),
            responder=tokens[len(table) :],
            ttl=ttl.nearest(ttl_values(table), exact=0),
            is_silent=table.responder_ttl == 0,
            length=LENGTH_GRID.tokens(table.packet_count),
            stack=stack_of(services[:, 0], services[:, 1], services[:, 2]),
        )
        class_ = _service_classes(service, urns)[service.nearest(services, exact=3)]
        rare = np.unique(hosts[host.tokens(hosts) < 0], axis=0)
        step = max(1, len(rare) // RARE_PREFIXES)
        return cls(
            start_ns=start_ns,
            end_ns=end_ns,
            first_ns=first_ns,
            last_ns=last_ns,
            profile=np.bincount(where, minlength=SLICES),
            urns=urns,
            packet_count=len(sizes),
            host=host,
            service=service,
            port=port,
            port_blocks=np.bincount(ports[port.tokens(ports) < 0, 0] // BLOCK_PORTS, minlength=PORT_BLOCKS),
            ttl=ttl,
            marking=vocabulary(marking_values(table), ATTRIBUTES["marking"], parent=held["marking"]),
            kind=kind,
            size=size,
            start_gap=Bins.fit(START_GAP_GRID, start_gaps(first, first_ns, last_ns)),
            packet_gap=Bins.fit(PACKET_GAP_GRID, since_any[within & ~by_own]),
            own_gap=Bins.fit(PACKET_GAP_GRID, since_own[by_own]),
            own_clock=own_clock,
            gap_shapes=GapShapes.fit(
                said[within], by_own[within], PACKET_GAP_GRID.tokens(gap_ns)[within], gap_ns[within]
            ),
            length=Bins.fit(LENGTH_GRID, table.packet_count),
            octets=Bins.fit(SIZE_GRID, sizes[size.tokens(sizes) < 0, 0]),
            taken_ports=np.unique(ports[port.tokens(ports) < 0, 0]),
            talks_to_itself=bool((table.initiator_address == table.responder_address).all(axis=1).any()),
            endings=Endings.fit(table),
            pace=Pace.fit(table.observation_time_ns),
            waits=fit_waits(class_, table.packet_offset, since_any),
            makeup=fit_makeup(class_, table.packet_offset, kinds[:, 1], kinds[:, 5] > 0, sizes[:, 0]),
            rare_prefix=_prefixes(rare[::step]),
            rare_fresh=(_fresh_share(table, host, 0), _fresh_share(table, host, 1)),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "profile": self.profile.tolist(),
            "urns": self.urns.as_json(),
            "packet_count": self.packet_count,
            **{name: getattr(self, name).as_json() for name in VOCABULARIES},
            **{name: getattr(self, name).as_json() for name in _BINS},
            "own_clock": np.flatnonzero(self.own_clock).tolist(),
            "gap_shapes": self.gap_shapes.as_json(),
            "port_blocks": self.port_blocks.tolist(),
            "taken_ports": self.taken_ports.tolist(),
            "talks_to_itself": self.talks_to_itself,
            "endings": self.endings.as_json(),
            "pace": self.pace.as_json(),
            "waits": self.waits.as_json(),
            "makeup": self.makeup.as_json(),
            "rare_prefix": self.rare_prefix.tolist(),
            "rare_fresh": list(self.rare_fresh),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`; raises LookupError, TypeError or ValueError on anything else."""
        return cls(
            start_ns=int(data["start_ns"]),
            end_ns=int(data["end_ns"]),
            first_ns=int(data["first_ns"]),
            last_ns=int(data["last_ns"]),
            profile=np.array(data["profile"], np.int64),
            urns=Urns.from_json(data["urns"]),
            packet_count=int(data["packet_count"]),
            **{name: Vocabulary.from_json(data[name]) for name in VOCABULARIES},  # type: ignore[arg-type]
            **{name: Bins.from_json(grid, data[name]) for name, grid in _BINS.items()},  # type: ignore[arg-type]
            own_clock=np.isin(np.arange(KIND_SLOTS), np.array(data["own_clock"], np.int64)),
            gap_shapes=GapShapes.from_json(data["gap_shapes"]),
            port_blocks=np.array(data["port_blocks"], np.int64),
            taken_ports=_ports(data["taken_ports"]),
            talks_to_itself=bool(data["talks_to_itself"]),
            endings=Endings.from_json(data["endings"]),
            pace=Pace.from_json(data["pace"]),
            waits=Profiles.from_json(WAITS, data["waits"]),
            makeup=Profiles.from_json(MAKEUP, data["makeup"]),
            rare_prefix=np.array(data["rare_prefix"], np.int64).reshape(-1, 17),
            rare_fresh=(float(data["rare_fresh"][0]), float(data["rare_fresh"][1])),
        )


_BINS: Final = {
    "start_gap": START_GAP_GRID,
    "packet_gap": PACKET_GAP_GRID,
    "own_gap": PACKET_GAP_GRID,
    "length": LENGTH_GRID,
    "octets": SIZE_GRID,
}


def slice_of(time_ns: NDArray[np.int64], first_ns: int, last_ns: int) -> NDArray[np.int64]:
    """Slice of the chunk in which each time (n,) lies."""
    return np.clip((time_ns - first_ns) * SLICES // (last_ns + 1 - first_ns), 0, SLICES - 1)


def slice_starts(first_ns: int, last_ns: int) -> NDArray[np.int64]:
    """The first nanosecond of each slice, and the one after the last: (SLICES + 1,)."""
    return first_ns - (-np.arange(SLICES + 1) * (last_ns + 1 - first_ns)) // SLICES


def start_gaps(start_ns: NDArray[np.int64], first_ns: int, last_ns: int) -> NDArray[np.int64]:
    """Time (n,) since the previous start in the same slice, or since the slice's start; starts are sorted."""
    where = slice_of(start_ns, first_ns, last_ns)
    previous = np.concatenate([[-1], start_ns[:-1]])
    same = np.concatenate([[False], where[1:] == where[:-1]])
    return start_ns - np.where(same, previous, slice_starts(first_ns, last_ns)[where])


def host_values(table: ConversationTable, role: int) -> NDArray[np.int64]:
    """Rows (n, 17) of IP version and address octets; role 0 is the initiator."""
    address = table.responder_address if role else table.initiator_address
    return np.concatenate([table.ip_version[:, None], address], axis=1).astype(np.int64)


def service_values(table: ConversationTable) -> NDArray[np.int64]:
    """Rows (n, 4): protocol, IP version, is_fragment, responder port."""
    columns = (table.protocol_identifier, table.ip_version, table.is_fragment, table.responder_port)
    return np.stack([c.astype(np.int64) for c in columns], axis=1)


def ttl_values(table: ConversationTable) -> NDArray[np.int64]:
    """Rows (n, 3): the initiator's TTL, that of the responder's SYN, and the responder's."""
    columns = (table.initiator_ttl, table.responder_syn_ttl, table.responder_ttl)
    return np.stack(columns, axis=1).astype(np.int64)


def marking_values(table: ConversationTable) -> NDArray[np.int64]:
    """Rows (n, 3): VLAN, class of service of either direction."""
    columns = (table.vlan_id, table.initiator_class_of_service, table.responder_class_of_service)
    return np.stack([c.astype(np.int64) for c in columns], axis=1)


def stack_of(
    protocol: NDArray[np.integer], ip_version: NDArray[np.integer], is_fragment: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Which packet kinds go together (n,): twice the IP version's family by TCP, ICMP or anything else."""
    is_icmp = (protocol == ICMP) | (protocol == ICMPV6)
    layer = np.where(is_fragment > 0, 0, np.where(protocol == TCP, 1, np.where(is_icmp, 2, 0)))
    return np.where(ip_version == 6, 3, 0) + layer


def kind_values(table: ConversationTable) -> NDArray[np.int64]:
    """Rows (m, 7): stack, direction, control, IP header, TCP header, has_payload, TcpEvent."""
    stack = stack_of(table.protocol_identifier, table.ip_version, table.is_fragment)
    stack = np.repeat(stack, table.packet_count)
    header = table.ip_header_length.astype(np.int64) + table.tcp_header_length
    has_payload = (stack % 3 != 1) | (table.ip_total_length.astype(np.int64) > header)
    columns = (
        stack, table.direction, table.control, table.ip_header_length, table.tcp_header_length, has_payload,
        table.tcp_event,
    )  # fmt: skip
    return np.stack([c.astype(np.int64) for c in columns], axis=1)


def _service_classes(service: Vocabulary, urns: Urns) -> NDArray[np.int64]:
    table = service.table()
    return urns.classes(stack_of(table[:, 0], table[:, 1], table[:, 2])[:SERVICE_SLOTS])


def _prefixes(hosts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rare hosts (k, 17) without their host bits: /24 of IPv4, /64 of IPv6."""
    out = hosts[:RARE_PREFIXES].copy()
    out[out[:, 0] == 4, 16:] = 0
    out[out[:, 0] == 6, 9:] = 0
    return out


def _fresh_share(table: ConversationTable, host: Vocabulary, role: int) -> float:
    values = host_values(table, role)
    rare = values[host.tokens(values) < 0]
    return len(np.unique(rare, axis=0)) / len(rare) if len(rare) else 1.0


def _ports(data: list[int]) -> NDArray[np.int64]:
    ports = np.array(data, np.int64).reshape(-1)
    if not ((ports >= 0) & (ports < 1 << 16)).all():
        raise ValueError("taken_ports holds what is no port")
    return ports
