"""Octets to header fields and back: link layers, IP, transports, checksums, pcap and pcapng. Sans-IO, no sockets."""
