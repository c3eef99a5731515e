from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import ipaddress
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from flow_tables import NFDUMP_HEADER, TABLES, ZEEK_HEADER

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.capture.flow_mapping import TableMapping, load_mapping
from nsstream.capture.flow_presets import PRESETS
from nsstream.capture.line_blocks import MAX_LINE_BYTES
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.trace.fields import ACK, FIN, PSH, RST, SYN
from nsstream.trace.flows import TimeQuality

PLAIN_HEADER = b"ts_first,duration,proto,src_ip,dst_ip,src_port,dst_port,packets,bytes,tcp_flags,label\n"
PLAIN_ROW = b"1565635847.958,1.5,6,192.0.2.1,198.51.100.2,443,41322,3,450,.A..S.,web\n"


def read(path: Path, **options: Any) -> tuple[list[FlowTable], FlowCsvSource]:
    source = FlowCsvSource(path, **options)
    batches = []
    with contextlib.closing(source):
        source.open()
        while (batch := source.read_batch()) is not None:
            assert len(batch)
            source.tally.check()
            batches.append(batch)
    source.tally.check()
    assert source.tally.kept == sum(map(len, batches))
    return batches, source


def read_text(directory: Path, text: str | bytes, **options: Any) -> tuple[FlowTable, Tally]:
    path = directory / "table"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    batches, source = read(path, **options)
    return FlowTable.concatenate(batches), source.tally


def row(flows: FlowTable, at: int) -> dict[str, Any]:
    values = {name: column[at] for name, column in flows.columns().items()}
    for name in ("source_address", "destination_address", "ip_next_hop_address", "exporter_address"):
        address = ipaddress.IPv6Address(values[name].tobytes())
        values[name] = str(address.ipv4_mapped or address)
    values["label"] = flows.label_names[values["label"] - 1] if values["label"] else None
    return values


def ends_of(one: dict[str, Any]) -> tuple[Any, ...]:
    names = ("source_address", "source_transport_port", "destination_address", "destination_transport_port")
    return (*(one[name] for name in names), one["protocol_identifier"])


def counts_of(one: dict[str, Any]) -> tuple[int, ...]:
    names = ("packet_delta_count", "octet_delta_count", "reverse_packet_delta_count", "reverse_octet_delta_count")
    return tuple(int(one[name]) for name in names)


@pytest.mark.parametrize("name", PRESETS)
def test_table_of_each_preset_is_found_by_its_header_and_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text(TABLES[name])
    found = {"preset": "ugr16"} if name == "ugr16" else {}
    batches, source = read(path, **found)
    assert source.mapping is PRESETS[name]
    assert source.tally.kept == {"westermo": 1, "binetflow": 3}.get(name, 2)
    assert source.tally.offered - source.tally.kept == source.tally.unsupported["non_ip"]
    again, _ = read(path, preset=name)
    np.testing.assert_array_equal(again[0].flow_start_ns, batches[0].flow_start_ns)


def test_nfdump_columns(tmp_path: Path) -> None:
    flows, _ = read_text(tmp_path, TABLES["nfdump"])
    first, second = row(flows, 0), row(flows, 1)
    assert ends_of(first) == ("192.0.2.1", 1025, "198.51.100.2", 443, 6)
    assert counts_of(first) == (3, 300, 2, 200)
    assert first["flow_start_ns"] == 1_767_225_601_000_000_000
    assert first["flow_end_ns"] - first["flow_start_ns"] == 1_250_000_000
    assert first["tcp_control_bits"] == ACK | PSH | SYN | FIN
    assert (first["ip_class_of_service"], first["ingress_interface"], first["egress_interface"]) == (8, 7, 9)
    assert (first["bgp_source_as_number"], first["bgp_destination_as_number"]) == (64_512, 64_513)
    assert (first["source_prefix_length"], first["destination_prefix_length"], first["vlan_id"]) == (24, 16, 42)
    assert (first["ip_next_hop_address"], first["exporter_address"]) == ("192.0.2.254", "127.0.0.1")
    assert first["flow_direction"] == 1
    assert ends_of(second) == ("2001:db8::1", 0, "2001:db8::2", 0, 58)
    assert second["icmp_type_code"] == 128 << 8
    assert second["ip_next_hop_address"] == "::"


