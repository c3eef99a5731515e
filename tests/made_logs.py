"""Lines of eve.json and of Zeek's conn.log, as their tools write them, for flows that are told apart by a number."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from flow_tables import ZEEK_HEADER

START_S = 1_767_225_600  # 2026-01-01


def eve_line(number: int) -> bytes:
    """A flow event of Suricata 7: one packet and its answer, a millisecond after the one before; 100 octets of IP."""
    at = datetime.fromtimestamp(START_S, UTC).strftime("%Y-%m-%dT%H:%M:")
    time = f"{at}{number // 1000 % 60:02d}.{number % 1000:03d}000+0000"
    event = {
        "timestamp": time,
        "flow_id": 10**15 + number,
        "in_iface": "eth0",
        "event_type": "flow",
        "src_ip": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        "src_port": 40000,
        "dest_ip": "198.51.100.2",
        "dest_port": 53,
        "proto": "UDP",
        "app_proto": "dns",
        "flow": {
            "pkts_toserver": 1,
            "pkts_toclient": 1,
            "bytes_toserver": 114,
            "bytes_toclient": 114,
            "start": time,
            "end": time,
            "age": 0,
            "state": "established",
            "reason": "timeout",
            "alerted": False,
        },
    }
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def eve_stats() -> bytes:
    """An event that is no flow."""
    return b'{"timestamp":"2026-01-01T00:00:00.000000+0000","event_type":"stats","stats":{"flow":{"tcp":1}}}\n'


def zeek_header() -> bytes:
    """What a conn.log begins with."""
    return ZEEK_HEADER.encode()


def zeek_line(number: int) -> bytes:
    """A row of conn.log, for the same flow."""
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return (
        f"{START_S + number // 1000}.{number % 1000:03d}000\tC{number}\t{address}\t40000\t198.51.100.2\t53\tudp\tdns\t"
        "0.000000\t72\t72\tSF\tF\tF\t0\tDd\t1\t100\t1\t100\t-\n"
    ).encode()


def numbers_of(addresses: object) -> list[int]:
    """Which flows rows are, by their source addresses."""
    return [int.from_bytes(bytes(address)[13:16], "big") for address in addresses]  # type: ignore[attr-defined]
