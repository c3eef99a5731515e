"""NtopDecoder: ntop's messages to flows, and what became of every record and message.

Malformed: ``not_ntop`` (no two frames, or no header that is known), ``bad_json``, ``bad_tlv``, ``bad_zlib`` and
``too_large`` (a payload, each as 1 whatever it held), and the reasons of `flow_rows`. Not supported: ``other_topic``
(a message that holds no flows). Messages that were published and never came, as their numbers tell, are ``dropped`` as
``socket``, each as 1. A publisher that starts its numbers anew has lost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from nsstream.capture.flow_mapping import TableMapping
from nsstream.capture.table_header import TableHeader
from nsstream.capture.table_rows import TableRows
from nsstream.errors import WireError
from nsstream.trace import FlowTable
from nsstream.trace.fields import ICMP, ICMPV6
from nsstream.wire import ntop_elements as ie
from nsstream.wire.ntop_message import Record, parse_header, parse_records

MAX_SOURCES: Final = 1024

_MOST_ROWS: Final = 1 << 14  # that wait as objects, before they become columns; a message more than that
_RESTART: Final = 1 << 31  # a number so far behind, modulo 2**32, is a publisher's new start
_MAPPING: Final = TableMapping.model_validate(
    {
        "name": "ntop",
        "layout": "json",
        "missing": ("", "-", "0.0.0.0", "::"),
        "start": {"column": "start", "unit": "s"},
        "end": {"column": "end", "unit": "s"},
        "source_address": {"column": "source"},
        "destination_address": {"column": "destination"},
        "protocol": "protocol",
        "source_port": "source_port",
        "destination_port": "destination_port",
        "packets": "packets",
        "octets": "octets",
        "reverse_packets": "reverse_packets",
        "reverse_octets": "reverse_octets",
        "tcp_flags": {"column": "tcp_flags"},
        "exporter": {"column": "exporter"},
        "numbers": {
            "ip_class_of_service": "class_of_service",
            "ingress_interface": "ingress",
            "egress_interface": "egress",
            "bgp_source_as_number": "source_as",
            "bgp_destination_as_number": "destination_as",
            "vlan_id": "vlan",
        },
    }
)
_PLAIN: Final = {
    "protocol": ie.PROTOCOL,
    "source_port": ie.L4_SRC_PORT,
    "packets": ie.IN_PKTS,
    "octets": ie.IN_BYTES,
    "reverse_packets": ie.OUT_PKTS,
    "reverse_octets": ie.OUT_BYTES,
    "tcp_flags": ie.TCP_FLAGS,
    "class_of_service": ie.SRC_TOS,
    "ingress": ie.INPUT_SNMP,
    "egress": ie.OUTPUT_SNMP,
    "source_as": ie.SRC_AS,
    "destination_as": ie.DST_AS,
    "vlan": ie.SRC_VLAN,
}
_NUMBERS: Final = {str(number): number for number in ie.NUMBER_OF_NAME.values()} | ie.NUMBER_OF_NAME


class NtopDecoder:
    """Decodes the messages of any number of publishers."""

    def __init__(self) -> None:
        self._rows = TableRows()
        self._rows.begin(TableHeader(_MAPPING, (), b""))
        self.tally = self._rows.tally
        self._last_id: dict[int, int] = {}  # of each source id, in the order of their last messages

    def decode(self, messages: Sequence[Sequence[bytes]]) -> FlowTable:
        """The flows of messages, each of so many frames."""
        tables: list[FlowTable] = []
        rows: list[dict[str, Any]] = []
        for number, frames in enumerate(messages, 1):
            rows += [_row_of(_by_number(record)) for record in self._records(frames)]
            if len(rows) >= _MOST_ROWS or number == len(messages):
                table = self._rows.flows_of(rows)
                tables += [] if table is None else [table]
                rows = []
        return FlowTable.concatenate(tables)

    def _records(self, frames: Sequence[bytes]) -> list[Record]:
        try:
            if len(frames) != 2:
                raise WireError(f"a message of ntop has two frames, got {len(frames)}")
            header = parse_header(frames[0])
        except WireError:
            self._rows.refuse("not_ntop")
            return []
        if header.message_id is not None:
            self._count_lost(header.source_id, header.message_id)
        if not header.is_of_flows:
            self.tally.offered += 1
            self.tally.unsupported["other_topic"] += 1
            return []
        records, reason = parse_records(header, frames[1])
        if reason:
            self._rows.refuse(reason)
        return records

    def _count_lost(self, source_id: int, message_id: int) -> None:
        last = self._last_id.pop(source_id, None)
        self._last_id[source_id] = message_id
        if len(self._last_id) > MAX_SOURCES:
            del self._last_id[next(iter(self._last_id))]
        if last is not None and message_id > last and message_id - last < _RESTART:
            self.tally.drop("socket", message_id - last - 1)


def _by_number(record: Record) -> Record:
    """A record by the numbers of the elements that we know."""
    return {number: value for key, value in record.items() if (number := _NUMBERS.get(str(key))) is not None}


def _row_of(record: Record) -> dict[str, Any]:
    row = {name: record.get(number) for name, number in _PLAIN.items()}
    is_v6 = _is_told(record.get(ie.IPV6_SRC_ADDR)) and str(record.get(ie.IP_PROTOCOL_VERSION, 6)) == "6"
    ends = (ie.IPV6_SRC_ADDR, ie.IPV6_DST_ADDR) if is_v6 else (ie.IPV4_SRC_ADDR, ie.IPV4_DST_ADDR)
    row["source"], row["destination"] = (_address(record.get(number)) for number in ends)
    exporter = record.get(ie.EXPORTER_IPV4_ADDRESS)
    row["exporter"] = _address(exporter if _is_told(exporter) else record.get(ie.EXPORTER_IPV6_ADDRESS))
    row["start"] = _seconds(record, ie.FLOW_START_MILLISECONDS, ie.FIRST_SWITCHED)
    row["end"] = _seconds(record, ie.FLOW_END_MILLISECONDS, ie.LAST_SWITCHED)
    is_icmp = str(row["protocol"]) in (str(ICMP), str(ICMPV6)) and ie.ICMP_TYPE in record
    row["destination_port"] = record.get(ie.ICMP_TYPE if is_icmp else ie.L4_DST_PORT)
    return row


def _is_told(address: object) -> bool:
    return address not in (None, "", 0, "0.0.0.0", "::")


def _address(value: object) -> object:
    """An address in text, of IPv4 perhaps as a number."""
    if type(value) is int and 0 < value < 1 << 32:
        return ".".join(map(str, value.to_bytes(4, "big")))
    return value if _is_told(value) else None


def _seconds(record: Record, milliseconds: int, seconds: int) -> object:
    """A time, of the element that has milliseconds where that is told."""
    value = record.get(milliseconds)
    text = str(value) if type(value) in (int, str) else ""
    if text.isascii() and text.isdecimal() and int(text[:20]) > 0:
        return f"{text[:-3] or '0'}.{text[-3:].zfill(3)}"
    return record.get(seconds)