def test_eve_columns(tmp_path: Path) -> None:
    flows, _ = read_text(tmp_path, TABLES["eve"])
    first, second = row(flows, 0), row(flows, 1)
    assert ends_of(first) == ("192.0.2.1", 57656, "198.51.100.2", 443, 6)
    assert counts_of(first) == (5, 400, 4, 300)  # less 14 octets of Ethernet a packet
    assert first["flow_start_ns"] == 1_767_225_601_250_000_000
    assert first["flow_end_ns"] - first["flow_start_ns"] == 1_500_000_000
    assert first["tcp_control_bits"] == FIN | SYN | PSH | ACK
    assert first["reverse_tcp_control_bits"] == SYN | PSH | ACK
    assert first["vlan_id"] == 42
    assert ends_of(second) == ("2001:db8::1", 0, "2001:db8::2", 0, 58)
    assert counts_of(second) == (1, 104, 1, 104)
    assert second["icmp_type_code"] == 128 << 8


def test_other_events_of_eve_are_counted_and_the_preset_is_found_behind_them(tmp_path: Path) -> None:
    flow = TABLES["eve"].splitlines()[0]
    others = [
        '{"timestamp":"2026-01-01T00:00:00.000000+0000","event_type":"stats","stats":{"uptime":8}}',
        flow.replace('"event_type":"flow"', '"event_type":"alert"'),  # which has the flow so far
        '{"event_type":["flow"],"flow":7,"src_ip":{}}',
        '{"event_type":"flow"}',
    ]
    flows, tally = read_text(tmp_path, "\n".join([others[0], flow, *others[1:], "{cut"]) + "\n")
    assert len(flows) == 1
    assert tally.unsupported == {"other_record": 2}
    assert tally.malformed == {"bad_protocol": 2, "bad_json": 1}


def test_octets_without_link_headers_are_no_less_than_those_of_ip_headers(tmp_path: Path) -> None:
    flow = TABLES["eve"].splitlines()[0]
    for octets, left in ((150, 100), (90, 90), (10**17, 10**17 - 5 * 14), (0, 0)):
        flows, _ = read_text(tmp_path, flow.replace('"bytes_toserver":470', f'"bytes_toserver":{octets}') + "\n")
        assert flows.octet_delta_count[0] == left


def test_nfdump_short_columns(tmp_path: Path) -> None:
    flows, _ = read_text(tmp_path, TABLES["nfdump_short"])
    first, second = row(flows, 0), row(flows, 1)
    assert ends_of(first) == ("192.0.2.1", 1025, "198.51.100.2", 443, 6)
    assert counts_of(first) == (3, 300, 0, 0)
    assert first["flow_start_ns"] == 1_767_225_601_123_000_000
    assert second["icmp_type_code"] == 128 << 8


def test_nfdump_table_of_another_release_may_lack_columns_or_have_more(tmp_path: Path) -> None:
    header, line = (
        "ts,td,pr,sa,da,sp,dp,ipkt,ibyt,eth",
        "2026-01-01 00:00:01,1.5,UDP,192.0.2.1,198.51.100.2,1025,53,1,60,8",
    )
    flows, _ = read_text(tmp_path, f"{header}\n{line}\n")
    assert flows.flow_end_ns[0] - flows.flow_start_ns[0] == 1_500_000_000


def test_nfdump_duration_that_is_nonsense_gives_way_to_the_end(tmp_path: Path) -> None:
    line = TABLES["nfdump"].splitlines()[1].replace("1.250", "18446744073709552.000").replace("00:00:03", "00:00:00")
    flows, _ = read_text(tmp_path, NFDUMP_HEADER + line + "\n")
    assert flows.time_quality[0] == TimeQuality.CLAMPED
    assert flows.flow_end_ns[0] == flows.flow_start_ns[0]


