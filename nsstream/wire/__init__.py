"""Octets to header fields and back: link layers, IP, transports, checksums, pcap and pcapng. Sans-IO, no sockets."""

from nsstream.wire.checksum import fold, internet_checksum, ones_complement_sum
from nsstream.wire.dissect import COLUMNS, Columns, dissect
from nsstream.wire.link import link_type_name
from nsstream.wire.pcap import pcap_header, write_records
from nsstream.wire.records import RecordIndex
from nsstream.wire.stream import PcapReader

__all__ = [
    "COLUMNS",
    "Columns",
    "PcapReader",
    "RecordIndex",
    "dissect",
    "fold",
    "internet_checksum",
    "link_type_name",
    "ones_complement_sum",
    "pcap_header",
    "write_records",
]
