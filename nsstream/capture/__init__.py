"""Sources: where packets come from. Each yields `PacketBatch` columns and keeps a `Tally`."""

from nsstream.capture.metered import MeteredSource
from nsstream.capture.pcap_file import PcapFileSource, read_trace
from nsstream.capture.source import Source

__all__ = ["MeteredSource", "PcapFileSource", "Source", "read_trace"]