def test_cidds_names_become_placeholders_that_are_the_same_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text(TABLES["cidds"])
    (flows,), source = read(path)
    first, second = row(flows, 0), row(flows, 1)
    assert ends_of(first) == ("192.168.100.5", 445, "240.39.90.40", 58844, 6)  # 10074 = 39 * 256 + 90
    assert second["source_address"] == "255.157.209.157"
    assert second["icmp_type_code"] == 8 << 8
    assert counts_of(second) == (2, 2_100_000, 0, 0)
    assert (first["label"], second["label"]) == ("normal", "attacker pingScan")
    assert source.placeholder_count == 2


def test_netshare_numbers_become_addresses_and_microseconds_times(tmp_path: Path) -> None:
    flows, _ = read_text(tmp_path, TABLES["netshare"])
    first = row(flows, 0)
    assert ends_of(first) == ("192.0.2.1", 1025, "198.51.100.2", 53, 17)
    assert first["flow_start_ns"] == 1_458_298_072_364_000_000
    assert first["flow_end_ns"] - first["flow_start_ns"] == 305_636_000


def test_ugr16_times_are_ends_and_madrids(tmp_path: Path) -> None:
    flows, _ = read_text(tmp_path, TABLES["ugr16"], preset="ugr16")
    first, second = row(flows, 0), row(flows, 1)
    assert first["flow_end_ns"] == 1_458_294_470_000_000_000  # 09:47:50 UTC
    assert first["flow_end_ns"] - first["flow_start_ns"] == 1_500_000_000
    assert second["flow_end_ns"] == 1_469_695_670_000_000_000  # 08:47:50 UTC, summer
    assert first["tcp_control_bits"] == ACK  # of UDP, as exported
    assert second["tcp_control_bits"] == ACK | PSH | RST | SYN | FIN
    elsewhere, _ = read_text(tmp_path, TABLES["ugr16"], preset="ugr16", time_zone="UTC")
    assert elsewhere.flow_end_ns[0] - first["flow_end_ns"] == 3_600_000_000_000


@pytest.mark.parametrize("name", ["zeek", "zeek_json"])
def test_zeek_history_and_both_directions(name: str, tmp_path: Path) -> None:
    flows, _ = read_text(tmp_path, TABLES[name])
    first, second = row(flows, 0), row(flows, 1)
    assert ends_of(first) == ("192.0.2.1", 1025, "198.51.100.2", 443, 6)
    assert counts_of(first) == (5, 400, 4, 300)
    assert first["flow_start_ns"] == 1_655_071_209_953_394_000
    assert first["flow_end_ns"] - first["flow_start_ns"] == 2000
    assert first["tcp_control_bits"] == SYN | ACK | FIN
    assert first["reverse_tcp_control_bits"] == SYN | ACK | FIN
    assert ends_of(second) == ("2001:db8::1", 0, "2001:db8::2", 0, 58)
    assert second["icmp_type_code"] == 128 << 8
    assert second["flow_start_ns"] == second["flow_end_ns"] == 1_655_071_210_000_000_000


def test_binetflow_totals_are_shared_out_and_stay_whole(tmp_path: Path) -> None:
    flows, tally = read_text(tmp_path, TABLES["binetflow"])
    first, second, third = (row(flows, at) for at in range(3))
    assert counts_of(first) == (6, 413, 6, 462)
    assert counts_of(second) == (7, 700, 0, 0)
    assert (second["tcp_control_bits"], second["reverse_tcp_control_bits"]) == (FIN | SYN | PSH | ACK, SYN | RST | ACK)
    assert first["tcp_control_bits"] == 0
    assert third["icmp_type_code"] == 8 << 8
    assert second["label"] == "flow=From-Botnet"
    assert first["flow_start_ns"] == 1_312_969_613_047_277_000
    assert tally.unsupported == {"non_ip": 1}


def test_luflow_times_without_trailing_zeros_and_as_numbers(tmp_path: Path) -> None:
    flows, _ = read_text(tmp_path, TABLES["luflow"])
    first, second = row(flows, 0), row(flows, 1)
    assert first["flow_start_ns"] == 1_594_168_228_968_770_000
    assert second["flow_start_ns"] == 1_594_168_230_100_000_000
    assert counts_of(first) == (7, 270, 6, 191)
    assert (first["bgp_source_as_number"], first["bgp_destination_as_number"]) == (47_331, 786)
    assert (first["source_address"], first["destination_address"]) == ("240.0.184.227", "240.0.3.18")


