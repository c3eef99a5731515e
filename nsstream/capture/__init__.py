"""Sources: where packets come from. Each yields `PacketBatch` columns and keeps a `Tally`."""
