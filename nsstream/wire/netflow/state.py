"""The numbers that are kept of each exporter and domain, as rows of one table, so that the loops can write them."""

from __future__ import annotations

from typing import Final

EXPECTED: Final = 0  # the next sequence number, or UNKNOWN
LOST: Final = 1  # units of the sequence number: records in v5 and IPFIX, datagrams in v9
RESETS: Final = 2  # of the sequence number
UPTIME_MS: Final = 3  # of the newest message, or UNKNOWN
DATAGRAMS: Final = 4
RECORDS: Final = 5
LAST_SEEN_NS: Final = 6  # time of receipt
STARTED_MS: Final = 7  # guess of when the exporter's system started, or UNKNOWN
SAMPLING: Final = 8  # of the newest v5 header; 0: not told
STATE_FACT_COUNT: Final = 9

UNKNOWN: Final = -(1 << 62)