def test_plain_icmp_in_the_destination_port(tmp_path: Path) -> None:
    flows, _ = read_text(tmp_path, TABLES["plain"])
    assert row(flows, 1)["icmp_type_code"] == 3 << 8 | 13
    assert row(flows, 0)["tcp_control_bits"] == ACK | SYN


@pytest.mark.parametrize("kind", ["gz", "xz", "zst", "zip", "dos", "mark", "no last end", "quoted"])
def test_compressed_and_oddly_written_tables(kind: str, tmp_path: Path) -> None:
    octets = PLAIN_HEADER + PLAIN_ROW * 3
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("table.csv", octets)
    odd = {
        "gz": gzip.compress(octets),
        "xz": lzma.compress(octets),
        "zst": zstandard.compress(octets),
        "zip": archive.getvalue(),
        "dos": octets.replace(b"\n", b"\r\n"),
        "mark": b"\xef\xbb\xbf" + octets,
        "no last end": octets[:-1],
        "quoted": octets.replace(b"web", b'"web"').replace(b"bytes", b'"bytes"'),
    }
    flows, tally = read_text(tmp_path, odd[kind])
    assert len(flows) == tally.offered == 3
    assert flows.label_names == ("web",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (PLAIN_ROW.replace(b"1565635847.958", b"yesterday"), "bad_time"),
        (PLAIN_ROW.replace(b"1565635847.958", b"-5"), "bad_time"),
        (PLAIN_ROW.replace(b"1565635847.958", b"99999999999999"), "bad_time"),
        (PLAIN_ROW.replace(b",1.5,", b",9223372036,"), "bad_time"),
        (PLAIN_ROW.replace(b",6,", b",300,"), "bad_protocol"),
        (PLAIN_ROW.replace(b",6,", b",tcpp,"), "bad_protocol"),
        (PLAIN_ROW.replace(b"192.0.2.1", b"192.0.2.256"), "bad_address"),
        (PLAIN_ROW.replace(b"192.0.2.1", b"2001:db8::1"), "bad_address"),
        (PLAIN_ROW.replace(b"443", b"65536"), "bad_port"),
        (PLAIN_ROW.replace(b",3,", b",3.5,"), "bad_count"),
        (PLAIN_ROW.replace(b"450", b"-450"), "bad_count"),
        (PLAIN_ROW.replace(b"450", b"99999999999999999999999999"), "bad_count"),
        (PLAIN_ROW.replace(b",3,", b",0,"), "no_packets"),
        (PLAIN_ROW.replace(b".A..S.", b".A.!S."), "bad_flags"),
        (PLAIN_ROW.replace(b"192", b"1\x0092"), "bad_address"),
        (PLAIN_ROW.replace(b",web", b""), "wrong_columns"),
        (PLAIN_ROW.replace(b"web", b"web,more"), "wrong_columns"),
        (b"\xff\xfe\x00\n", "wrong_columns"),
        (b'"\n', "wrong_columns"),
        (b'x"y,"z\n', "wrong_columns"),
        (PLAIN_ROW.replace(b"web", b"x" * MAX_LINE_BYTES), "long_line"),
        (b"x" * (3 << 20) + b"\n", "long_line"),
    ],
)
def test_line_that_is_no_flow_is_counted_and_takes_no_other_with_it(line: bytes, reason: str, tmp_path: Path) -> None:
    flows, tally = read_text(tmp_path, PLAIN_HEADER + PLAIN_ROW + line + PLAIN_ROW)
    assert len(flows) == 2
    assert tally.malformed == {reason: 1}


def test_arp_and_its_like_are_not_supported(tmp_path: Path) -> None:
    lines = [PLAIN_ROW.replace(b",6,", one) for one in (b",ARP,", b",lldp,", b",unknown_transport,")]
    _, tally = read_text(tmp_path, PLAIN_HEADER + b"".join(lines))
    assert tally.unsupported == {"non_ip": 2, "unknown_protocol": 1}


