"""Flow exports to columns: NetFlow v5, v9 and IPFIX. Sans-IO, no sockets."""

from nsstream.wire.netflow.decoder import ExportDecoder
from nsstream.wire.netflow.splitter import MessageSplitter
from nsstream.wire.netflow.statistics import ExporterStatistics

__all__ = ["ExportDecoder", "ExporterStatistics", "MessageSplitter"]
