"""The tables that are known by their columns: `PRESETS`, and `detect_preset` for a header line. See docs/tables.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from nsstream.capture.flow_mapping import TableMapping, load_mapping
from nsstream.errors import InputError

_ZEEK: Final[dict[str, Any]] = {
    "delimiter": "\t",
    "comment": "#",
    "missing": ("", "-", "(empty)"),
    "start": {"column": "ts", "unit": "iso"},
    "duration": {"column": "duration", "unit": "s"},
    "source_address": {"column": "id.orig_h"},
    "destination_address": {"column": "id.resp_h"},
    "protocol": "proto",
    "source_port": "id.orig_p",
    "destination_port": "id.resp_p",
    "icmp": "zeek",
    "packets": "orig_pkts",
    "octets": "orig_ip_bytes",
    "reverse_packets": "resp_pkts",
    "reverse_octets": "resp_ip_bytes",
    "tcp_flags": {"column": "history", "form": "zeek_history"},
    "numbers": {"vlan_id": "vlan"},
    "label": {"columns": ("label", "detailedlabel")},
    "optional": ("duration", "history", "vlan", "label", "detailedlabel"),
}

_ARGUS: Final[dict[str, Any]] = {
    "start": {"column": "StartTime", "unit": "iso"},
    "duration": {"column": "Dur", "unit": "s"},
    "source_address": {"column": "SrcAddr"},
    "destination_address": {"column": "DstAddr"},
    "protocol": "Proto",
    "source_port": "Sport",
    "destination_port": "Dport",
    "icmp": "argus",
    "tcp_flags": {"column": "State", "form": "argus_state"},
    "numbers": {"ip_class_of_service": "sTos"},
    "label": {"columns": ("Label",)},
}

_ALL: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": "nfdump",
        "description": "`nfdump -o csv` of nfdump 1.6, and of 1.7 up to 1.7.4",
        "footer": "Summary",
        "start": {"column": "ts", "unit": "iso"},
        "end": {"column": "te", "unit": "iso"},
        "duration": {"column": "td", "unit": "s"},
        "source_address": {"column": "sa"},
        "destination_address": {"column": "da"},
        "protocol": "pr",
        "source_port": "sp",
        "destination_port": "dp",
        "packets": "ipkt",
        "octets": "ibyt",
        "reverse_packets": "opkt",
        "reverse_octets": "obyt",
        "tcp_flags": {"column": "flg"},
        "next_hop": {"column": "nh"},
        "exporter": {"column": "ra"},
        "numbers": {
            "ip_class_of_service": "stos",
            "ingress_interface": "in",
            "egress_interface": "out",
            "bgp_source_as_number": "sas",
            "bgp_destination_as_number": "das",
            "source_prefix_length": "smk",
            "destination_prefix_length": "dmk",
            "vlan_id": "svln",
            "flow_direction": "dir",
        },
        "optional": (
            *("te", "opkt", "obyt", "flg", "nh", "ra", "stos", "in", "out"),
            *("sas", "das", "smk", "dmk", "svln", "dir"),
        ),
    },
    {
        "name": "nfdump_short",
        "description": "`nfdump -o csv` of nfdump 1.7.5 and later, which prints ten columns",
        "start": {"column": "firstSeen", "unit": "iso"},
        "duration": {"column": "duration", "unit": "s"},
        "source_address": {"column": "srcAddr"},
        "destination_address": {"column": "dstAddr"},
        "protocol": "proto",
        "source_port": "srcPort",
        "destination_port": "dstPort",
        "icmp": "dotted",
        "packets": "packets",
        "octets": "bytes",
    },
    {
        "name": "cidds",
        "description": "CIDDS-001 and CIDDS-002, and nfdump's long format with commas",
        "start": {"column": "Date first seen", "unit": "iso"},
        "duration": {"column": "Duration", "unit": "s"},
        "source_address": {"column": "Src IP Addr", "form": "address_or_name"},
        "destination_address": {"column": "Dst IP Addr", "form": "address_or_name"},
        "protocol": "Proto",
        "source_port": "Src Pt",
        "destination_port": "Dst Pt",
        "icmp": "dotted",
        "packets": "Packets",
        "octets": "Bytes",
        "tcp_flags": {"column": "Flags"},
        "numbers": {"ip_class_of_service": "Tos"},
        "label": {"columns": ("class", "attackType"), "none": ("---",)},
        "missing": ("", "-", "---"),
        "optional": ("Tos", "class", "attackType"),
    },
    {
        "name": "netshare",
        "description": "NetShare's flow tables: microseconds, IPv4 addresses as numbers",
        "start": {"column": "ts", "unit": "us"},
        "duration": {"column": "td", "unit": "s"},
        "source_address": {"column": "srcip", "form": "ipv4_number"},
        "destination_address": {"column": "dstip", "form": "ipv4_number"},
        "protocol": "proto",
        "source_port": "srcport",
        "destination_port": "dstport",
        "packets": "pkt",
        "octets": "byt",
        "label": {"columns": ("type",)},
        "optional": ("type", "label"),
    },
    {
        "name": "ugr16",
        "description": "UGR'16 as it is published: no header line, each flow under the time of its end",
        "header": ("te", "td", "sa", "da", "sp", "dp", "pr", "flg", "fwd", "stos", "pkt", "byt", "label"),
        "end": {"column": "te", "unit": "iso"},
        "duration": {"column": "td", "unit": "s"},
        "time_zone": "Europe/Madrid",
        "source_address": {"column": "sa"},
        "destination_address": {"column": "da"},
        "protocol": "pr",
        "source_port": "sp",
        "destination_port": "dp",
        "packets": "pkt",
        "octets": "byt",
        "tcp_flags": {"column": "flg"},
        "numbers": {"ip_class_of_service": "stos"},
        "label": {"columns": ("label",)},
    },
    _ZEEK | {"name": "zeek", "description": "Zeek's conn.log"},
    _ZEEK
    | {
        "name": "zeek_json",
        "description": "Zeek's conn.log as JSON, an object a line",
        "layout": "json",
        # Zeek leaves out of an object what it would write as "-".
        "optional": (*_ZEEK["optional"], "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes"),
    },
    {
        "name": "eve",
        "description": "flow events of Suricata's eve.json",
        "layout": "json",
        "only": {"column": "event_type", "texts": ("flow",)},
        "start": {"column": "flow.start", "unit": "iso"},
        "end": {"column": "flow.end", "unit": "iso"},
        "source_address": {"column": "src_ip"},
        "destination_address": {"column": "dest_ip"},
        "protocol": "proto",
        "source_port": "src_port",
        "destination_port": "dest_port",
        "icmp": "columns",
        "icmp_type": "icmp_type",
        "icmp_code": "icmp_code",
        "packets": "flow.pkts_toserver",
        "octets": "flow.bytes_toserver",
        "reverse_packets": "flow.pkts_toclient",
        "reverse_octets": "flow.bytes_toclient",
        "link_header_octets": 14,  # Suricata counts whole frames, and does not say of which link
        "tcp_flags": {"column": "tcp.tcp_flags_ts", "form": "hexadecimal"},
        "reverse_tcp_flags": {"column": "tcp.tcp_flags_tc", "form": "hexadecimal"},
        "numbers": {"vlan_id": "vlan"},
        "optional": (
            *("src_port", "dest_port", "icmp_type", "icmp_code"),
            *("tcp.tcp_flags_ts", "tcp.tcp_flags_tc", "vlan"),
        ),
    },
    _ARGUS
    | {
        "name": "binetflow",
        "description": "Argus as CTU-13 publishes it: totals of both directions",
        "total_packets": "TotPkts",
        "total_octets": "TotBytes",
        "octets": "SrcBytes",
        "optional": ("sTos", "Label"),
    },
    _ARGUS
    | {
        "name": "argus",
        "description": "`ra -c ,` of Argus with counts of each direction",
        "packets": "SrcPkts",
        "octets": "SrcBytes",
        "reverse_packets": "DstPkts",
        "reverse_octets": "DstBytes",
        "optional": ("sTos", "Label", "State"),
    },
    {
        "name": "luflow",
        "description": "LUFlow: AS numbers in the place of addresses",
        "start": {"column": "time_start", "unit": "digits"},
        "end": {"column": "time_end", "unit": "digits"},
        "source_address": {"column": "src_ip", "form": "as_number"},
        "destination_address": {"column": "dest_ip", "form": "as_number"},
        "protocol": "proto",
        "source_port": "src_port",
        "destination_port": "dest_port",
        "packets": "num_pkts_in",
        "octets": "bytes_in",
        "reverse_packets": "num_pkts_out",
        "reverse_octets": "bytes_out",
        "label": {"columns": ("label",)},
    },
    {
        "name": "westermo",
        "description": "Westermo's network traffic data set, basic flows",
        "start": {"column": "start", "unit": "s"},
        "end": {"column": "end", "unit": "s"},
        "source_address": {"column": "sIPs"},
        "destination_address": {"column": "rIPs"},
        "protocol": "protocol",
        "protocol_prefix": "IPV4-",
        "packets": "sPackets",
        "octets": "sBytesSum",
        "reverse_packets": "rPackets",
        "reverse_octets": "rBytesSum",
        "label": {"columns": ("NST_M_Label",)},
        "optional": ("NST_M_Label",),
    },
    {
        "name": "plain",
        "description": "ts_first, duration, proto, src_ip, dst_ip, src_port, dst_port, packets, bytes, and more",
        "start": {"column": "ts_first", "unit": "iso"},
        "duration": {"column": "duration", "unit": "s"},
        "source_address": {"column": "src_ip"},
        "destination_address": {"column": "dst_ip"},
        "protocol": "proto",
        "source_port": "src_port",
        "destination_port": "dst_port",
        "icmp": "dotted",
        "packets": "packets",
        "octets": "bytes",
        "tcp_flags": {"column": "tcp_flags"},
        "numbers": {
            "bgp_source_as_number": "src_as",
            "bgp_destination_as_number": "dst_as",
            "ingress_interface": "in_if",
            "egress_interface": "out_if",
            "ip_class_of_service": "tos",
        },
        "label": {"columns": ("label",)},
        "optional": ("tcp_flags", "src_as", "dst_as", "in_if", "out_if", "tos", "label"),
    },
)

PRESETS: Final[Mapping[str, TableMapping]] = {p["name"]: TableMapping.model_validate(p) for p in _ALL}


def chosen_mapping(preset: str | None, mapping: TableMapping | Path | str | None) -> TableMapping | None:
    """The mapping that a source was asked for: a preset's, one given, or that of a file; None where it was not.

    Raises ValueError where both are asked for, InputError where there is no such preset, or the file is no mapping.
    """
    if preset is not None and mapping is not None:
        raise ValueError("a preset or a mapping, not both")
    if preset is not None and preset not in PRESETS:
        raise InputError(f"no such preset: {preset!r}; there are {', '.join(PRESETS)}")
    if preset is not None:
        return PRESETS[preset]
    return load_mapping(mapping) if isinstance(mapping, Path | str) else mapping


def detect_preset(header: Sequence[str], layout: str = "csv") -> TableMapping | None:
    """The preset whose columns a header line has, None where there is none or more than one."""
    columns = set(header)
    found = [
        preset
        for preset in PRESETS.values()
        if preset.header is None and preset.layout == layout and preset.required_columns() <= columns
    ]
    return found[0] if len(found) == 1 else None
