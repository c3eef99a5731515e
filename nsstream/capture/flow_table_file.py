"""FlowTableWriter: flow records as a text table, in the columns and the forms of the table that was read.

What a mapping names is written where it names it, in the order of the header that was read. Of other columns those
are written that follow from the record (`duration`, and `Flows`, which is 1); the rest is left out of the header, or 0
where a preset has no header line. A table that cannot be written in its own form (JSON, Zeek's history, Argus's states
and totals) is written in that of the preset ``plain``; a record of both directions is then two of one direction each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from nsstream.capture.flow_fields import answering_types
from nsstream.capture.flow_mapping import AddressColumn, LabelColumn, TableMapping
from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.protocol_names import NUMBER_OF_NAME
from nsstream.trace.fields import ICMP, ICMPV6
from nsstream.trace.flows import FlowTable
from nsstream.trace.text import address_texts

PLAIN: Final = "plain"
_NS_OF_UNIT: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_EPOCH: Final = ("plain",)  # presets whose times in text are seconds
_NUMBERED: Final = ("plain", "luflow")  # presets that write protocols as numbers
_EIGHT_FLAGS: Final = ("plain", "nfdump")
_LETTERS: Final = "CEUAPRSF"
_DERIVED: Final = ("duration", "Flows")
_NAME_OF_NUMBER: Final = {number: name.upper() for name, number in reversed(NUMBER_OF_NAME.items())}

Texts = Any  # an array of pyarrow


class FlowTableWriter:
    """Writes tables to a file that is open, the header line first.

    Args:
        file: gets octets of UTF-8.
        mapping: of the table that was read.
        header: its columns, in order.
    """

    def __init__(self, file: BinaryIO, mapping: TableMapping, header: tuple[str, ...]) -> None:
        self._file = file
        if not is_writable(mapping):
            mapping = PRESETS[PLAIN]
            header = preset_columns(mapping)
        self._mapping = mapping
        known = mapping.columns()
        whole = mapping.header is not None
        self._columns = tuple(name for name in header if whole or name in known or name in _DERIVED)
        if not whole:
            file.write((mapping.delimiter.join(map(_quoted, self._columns)) + "\n").encode())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are written."""
        return self._columns

    def write(self, table: FlowTable) -> int:
        """Write records; gives how many lines they took: two, where both directions of one need a line each."""
        if self._mapping.reverse_packets is None and table.reverse_packet_delta_count.any():
            table = one_way(table)
        made = _cells(table, self._mapping)
        zero = pa.array(np.zeros(len(table), np.int64))
        batch = pa.table([made.get(name, zero) for name in self._columns], names=list(self._columns))
        self._file.write(_lines(batch, self._mapping.delimiter))
        return len(table)


def _lines(batch: pa.Table, delimiter: str) -> bytes:
    """The lines of a table; texts in quotes only where one of them needs that."""
    for style in ("none", "needed"):
        sink = pa.BufferOutputStream()
        options = pyarrow.csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style=style)
        try:
            pyarrow.csv.write_csv(batch, sink, options)
        except pa.ArrowInvalid:
            if style == "needed":
                raise
        else:
            return bytes(sink.getvalue())
    raise AssertionError("unreachable")


def is_writable(mapping: TableMapping) -> bool:
    """Whether a table of this mapping can be written as it was."""
    forms = [part.form for part in (mapping.tcp_flags, mapping.reverse_tcp_flags) if part is not None]
    is_simple = mapping.total_packets is None and mapping.only is None and not mapping.comment
    is_bare = not mapping.link_header_octets and mapping.icmp != "columns"
    return mapping.layout == "csv" and is_simple and is_bare and set(forms) <= {"flags"}


def one_way(table: FlowTable) -> FlowTable:
    """Records of one direction: the reverse direction of a record, where it has packets, as one of its own."""
    columns = table.columns()
    rows = np.flatnonzero(table.reverse_packet_delta_count)
    back = {name: column[rows] for name, column in columns.items()}
    for one, other in _REVERSED:
        back[one], back[other] = back[other], back[one]
    ahead = np.flatnonzero(table.packet_delta_count)
    zero = {
        name: np.zeros(len(rows) + len(ahead), columns[name].dtype) for name in columns if name.startswith("reverse_")
    }
    both = {name: np.concatenate([columns[name][ahead], back[name]]) for name in columns} | zero
    order = np.argsort(both["flow_start_ns"], kind="stable")
    return FlowTable.from_columns({name: column[order] for name, column in both.items()}, table.label_names)