def test_flags_as_numbers_and_labels_in_a_wrong_encoding(tmp_path: Path) -> None:
    lines = [PLAIN_ROW.replace(b".A..S.", flags) for flags in (b"0x1b", b"18", b"", b"18.0")]
    flows, _ = read_text(tmp_path, PLAIN_HEADER + b"".join(lines) + PLAIN_ROW.replace(b"web", b"caf\xe9"))
    assert list(flows.tcp_control_bits) == [0x1B, 18, 0, 18, ACK | SYN]
    assert flows.label_names == ("web", "caf�")


def test_label_codes_are_the_same_in_all_batches(tmp_path: Path) -> None:
    path = tmp_path / "table"
    names = [b"a", b"b", b"c", b"a", b"", b"d", b"b"]
    lines = [PLAIN_ROW.replace(b"web", name) for name in names for _ in range(20)]
    path.write_bytes(PLAIN_HEADER + b"".join(lines))
    batches, _ = read(path, block_bytes=256)
    assert len(batches) > 20
    codes = np.concatenate([batch.label for batch in batches])
    np.testing.assert_array_equal(codes, np.repeat([1, 2, 3, 1, 0, 4, 2], 20))
    assert batches[-1].label_names == ("a", "b", "c", "d")


def test_countless_labels_end_in_one(tmp_path: Path) -> None:
    lines = [PLAIN_ROW.replace(b"web", b"label%d" % k) for k in range(5000)]
    flows, _ = read_text(tmp_path, PLAIN_HEADER + b"".join(lines))
    assert len(flows.label_names) == 4096
    assert flows.label_names[-1] == "(other labels)"
    assert (flows.label == 4096).sum() == 905


def test_lines_are_the_same_whatever_the_block(tmp_path: Path) -> None:
    path = tmp_path / "table"
    junk = [b"\n", b"\r\n", b'a,"b\n', b"x" * 70_000 + b"\n", PLAIN_ROW.replace(b"web", b'"a ""b"""')]
    path.write_bytes(PLAIN_HEADER + b"".join(PLAIN_ROW + line for line in junk * 5) + b"y" * 66_000)
    tallies = []
    for block_bytes in (64, 1000, 65_536, 1 << 20):
        batches, source = read(path, block_bytes=block_bytes)
        tallies.append(source.tally.as_dict())
        assert sum(map(len, batches)) == 30
    assert all(tally == tallies[0] for tally in tallies)
    assert tallies[0]["malformed"] == {"long_line": 6, "wrong_columns": 5}


