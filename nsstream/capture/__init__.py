"""Sources: where packets and flows come from. Each yields columns and keeps a `Tally`."""

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.flow_mapping import TableMapping, load_mapping
from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.metered import MeteredSource
from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.capture.pcap_file import PcapFileSource, read_trace
from nsstream.capture.registry import open_source, source_names
from nsstream.capture.source import Source

__all__ = [
    "PRESETS",
    "FlowCsvSource",
    "MeteredSource",
    "NfcapdFileSource",
    "PcapFileSource",
    "Source",
    "TableMapping",
    "load_mapping",
    "open_source",
    "read_trace",
    "source_names",
]
