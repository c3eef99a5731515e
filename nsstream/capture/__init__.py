"""Sources: where packets and flows come from. Each yields columns and keeps a `Tally`.

`open_source` finds any of them by name. What only some need (tables with pyarrow, pyshark, sockets) stays in its own
module and is imported from there, so that a capture process pays for nothing else.
"""

from nsstream.capture.metered import MeteredSource
from nsstream.capture.pcap_file import PcapFileSource, read_trace
from nsstream.capture.registry import open_source, source_names
from nsstream.capture.source import Source

__all__ = ["MeteredSource", "PcapFileSource", "Source", "open_source", "read_trace", "source_names"]