_REVERSED: Final = (
    ("source_address", "destination_address"),
    ("source_transport_port", "destination_transport_port"),
    ("bgp_source_as_number", "bgp_destination_as_number"),
    ("source_prefix_length", "destination_prefix_length"),
    ("ingress_interface", "egress_interface"),
    ("packet_delta_count", "reverse_packet_delta_count"),
    ("octet_delta_count", "reverse_octet_delta_count"),
    ("tcp_control_bits", "reverse_tcp_control_bits"),
)


def preset_columns(mapping: TableMapping) -> tuple[str, ...]:
    """All columns of a mapping that has no file yet, in an order of its own; those of a preset's header as they are."""
    if mapping.header is not None:
        return mapping.header
    first = [part.column for part in (mapping.start, mapping.end, mapping.duration) if part is not None]
    ends = [mapping.protocol, mapping.source_address.column, mapping.destination_address.column]
    rest = sorted(mapping.columns())
    if mapping.name == PLAIN:
        rest = ["src_port", "dst_port", "packets", "bytes", "tcp_flags", "src_as", "dst_as", "in_if", "out_if", "tos"]
        rest.append("label")
    return tuple(dict.fromkeys([*first, *ends, *rest]))


def _cells(table: FlowTable, mapping: TableMapping) -> dict[str, Texts]:
    """The cells of every column that the mapping names, and of those that follow."""
    span = table.flow_end_ns - table.flow_start_ns
    made: dict[str, Texts] = {"duration": _decimal(span, 10**9), "Flows": pa.array(np.ones(len(table), np.int64))}
    for part, time_ns in ((mapping.start, table.flow_start_ns), (mapping.end, table.flow_end_ns)):
        if part is not None:
            made[part.column] = _times(time_ns, part.unit, mapping)
    if mapping.duration is not None:
        made[mapping.duration.column] = _decimal(span, _NS_OF_UNIT[mapping.duration.unit])
    sides: tuple[tuple[AddressColumn | None, NDArray[np.uint8], NDArray[np.uint32] | None], ...] = (
        (mapping.source_address, table.source_address, table.bgp_source_as_number),
        (mapping.destination_address, table.destination_address, table.bgp_destination_as_number),
        (mapping.next_hop, table.ip_next_hop_address, None),
        (mapping.exporter, table.exporter_address, None),
    )
    for address, octets, system in sides:
        if address is not None:
            made[address.column] = _address(octets, system, address.form)
    made[mapping.protocol] = _protocols(table.protocol_identifier, mapping)
    made |= _ports(table, mapping)
    counts = (
        (mapping.packets, table.packet_delta_count), (mapping.octets, table.octet_delta_count),
        (mapping.reverse_packets, table.reverse_packet_delta_count),
        (mapping.reverse_octets, table.reverse_octet_delta_count),
    )  # fmt: skip
    made |= {name: pa.array(column) for name, column in counts if name is not None}
    for flags, bits in (
        (mapping.tcp_flags, table.tcp_control_bits), (mapping.reverse_tcp_flags, table.reverse_tcp_control_bits)
    ):  # fmt: skip
        if flags is not None:
            made[flags.column] = _by_value(bits, _flags_text(8 if mapping.name in _EIGHT_FLAGS else 6))
    made |= {column: pa.array(getattr(table, name)) for name, column in mapping.numbers.items()}
    if mapping.label is not None:
        made |= _labels(table, mapping.label)
    return made


