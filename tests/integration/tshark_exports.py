"""tshark's reading of exports: each record's fields, as it dissects them, in the terms of our columns."""

from __future__ import annotations

import calendar
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MS = 10**6
S = 10**9


@dataclass(frozen=True)
class Datagram:
    payload: bytes
    exporter: bytes  # 16 octets
    time_ns: int
    flows: list[dict[str, object]]  # what tshark made of it


def read_by_tshark(capture: Path, port: str = "1-65535") -> list[Datagram]:
    """Every datagram of NetFlow or IPFIX, with those of its records that count packets between addresses."""
    done = subprocess.run(
        ["tshark", "-n", "-r", str(capture), "-d", f"udp.port=={port},cflow", "-Y", "cflow", "-T", "pdml"],
        capture_output=True,
        check=True,
        timeout=300,
    )
    return [datagram_of(packet) for packet in ET.fromstring(done.stdout).iter("packet")]


def datagram_of(packet: ET.Element) -> Datagram:
    fields = {f.get("name"): f for f in packet.iter("field")}
    address = fields["ip.src"] if "ip.src" in fields else fields["ipv6.src"]
    exporter = bytes.fromhex(address.get("value", ""))
    time_s, _, fraction = fields["frame.time_epoch"].get("show", "").partition(".")
    return Datagram(
        payload=bytes.fromhex(fields["udp.payload"].get("value", "")),
        exporter=exporter.rjust(16, b"\0") if len(exporter) == 16 else bytes(10) + b"\xff\xff" + exporter,
        time_ns=int(time_s) * S + int(fraction.ljust(9, "0")),
        flows=list(flows_of(packet)),
    )


def flows_of(packet: ET.Element) -> Iterator[dict[str, object]]:
    for message in packet.iter("proto"):
        if message.get("name") != "cflow":
            continue
        header = {f.get("name"): f for f in message}
        seconds = next(f for f in message.iter("field") if f.get("name") in ("cflow.unix_secs", "cflow.exporttime"))
        export_ns = int(seconds.get("value", ""), 16) * S
        fraction = next((f for f in message.iter("field") if f.get("name") == "cflow.unix_nsecs"), None)
        export_ns += 0 if fraction is None else int(fraction.get("value", ""), 16)
        started_ns = None
        if "cflow.sysuptime" in header:
            started_ns = export_ns - int(header["cflow.sysuptime"].get("value", ""), 16) * MS
        for field in message.iter("field"):
            if field.get("name") == "" and re.match(r"(pdu|Flow) \d+", field.get("show", "")):
                flow = flow_of(field, started_ns)
                if flow is not None:
                    yield flow


def flow_of(record: ET.Element, started_ns: int | None) -> dict[str, object] | None:
    """The fields of one record that we have columns for; None where it is no flow."""
    found: dict[str, ET.Element] = {}
    for field in record.iter("field"):
        found.setdefault(field.get("name", ""), field)  # the first of a name counts
    numbers = {n: int(f.get("value", ""), 16) for n, f in found.items() if len(f.get("value", "x")) in range(2, 17, 2)
               and re.fullmatch("[0-9a-f]+", f.get("value", ""))}  # fmt: skip
    origin = "cflow." if "cflow.packets" in found else "cflow.permanent_"  # delta, or total
    packets = numbers.get(origin + "packets", 0)
    if not packets or not {"cflow.srcaddr", "cflow.srcaddrv6", "cflow.dstaddr", "cflow.dstaddrv6"} & found.keys():
        return None
    is_ipv6 = "cflow.srcaddrv6" in found
    if is_ipv6 and "cflow.srcaddr" in found:  # by the version, or the first that is not zero
        addresses = [n for n in ("cflow.srcaddr", "cflow.srcaddrv6") if int(found[n].get("value", ""), 16)]
        first = min(addresses, key=list(found).index, default="")
        is_ipv6 = numbers.get("cflow.ip_version", 6 if first.endswith("v6") else 4) == 6
    six = "v6" if is_ipv6 else ""
    flow: dict[str, object] = {
        "ip_version": 6 if is_ipv6 else 4,
        "source_address": address_of(found.get("cflow.srcaddr" + six)),
        "destination_address": address_of(found.get("cflow.dstaddr" + six)),
        "packet_delta_count": packets,
        "octet_delta_count": numbers.get(origin + "octets", 0),
    }
    for column, name in (
        ("protocol_identifier", "cflow.protocol"),
        ("source_transport_port", "cflow.srcport"),
        ("destination_transport_port", "cflow.dstport"),
        ("ip_class_of_service", "cflow.tos"),
        ("ingress_interface", "cflow.inputint"),
        ("egress_interface", "cflow.outputint"),
        ("bgp_source_as_number", "cflow.srcas"),
        ("bgp_destination_as_number", "cflow.dstas"),
        ("source_prefix_length", "cflow.srcmask" + six),
        ("destination_prefix_length", "cflow.dstmask" + six),
    ):
        flow[column] = numbers.get(name, 0)
    flow["tcp_control_bits"] = numbers.get("cflow.tcpflags", 0) & 0x0FFF
    for column, names in (("flow_start_ns", ("start", "min")), ("flow_end_ns", ("end", "max"))):
        absolute = found.get(f"cflow.abstime{names[0]}")
        relative = found.get(f"cflow.time{names[0]}")
        if absolute is not None:
            flow[column] = time_of(absolute.get("show", ""))
        elif relative is not None and started_ns is not None:
            flow[column] = started_ns + int(relative.get("value", ""), 16) * MS
    return flow


def address_of(field: ET.Element | None) -> bytes:
    octets = bytes(4) if field is None else bytes.fromhex(field.get("value", ""))
    return octets if len(octets) == 16 else bytes(10) + b"\xff\xff" + octets


def time_of(text: str) -> int:
    """Nanoseconds since the Unix epoch of tshark's ``Aug  8, 2017 10:07:05.951298588 UTC``."""
    found = re.match(r"(\w+) +(\d+), (\d+) (\d+):(\d+):(\d+)\.(\d+) UTC", text)
    assert found, text
    month, day, year, hour, minute, second, fraction = found.groups()
    clock = (int(year), MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
    return calendar.timegm(clock) * S + int(fraction.ljust(9, "0"))
