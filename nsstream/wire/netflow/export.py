"""FlowExporter: flow records in, datagrams of NetFlow v5, v9 or IPFIX out. Sans-IO.

Rules
- A datagram is at most `max_datagram_bytes` long. Flows wait until theirs is full, or until `flush`. Flows of one
  template stay in their order; a record of both directions becomes two.
- Sequence numbers: v5 counts flows, v9 counts datagrams (RFC 3954 5.1), IPFIX counts data records, those of options
  among them (RFC 7011 3.1), each before the message.
- Templates, and what the exporter says of its sampling, come before the first flow, and again when
  `template_refresh_s` have passed or `template_refresh_packets` datagrams were made since (RFC 3954 9, RFC 7011 8.4).
- Uptime counts from `boot_ns`, a whole second, modulo 2**32 milliseconds. v9 has no room for the fraction of a second
  in its header, and collectors do not look at v5's, so the time of export is rounded up to a second: then times of
  flows are exact to the millisecond for everybody.
- What v5 cannot say (IPv6) is counted in `unsupported_count`; counts beyond 32 bits become several records.

Sources: Cisco's NetFlow v5; RFC 3954 (v9); RFC 7011, 7012 (IPFIX); RFC 5477 8 (sampling).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.directions import split_directions
from nsstream.trace.flows import FlowTable
from nsstream.wire.netflow import v5
from nsstream.wire.netflow.export_layouts import (
    ALL,
    ExportColumns,
    Layout,
    TimeUnit,
    encode_records,
    encode_v5_records,
    fit_counters,
    layout_of,
    layouts,
)

Version = Literal[5, 9, 10]

LEAST_DATAGRAM_BYTES: Final = 512
MOST_DATAGRAM_BYTES: Final = 65_507  # of UDP over IPv4
_V5_MOST_RECORDS: Final = 30
_SECOND_NS: Final = 1_000_000_000
_SET_HEADER_BYTES: Final = 4
_OPTIONS_TEMPLATE: Final = 512
_MASK: Final = 0xFFFFFFFF
_MOST_V5_INTERVAL: Final = 0x3FFF
_SYSTEMATIC: Final = 1  # v9: deterministic; IPFIX: systematic count-based

_V5_HEADER: Final = np.dtype(
    [
        ("version", ">u2"), ("count", ">u2"), ("uptime", ">u4"), ("seconds", ">u4"), ("nanoseconds", ">u4"),
        ("sequence", ">u4"), ("engine_type", "u1"), ("engine_id", "u1"), ("sampling", ">u2"),
    ]
)  # fmt: skip
_V9_HEADER: Final = np.dtype(
    [
        ("version", ">u2"), ("count", ">u2"), ("uptime", ">u4"), ("seconds", ">u4"), ("sequence", ">u4"),
        ("domain", ">u4"),
    ]
)  # fmt: skip
_IPFIX_HEADER: Final = np.dtype(
    [("version", ">u2"), ("length", ">u2"), ("seconds", ">u4"), ("sequence", ">u4"), ("domain", ">u4")]
)
_HEADERS: Final = {5: _V5_HEADER, 9: _V9_HEADER, 10: _IPFIX_HEADER}


@dataclass(frozen=True, slots=True)
class Datagrams:
    """d datagrams in order; datagram i is ``octets[offset[i]:offset[i + 1]]`` and has ``flow_count[i]`` flows."""

    octets: NDArray[np.uint8]
    offset: NDArray[np.int64]  # (d + 1,)
    flow_count: NDArray[np.int64]  # (d,); 0 of one that has templates only

    def __len__(self) -> int:
        return len(self.flow_count)

    def datagram(self, i: int) -> bytes:
        """The octets of datagram i."""
        return self.octets[self.offset[i] : self.offset[i + 1]].tobytes()

    @classmethod
    def joined(cls, parts: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> Self:
        """Of blocks of datagrams of one length, ``(d, length)``, each with its ``(d,)`` counts of flows."""
        lengths = [np.full(len(block), block.shape[1], np.int64) for block, _ in parts]
        empty = np.empty(0, np.int64)
        return cls(
            np.concatenate([np.empty(0, np.uint8), *(block.reshape(-1) for block, _ in parts)]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([empty, *lengths]))]),
            np.concatenate([empty, *(counts for _, counts in parts)]),
        )


class FlowExporter:
    """One observation domain of one exporter.

    Args:
        version: 5, 9, or 10 for IPFIX.
        boot_ns: when its system started; rounded down to a whole second.
        observation_domain_id: v9's source id; of v5 the engine's type and id, 16 bits.
        max_datagram_bytes: 512 to 65507.
        template_refresh_s: > 0.
        template_refresh_packets: datagrams, > 0.
        sampling_interval: one packet in so many was looked at; told to collectors (v5: 14 bits).
        time_unit: of IPFIX; v5 and v9 know milliseconds of uptime alone.
    """

    def __init__(
        self,
        version: Version,
        boot_ns: int,
        *,
        observation_domain_id: int = 0,
        max_datagram_bytes: int = 1400,
        template_refresh_s: float = 600.0,
        template_refresh_packets: int = 20,
        sampling_interval: int = 1,
        time_unit: TimeUnit = "milliseconds",
    ) -> None:
        if version not in _HEADERS:
            raise ValueError(f"version must be 5, 9 or 10, got {version!r}")
        if not LEAST_DATAGRAM_BYTES <= max_datagram_bytes <= MOST_DATAGRAM_BYTES:
            raise ValueError(f"max_datagram_bytes must be 512 to 65507, got {max_datagram_bytes!r}")
        if not 0 <= observation_domain_id <= (0xFFFF if version == 5 else _MASK):
            raise ValueError(f"observation_domain_id does not fit version {version}: {observation_domain_id!r}")
        if not 1 <= sampling_interval <= (_MOST_V5_INTERVAL if version == 5 else _MASK):
            raise ValueError(f"sampling_interval does not fit version {version}: {sampling_interval!r}")
        if template_refresh_s <= 0 or template_refresh_packets < 1:
            raise ValueError("templates must be refreshed after some time and some packets")
        self.version = version
        self.record_count = 0  # that were taken: given out, or waiting
        self.unsupported_count = 0  # records that the version has no way to say
        self._boot_ns = boot_ns // _SECOND_NS * _SECOND_NS
        self._domain = observation_domain_id
        self._sampling = sampling_interval
        self._refresh_ns = round(template_refresh_s * _SECOND_NS)
        self._refresh_packets = template_refresh_packets
        self._sequence = 0
        self._announced_ns: int | None = None
        self._since_announced = 0
        self._header = _HEADERS[version]
        self._layouts: tuple[Layout, ...] = () if version == 5 else layouts(version, time_unit)
        self._templates = _set(0 if version == 9 else 2, b"".join(layout.template_record() for layout in self._layouts))
        sizes = [v5.RECORD_BYTES] if version == 5 else [layout.record_bytes for layout in self._layouts]
        room = max_datagram_bytes - self._header.itemsize - (0 if version == 5 else _SET_HEADER_BYTES)
        self._per_datagram = [(room - (room % 4 if version == 9 else 0)) // size for size in sizes]
        if version == 5:
            self._per_datagram = [min(_V5_MOST_RECORDS, self._per_datagram[0])]
        self._waiting = [np.empty((0, size), np.uint8) for size in sizes]

    @property
    def waiting_count(self) -> int:
        """Flows in datagrams that are not full yet."""
        return sum(map(len, self._waiting))

    def export(self, table: FlowTable, now_ns: int) -> Datagrams:
        """Take flows; the datagrams that are full with them, as they are at `now_ns`, since the Unix epoch."""
        table = self._scaled(split_directions(table))
        if self.version == 5:
            is_ipv4 = table.ip_version == 4
            if not is_ipv4.all():
                self.unsupported_count += int((~is_ipv4).sum())
                table = table.take(is_ipv4)
            self._add(0, encode_v5_records(ExportColumns(fit_counters(table), self._boot_ns)))
        elif len(table):
            which, columns = layout_of(table), ExportColumns(table, self._boot_ns)
            for number in np.flatnonzero(np.bincount(which, minlength=len(self._layouts))).tolist():
                rows = np.flatnonzero(which == number)
                self._add(
                    number, encode_records(columns, ALL if len(rows) == len(table) else rows, self._layouts[number])
                )
        return self._give(now_ns, is_flushed=False)

    def flush(self, now_ns: int) -> Datagrams:
        """The datagrams of all flows that wait."""
        return self._give(now_ns, is_flushed=True)

    def _scaled(self, table: FlowTable) -> FlowTable:
        """Counts as this exporter's sampling would have given them, of flows that were sampled in another way."""
        if not len(table) or (table.sampling_interval == self._sampling).all():
            return table
        columns: dict[str, NDArray[Any]] = dict(table.columns())
        for name, least in (("packet_delta_count", 1), ("octet_delta_count", 0)):
            # Counts beyond 2**32 times an interval may not fit 64 bits: those stay as they are.
            scaled = columns[name].astype(np.float64) * columns["sampling_interval"] / self._sampling
            is_large = (scaled >= 2.0**63) | (columns["sampling_interval"] == self._sampling)
            columns[name] = np.where(
                is_large, columns[name], np.maximum(np.rint(np.where(is_large, 0, scaled)), least).astype(np.uint64)
            )
        return type(table).from_columns(columns, table.label_names)

    def _add(self, number: int, records: NDArray[np.uint8]) -> None:
        if len(records):
            self.record_count += len(records)
            self._waiting[number] = np.concatenate([self._waiting[number], records])

    def _give(self, now_ns: int, *, is_flushed: bool) -> Datagrams:
        parts: list[tuple[NDArray[np.uint8], NDArray[np.int64]]] = []
        for number, per in enumerate(self._per_datagram):
            records = self._waiting[number]
            full = len(records) // per * per
            if full:
                self._give_full(records[:full], number, now_ns, parts)
            rest = records[full:]
            if is_flushed and len(rest):
                self._announce_where_due(now_ns, parts)
                parts.append((self._block(rest, number, len(rest), now_ns), np.full(1, len(rest), np.int64)))
                rest = rest[:0]
            if full or len(rest) != len(records):
                self._waiting[number] = rest.copy()
        return Datagrams.joined(parts)

    def _give_full(
        self,
        records: NDArray[np.uint8],
        number: int,
        now_ns: int,
        parts: list[tuple[NDArray[np.uint8], NDArray[np.int64]]],
    ) -> None:
        per = self._per_datagram[number]
        at, count = 0, len(records) // per
        while at < count:
            self._announce_where_due(now_ns, parts)
            here = count - at
            if self.version != 5:
                here = min(here, self._refresh_packets - self._since_announced)
            parts.append(
                (self._block(records[at * per : (at + here) * per], number, per, now_ns), np.full(here, per, np.int64))
            )
            at += here

    def _block(self, records: NDArray[np.uint8], number: int, per: int, now_ns: int) -> NDArray[np.uint8]:
        """Datagrams of `per` records each, ``(d, length)``."""
        count = len(records) // per
        body = per * records.shape[1]
        header_bytes = self._header.itemsize
        if self.version == 5:
            block = np.zeros((count, header_bytes + body), np.uint8)
            block[:, header_bytes:] = records.reshape(count, body)
        else:
            padding = -body % 4 if self.version == 9 else 0
            block = np.zeros((count, header_bytes + _SET_HEADER_BYTES + body + padding), np.uint8)
            start = header_bytes + _SET_HEADER_BYTES
            set_header = struct.pack("!HH", self._layouts[number].template_id, _SET_HEADER_BYTES + body + padding)
            block[:, header_bytes:start] = np.frombuffer(set_header, np.uint8)
            block[:, start : start + body] = records.reshape(count, body)
        self._write_headers(block, per, per, now_ns)
        self._since_announced += count
        return block

    def _write_headers(self, block: NDArray[np.uint8], records: int, data_records: int, now_ns: int) -> None:
        """Fill the headers of datagrams that have `records` each, of which `data_records` are no templates."""
        count = len(block)
        header = np.zeros(count, self._header)
        header["version"] = self.version
        step = {5: data_records, 9: 1, 10: data_records}[self.version]
        header["sequence"] = (self._sequence + step * np.arange(count, dtype=np.int64)) & _MASK
        self._sequence = (self._sequence + step * count) & _MASK
        now_s = -(-now_ns // _SECOND_NS)
        header["seconds"] = now_s & _MASK
        if self.version == 10:
            header["length"] = block.shape[1]
        else:
            header["count"] = records
            header["uptime"] = (now_s - self._boot_ns // _SECOND_NS) * 1000 & _MASK
        if self.version == 5:
            header["engine_type"], header["engine_id"] = divmod(self._domain, 256)
            header["sampling"] = self._sampling | 1 << 14 if self._sampling > 1 else 0
        else:
            header["domain"] = self._domain
        block[:, : self._header.itemsize] = header.view(np.uint8).reshape(count, self._header.itemsize)

    def _announce_where_due(self, now_ns: int, parts: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> None:
        if self.version == 5:
            return
        is_known = self._announced_ns is not None and 0 <= now_ns - self._announced_ns < self._refresh_ns
        if is_known and self._since_announced < self._refresh_packets:
            return
        self._announced_ns, self._since_announced = now_ns, 0
        announce: Callable[[], tuple[bytes, int]] = self._v9_options if self.version == 9 else self._ipfix_options
        options, options_records = announce() if self._sampling > 1 else (b"", 0)
        body = self._templates + options
        block = np.zeros((1, self._header.itemsize + len(body)), np.uint8)
        block[0, self._header.itemsize :] = np.frombuffer(body, np.uint8)
        # Behind the templates of flows: a template and one record of options, or none of both.
        self._write_headers(block, len(self._layouts) + 2 * options_records, options_records, now_ns)
        parts.append((block, np.zeros(1, np.int64)))

    def _v9_options(self) -> tuple[bytes, int]:
        """The sampling of the system: SAMPLING_INTERVAL (34) and SAMPLING_ALGORITHM (35)."""
        template = struct.pack("!HHHHHHHHH", _OPTIONS_TEMPLATE, 4, 8, 1, 4, 34, 4, 35, 1)
        record = struct.pack("!IIB", self._domain, self._sampling, _SYSTEMATIC)
        return _set(1, template) + _set(_OPTIONS_TEMPLATE, record), 1

    def _ipfix_options(self) -> tuple[bytes, int]:
        """The selector of the domain, systematic count-based: RFC 5477 section 8.2, elements 302, 304 to 306."""
        elements = ((149, 4), (302, 8), (304, 2), (305, 4), (306, 4))
        template = struct.pack("!HHH", _OPTIONS_TEMPLATE, len(elements), 2)
        template += b"".join(struct.pack("!HH", *element) for element in elements)
        record = struct.pack("!IQHII", self._domain, 1, _SYSTEMATIC, 1, self._sampling - 1)
        return _set(3, template) + _set(_OPTIONS_TEMPLATE, record), 1


def _set(set_id: int, body: bytes) -> bytes:
    """A set, padded to a multiple of 4 octets."""
    body += bytes(-len(body) % 4)
    return struct.pack("!HH", set_id, _SET_HEADER_BYTES + len(body)) + body