def _times(time_ns: NDArray[np.int64], unit: str, mapping: TableMapping) -> Texts:
    if unit == "digits":
        whole, rest = _padded(time_ns // 10**9, 10), _padded(time_ns % 10**9 // 1000, 6)
        return pc.binary_join_element_wise(whole, rest, "")
    if unit in _NS_OF_UNIT:
        return _decimal(time_ns, _NS_OF_UNIT[unit])
    if mapping.name in _EPOCH:
        return _decimal(time_ns, 10**9, least=3)
    resolution, ns = ("ms", 10**6) if not (time_ns % 10**6).any() else ("us", 10**3)
    kind = pa.timestamp(resolution, tz=mapping.time_zone)
    return pc.strftime(pa.array(time_ns // ns).cast(kind), format="%Y-%m-%d %H:%M:%S")


def _decimal(values: NDArray[np.int64], scale: int, least: int = 1) -> Texts:
    """Values (n,) over a power of ten, with as many digits behind the point as they need, and as are `least`."""
    if scale == 1:
        return pa.array(values)
    digits = len(str(scale)) - 1
    while digits > least and not (values % 10 ** (len(str(scale)) - digits)).any():
        digits -= 1
    part = 10 ** (len(str(scale)) - 1 - digits)
    whole = pa.array(values // scale).cast(pa.string())
    return pc.binary_join_element_wise(whole, _padded(values % scale // part, digits), ".")


def _padded(values: NDArray[np.int64], digits: int) -> Texts:
    return pc.utf8_lpad(pa.array(values).cast(pa.string()), digits, "0")


def _address(octets: NDArray[np.uint8], system: NDArray[np.uint32] | None, form: str) -> Texts:
    if form == "as_number" and system is not None:
        return pa.array(system)
    if form == "ipv4_number":
        return pa.array(np.ascontiguousarray(octets[:, 12:]).view(">u4").ravel().astype(np.int64))
    return address_texts(octets)


def _protocols(protocol: NDArray[np.uint8], mapping: TableMapping) -> Texts:
    if mapping.name in _NUMBERED:
        return pa.array(protocol)
    return _by_value(protocol, lambda number: mapping.protocol_prefix + _NAME_OF_NUMBER.get(number, str(number)))


def _ports(table: FlowTable, mapping: TableMapping) -> dict[str, Texts]:
    if mapping.source_port is None or mapping.destination_port is None:
        return {}
    is_icmp = np.isin(table.protocol_identifier, (ICMP, ICMPV6))
    kind, code = table.icmp_type_code >> 8, table.icmp_type_code & 0xFF
    source, destination = table.source_transport_port, table.destination_transport_port
    if mapping.icmp == "dotted":
        dotted = pc.binary_join_element_wise(pa.array(kind).cast(pa.string()), pa.array(code).cast(pa.string()), ".")
        there = pc.if_else(pa.array(is_icmp), dotted, pa.array(destination).cast(pa.string()))
        return {mapping.source_port: pa.array(source), mapping.destination_port: there}
    if mapping.icmp in ("ports", "zeek"):
        if mapping.icmp == "zeek":
            answer = answering_types(kind.astype(np.int64), table.protocol_identifier == ICMPV6)
            code = np.where(answer >= 0, answer, code)
        source, destination = np.where(is_icmp, kind, source), np.where(is_icmp, code, destination)
    else:
        destination = np.where(is_icmp, table.icmp_type_code, destination)
    return {mapping.source_port: pa.array(source), mapping.destination_port: pa.array(destination)}


def _labels(table: FlowTable, mapping: LabelColumn) -> dict[str, Texts]:
    """Each label's words, the first column the first of them and the last one what is left."""
    nothing = mapping.none[0] if mapping.none else ""
    names = ("", *table.label_names)
    columns: dict[str, Texts] = {}
    for at, column in enumerate(mapping.columns):
        parts = [name.split(" ", len(mapping.columns) - 1) for name in names]
        texts = [part[at] if len(part) > at and part[at] else nothing for part in parts]
        columns[column] = pa.array(texts).take(pa.array(table.label))
    return columns


def _by_value(values: NDArray[Any], text_of: Callable[[int], str]) -> Texts:
    """A text for each value (n,), made once."""
    distinct, at = np.unique(values, return_inverse=True)
    return pa.array([text_of(int(value)) for value in distinct], pa.string()).take(pa.array(at))


def _flags_text(count: int) -> Callable[[int], str]:
    letters = _LETTERS[-count:]
    return lambda bits: "".join(c if bits >> (count - 1 - i) & 1 else "." for i, c in enumerate(letters))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in ',;|\t"\n') else name