def test_mapping_from_toml(tmp_path: Path) -> None:
    toml = tmp_path / "mine.toml"
    toml.write_text(
        """
        name = "mine"
        delimiter = ";"
        time_zone = "Europe/Berlin"
        protocol = "proto"
        source_port = "sport"
        packets = "pkts"
        octets = "bytes"
        [start]
        column = "first"
        [end]
        column = "last"
        [source_address]
        column = "src"
        [destination_address]
        column = "dst"
        [numbers]
        sampling_interval = "rate"
        """
    )
    text = "first;last;src;dst;sport;proto;pkts;bytes;rate\n"
    text += "2026-07-01 02:00:00;2026-07-01 02:00:01;::1;::2;53;udp;2;99;1000\n"
    flows, _ = read_text(tmp_path, text, mapping=load_mapping(toml))
    assert flows.flow_start_ns[0] == 1_782_864_000_000_000_000  # midnight UTC
    assert flows.flow_end_ns[0] - flows.flow_start_ns[0] == 1_000_000_000
    assert flows.scaled_packet_count[0] == 2000
    assert flows.ip_version[0] == 6


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("delimiter = 7", "delimiter"),
        ("colour = 'red'", "colour"),
        ("time_zone = 'Mars'", "no such time zone"),
        ("total_packets = 'p'", "either packets or total_packets"),
        ("[numbers]\nspeed = 'x'", "no such number field: speed"),
        ("[start]\ncolumn = 'a'\nunit = 'h'", "start.unit"),
        ("= 1", "not TOML"),
    ],
)
def test_mapping_that_cannot_be_is_refused_by_name(change: str, complaint: str, tmp_path: Path) -> None:
    toml = tmp_path / "mine.toml"
    start = "" if "[start]" in change else "[start]\ncolumn = 'a'\n"
    addresses = "[source_address]\ncolumn = 's'\n[destination_address]\ncolumn = 'd'\n"
    base = f"name = 'x'\nprotocol = 'p'\npackets = 'n'\n{change}\n{start}{addresses}"
    toml.write_text(base)
    with pytest.raises(InputError, match=complaint) as caught:
        load_mapping(toml)
    assert str(toml) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_preset_is_asked_for_where_the_header_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no preset has just these columns: a, b; name one of nfdump, nfdump_short"):
        read_text(tmp_path, "a,b\n1,2\n")
    with pytest.raises(InputError, match="no such preset: 'netflow'; there are nfdump"):
        FlowCsvSource(tmp_path, preset="netflow")
    with pytest.raises(InputError, match="lacks the columns bytes of the mapping 'plain'"):
        read_text(tmp_path, PLAIN_HEADER.replace(b"bytes", b"octets") + PLAIN_ROW, preset="plain")


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"", "empty"),
        (b"\n\r\n\n", "empty"),
        (b"x" * 200_000, "too long"),
        ("ts,te\n".encode("utf-16"), "UTF-16"),
        (b"# only\n# comments\n", "no header line"),
        (gzip.compress(PLAIN_HEADER, mtime=0)[:12], "cannot be read"),
        (b"PK\x03\x04 and no more", "zip archive that cannot be read"),
        (bz2.compress(PLAIN_HEADER)[:-1], "cannot be read|cut"),
        (b"{not json\n", "no preset"),
    ],
)
def test_file_that_is_no_table_is_refused_in_one_sentence(octets: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        read_text(tmp_path, octets)
    assert "\n" not in str(caught.value)


def test_zip_of_two_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", PLAIN_HEADER)
        file.writestr("b", PLAIN_HEADER)
    with pytest.raises(InputError, match="zip archive of 2 files: unpack it"):
        read(path)


def test_cut_compression_is_refused_or_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "table"
    lines = [PLAIN_ROW.replace(b"web", b"%d" % (k * 7919 % 1000)) for k in range(50_000)]
    path.write_bytes(gzip.compress(PLAIN_HEADER + b"".join(lines))[:-1000])
    with pytest.raises(InputError, match="compression is cut"):
        read(path)
    batches, source = read(path, allow_cut=True)
    assert 40_000 < sum(map(len, batches)) < 50_000
    assert source.tally.malformed["cut_record"] == 1


def test_zeek_log_that_changes_its_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="columns change in the middle"):
        read_text(tmp_path, TABLES["zeek"] + "#fields\tts\tuid\n")
    flows, _ = read_text(tmp_path, TABLES["zeek"] + TABLES["zeek"])
    assert len(flows) == 4


def test_json_lines_that_are_none_are_counted(tmp_path: Path) -> None:
    lines = ["[" * 30_000, "7", "{", '{"ts":[1]}', '{"ts": NaN}', '{"ts":1,"proto":"tcp"}', "nul\0"]
    flows, tally = read_text(tmp_path, TABLES["zeek_json"] + "\n".join(lines) + "\n")
    assert len(flows) == 2
    assert tally.malformed["bad_json"] == 4
    assert tally.offered == 9


def test_zeek_row_without_packets_is_counted(tmp_path: Path) -> None:
    line = TABLES["zeek"].splitlines()[-3].replace("\t5\t400\t4\t300\t", "\t0\t0\t0\t0\t")
    flows, tally = read_text(tmp_path, ZEEK_HEADER + line + "\n")
    assert len(flows) == 0
    assert tally.malformed == {"no_packets": 1}


def test_every_preset_is_a_mapping_of_its_name() -> None:
    assert all(isinstance(preset, TableMapping) and preset.name == name for name, preset in PRESETS.items())
    assert set(PRESETS) == set(TABLES)
