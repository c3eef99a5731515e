"""Made-up flow records: clients that ask a name server and web servers, which answer, and a host that scans."""

from __future__ import annotations

import numpy as np

from nsstream.trace import FlowTable
from nsstream.trace.fields import FLOW_FIELDS

START_NS = 1_700_000_000 * 10**9
LABELS = ("benign", "scan")


def made_flows(seed: int = 1, count: int = 240, *, labelled: bool = True) -> FlowTable:
    """About `count` records, both directions of a conversation as two, in order of start; times are milliseconds."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        start_ns = START_NS + int(rng.integers(0, 600_000)) * 1_000_000
        client, kind = _address(10, int(rng.integers(1, 40))), int(rng.integers(0, 4))
        sport = int(rng.integers(32_768, 61_000))
        if kind == 0:
            rows += _asked(start_ns, client, _address(20, 1), sport, 53, 17, (1, 60), (1, 180), 0, 0)
        elif kind in (1, 2):
            n = int(rng.integers(3, 30))
            server = _address(30, int(rng.integers(1, 9)))
            duration_ns = int(rng.integers(1, 5_000)) * 1_000_000
            rows += _asked(start_ns, client, server, sport, 443, 6, (n, 52 * n), (2 * n, 900 * n), 0x1B, duration_ns)
        else:
            port = int(rng.integers(1, 1024))
            rows += _asked(start_ns, _address(40, 4), client, sport, port, 6, (1, 40), None, 0x02, 0, label=2)
    rows.sort(key=lambda row: int(str(row["flow_start_ns"])))
    columns = {name: np.array([row[name] for row in rows], FLOW_FIELDS[name][0]) for name in rows[0]}
    if not labelled:
        del columns["label"]
    return FlowTable.from_columns(columns, LABELS if labelled else ())


def _address(network: int, host: int) -> list[int]:
    return [*[0] * 10, 255, 255, 198, 51, network, host]


def _asked(
    start_ns: int,
    client: list[int],
    server: list[int],
    source_port: int,
    port: int,
    protocol: int,
    asked: tuple[int, int],
    answered: tuple[int, int] | None,
    flags: int,
    duration_ns: int,
    label: int = 1,
) -> list[dict[str, object]]:
    row: dict[str, object] = {
        "flow_start_ns": start_ns, "flow_end_ns": start_ns + duration_ns, "ip_version": 4, "source_address": client,
        "destination_address": server, "protocol_identifier": protocol, "source_transport_port": source_port,
        "destination_transport_port": port, "packet_delta_count": asked[0], "octet_delta_count": asked[1],
        "tcp_control_bits": flags, "label": label, "ingress_interface": 1, "egress_interface": 2,
    }  # fmt: skip
    if answered is None:
        return [row]
    back = row | {
        "flow_start_ns": start_ns + 1_000_000, "flow_end_ns": start_ns + 1_000_000 + duration_ns,
        "source_address": server, "destination_address": client, "source_transport_port": port,
        "destination_transport_port": source_port, "packet_delta_count": answered[0],
        "octet_delta_count": answered[1], "ingress_interface": 2, "egress_interface": 1,
    }  # fmt: skip
    return [row, back]
