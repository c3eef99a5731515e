"""PysharkSource: tunnels and link types made with scapy, against the fast path's columns of the packets inside."""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
import lzma
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.contrib.gtp import GTP_U_Header  # noqa: E402
from scapy.contrib.mpls import MPLS  # noqa: E402
from scapy.layers.dot11 import Dot11, Dot11Beacon, Dot11Elt, RadioTap  # noqa: E402
from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Ether  # noqa: E402
from scapy.layers.ppp import PPP, PPPoE  # noqa: E402
from scapy.layers.sctp import SCTP, SCTPChunkInit  # noqa: E402
from scapy.layers.vxlan import VXLAN  # noqa: E402
from scapy.packet import Packet, Raw  # noqa: E402
from scapy.utils import PcapWriter  # noqa: E402

from nsstream.capture import read_trace  # noqa: E402
from nsstream.capture.shark import PysharkSource  # noqa: E402
from nsstream.counters import Tally  # noqa: E402
from nsstream.errors import InputError  # noqa: E402
from nsstream.trace import PacketBatch  # noqa: E402

pytest.importorskip("pyshark")
pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")

MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
V4 = {"src": "192.0.2.1", "dst": "198.51.100.2"}
V6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}
OUTER = {"src": "203.0.113.1", "dst": "203.0.113.2"}
ETHERNET, RAW, DOT11, RADIOTAP = 1, 101, 105, 127

INNER: list[Packet] = [
    IP(**V4, ttl=9, tos=0x2E, id=5, flags="DF") / TCP(sport=40000, dport=443, flags="SEC", seq=2**32 - 1, window=64240,
                                                      options=[("MSS", 1400), ("NOP", None), ("WScale", 7)]),
    IP(**V4) / TCP(sport=40000, dport=443, flags="PA", seq=0, ack=77) / Raw(bytes(300)),
    IP(**V4) / UDP(sport=5353, dport=53) / Raw(bytes(20)),
    IP(**V4, flags="MF", id=9) / UDP(sport=5, dport=6, len=2000) / Raw(bytes(64)),
    IP(**V4, frag=8, id=9) / Raw(bytes(64)),
    IP(**V4) / ICMP(type=3, code=1) / IP(**V6 | V4) / UDP(sport=1, dport=2) / Raw(bytes(8)),
    IP(**V4, proto=50) / Raw(bytes(40)),
    IP(**V4) / SCTP(sport=7, dport=9) / SCTPChunkInit(),
    IPv6(**V6, hlim=3, tc=0xB9, fl=0x12345) / TCP(sport=22, dport=50000, flags="R"),
    IPv6(**V6) / IPv6ExtHdrHopByHop() / ICMPv6EchoRequest(data=b"abc"),
    IPv6(**V6) / IPv6ExtHdrFragment(id=0xABCDEF, offset=0, m=1, nh=17) / UDP(sport=3, dport=4) / Raw(bytes(56)),
]  # fmt: skip


def write(path: Path, packets: Sequence[Packet], link_type: int = ETHERNET) -> Path:
    with PcapWriter(str(path), linktype=link_type, nano=True) as writer:
        writer.write_header(None)
        for i, packet in enumerate(packets):
            writer.write_packet(bytes(packet), sec=1_700_000_000, usec=i + 123_456_789)
    return path


def expected(tmp_path: Path, packets: Sequence[Packet]) -> PacketBatch:
    """The fast path's columns of these IP packets."""
    return read_trace(write(tmp_path / "inner.pcap", packets, RAW))[0]


def read(path: Path, **options: Any) -> tuple[PacketBatch, Tally]:
    source = PysharkSource(path, **options)
    source.open()
    batches = []
    while (batch := source.read_batch()) is not None:
        assert len(batch) > 0
        source.tally.check()
        batches.append(batch)
    assert source.read_batch() is None
    source.close()
    source.tally.check()
    assert source.tally.kept == sum(map(len, batches))
    return PacketBatch.concatenate(batches), source.tally


def assert_same(got: PacketBatch, wanted: PacketBatch, but: Sequence[str] = ()) -> None:
    assert len(got) == len(wanted)
    for name, column in wanted.columns().items():
        if name not in but:
            np.testing.assert_array_equal(getattr(got, name), column, err_msg=name)


def gtp(inner: Packet) -> Packet:
    return Ether(**MACS) / IP(**OUTER) / UDP(sport=2152, dport=2152) / GTP_U_Header(teid=1) / inner


def vxlan(inner: Packet) -> Packet:
    inside = Ether(**MACS) / Dot1Q(vlan=42) / inner
    return Ether(**MACS) / Dot1Q(vlan=7) / IP(**OUTER) / UDP(sport=50000, dport=4789) / VXLAN(vni=5) / inside


def mpls(inner: Packet) -> Packet:
    return Ether(**MACS, type=0x8847) / MPLS(label=100, s=0, ttl=9) / MPLS(label=200, s=1, ttl=9) / inner


def pppoe(inner: Packet) -> Packet:
    return Ether(**MACS) / PPPoE(sessionid=3) / PPP(proto=0x57 if inner.version == 6 else 0x21) / inner


def gre(inner: Packet) -> Packet:
    return Ether(**MACS) / IP(**OUTER) / GRE() / inner


def dot11(inner: Packet) -> Packet:
    addresses = {f"addr{n}": f"02:00:00:00:00:0{n}" for n in (1, 2, 3)}
    snap = SNAP(code=0x86DD if inner.version == 6 else 0x0800)
    return Dot11(type=2, subtype=0, FCfield=0x01, **addresses) / LLC() / snap / inner


@pytest.mark.parametrize("tunnel", [gtp, mpls, pppoe, gre])
def test_packets_in_a_tunnel_have_the_columns_of_the_fast_path(tunnel: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "tunnel.pcap", [tunnel(packet) for packet in INNER])
    rows, tally = read(path)
    assert_same(rows, expected(tmp_path, INNER))
    assert tally.offered == tally.kept == len(INNER)


def test_packets_in_vxlan_carry_the_vlan_of_the_frame_inside(tmp_path: Path) -> None:
    path = write(tmp_path / "tunnel.pcap", [vxlan(packet) for packet in INNER])
    rows, _ = read(path)
    assert_same(rows, expected(tmp_path, INNER), but=["vlan_id"])
    assert set(rows.vlan_id.tolist()) == {42}
    outer, _ = read(path, ip_header=0)
    assert_same(outer, read_trace(path)[0])
    assert set(outer.vlan_id.tolist()) == {7}


@pytest.mark.parametrize("link_type", [DOT11, RADIOTAP])
def test_wireless_data_frames_have_the_columns_of_the_fast_path(link_type: int, tmp_path: Path) -> None:
    frames = [dot11(packet) for packet in INNER]
    if link_type == RADIOTAP:
        frames = [RadioTap() / frame for frame in frames]
    path = write(tmp_path / "wireless.pcap", frames, link_type)
    with pytest.raises(InputError, match=r"802\.11"):
        read_trace(path)
    rows, _ = read(path)
    assert_same(rows, expected(tmp_path, INNER))


def test_what_has_no_ip_is_counted_by_reason(tmp_path: Path) -> None:
    addresses = {f"addr{n}": f"02:00:00:00:00:0{n}" for n in (1, 2, 3)}
    beacon = Dot11(type=0, subtype=8, **addresses) / Dot11Beacon() / Dot11Elt(ID="SSID", info=b"net")
    secret = Dot11(type=2, subtype=0, FCfield=0x41, **addresses) / Raw(bytes(range(60)))
    rows, tally = read(write(tmp_path / "wireless.pcap", [beacon, secret, dot11(INNER[0])], DOT11))
    assert len(rows) == 1
    assert dict(tally.unsupported) == {"non_ip": 1, "encrypted": 1}

    frames = [Ether(**MACS) / ARP(), Ether(**MACS, type=0x88CC) / Raw(b"\0\0"), mpls(Raw(b"\1\2\3\4")),
              Ether(**MACS, type=0x1234) / Raw(bytes(50)), Ether(**MACS) / Raw(b"")]  # fmt: skip
    _, tally = read(write(tmp_path / "wired.pcap", [*frames, Ether(**MACS) / INNER[0]]))
    assert tally.unsupported["arp"] == 1
    assert tally.unsupported["mpls"] == 1
    assert tally.unsupported["lldp"] + tally.malformed["short_frame"] >= 1
    assert (tally.offered, tally.kept) == (6, 1)


def test_the_header_asked_for_is_the_row(tmp_path: Path) -> None:
    twice = [Ether(**MACS) / IP(**OUTER) / GRE() / IP(src="10.0.0.1", dst="10.0.0.2") / GRE() / p for p in INNER[:3]]
    path = write(tmp_path / "twice.pcap", [*twice, Ether(**MACS) / INNER[2]])
    for which, count, protocol in ((0, 4, 47), (1, 3, 47), (2, 3, 6), (-1, 4, 6), (3, 0, None)):
        rows, tally = read(path, ip_header=which)
        assert len(rows) == count, which
        assert tally.unsupported["no_such_header"] == 4 - count
        assert protocol is None or rows.protocol_identifier[0] == protocol


def test_fast_path_and_pyshark_agree_on_what_both_read(tmp_path: Path) -> None:
    frames = [Ether(**MACS) / packet for packet in INNER]
    frames += [Ether(**MACS) / Dot1Q(vlan=5, prio=3) / packet for packet in INNER]
    frames += [Ether(**MACS) / Dot1AD(vlan=6) / Dot1Q(vlan=5) / packet for packet in INNER]
    path = write(tmp_path / "ethernet.pcap", frames)
    rows, tally = read(path, ip_header=0)
    wanted, wanted_tally = read_trace(path)
    assert_same(rows, wanted)
    assert tally == wanted_tally


@pytest.mark.parametrize("snaplen", [None, 60])
def test_fast_path_and_pyshark_agree_on_our_own_capture(snaplen: int | None, tmp_path: Path) -> None:
    packed = importlib.resources.files("nsstream_daemon").joinpath("data/lab.pcap.xz").read_bytes()
    whole, path = tmp_path / "lab.pcap", tmp_path / "first.pcap"
    whole.write_bytes(lzma.decompress(packed))
    cut = [] if snaplen is None else ["-s", str(snaplen)]
    subprocess.run(["editcap", "-r", *cut, str(whole), str(path), "1-800"], check=True, capture_output=True)
    rows, tally = read(path)
    wanted, wanted_tally = read_trace(path)
    assert_same(rows, wanted)
    assert tally == wanted_tally
    assert len(rows) > 400


def test_decode_as_and_preferences_reach_tshark(tmp_path: Path) -> None:
    path = write(tmp_path / "other.pcap", [
        Ether(**MACS) / IP(**OUTER) / UDP(sport=9, dport=4444) / VXLAN(vni=5) / Ether(**MACS) / INNER[0]
    ])  # fmt: skip
    assert read(path)[0].protocol_identifier.tolist() == [17]
    assert read(path, decode_as={"udp.port==4444": "vxlan"})[0].protocol_identifier.tolist() == [6]
    with pytest.raises(InputError, match="unknown preference"):
        read(path, preferences={"no.such": "TRUE"})


def test_compressed_and_foreign_formats_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "wired.pcap", [Ether(**MACS) / packet for packet in INNER])
    snoop = tmp_path / "wired.snoop"
    subprocess.run(["editcap", "-F", "snoop", str(path), str(snoop)], check=True, capture_output=True)
    assert_same(read(snoop)[0], read_trace(path)[0], but=["observation_time_ns"])  # snoop has microseconds


def test_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    path = write(tmp_path / "wired.pcap", [Ether(**MACS) / INNER[0]])

    async def read_inside() -> int:
        return len(read(path)[0])

    assert asyncio.run(read_inside()) == 1


def test_capture_cut_in_its_last_record(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.pcap", [gtp(packet) for packet in INNER])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=f"ends in the middle of a record, after {len(INNER) - 1} whole ones"):
        read(path)
    rows, tally = read(path, allow_cut=True)
    assert len(rows) == len(INNER) - 1
    assert dict(tally.malformed) == {"cut_record": 1}


@pytest.mark.parametrize(
    ("octets", "complaint"),
    [
        (b"\1\2\3\4 is no magic of any capture", "tshark ended with status 2: "),
        (b"\xd4\xc3\xb2\xa1\2\0\4", "ends in the middle of a record, after 0 whole ones"),
    ],
)
def test_file_that_tshark_does_not_read_is_refused(octets: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "no.pcap"
    path.write_bytes(octets)
    with pytest.raises(InputError, match=rf"no\.pcap: {complaint}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        PysharkSource(tmp_path / "none.pcap").open()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        PysharkSource(tmp_path).open()


@pytest.fixture
def false_tshark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in tshark's place, to say what no tshark should."""
    path = tmp_path / "bin" / "tshark"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def test_output_that_cannot_be_parsed_is_counted_and_the_next_packet_follows(
    tmp_path: Path, false_tshark: Path
) -> None:
    capture = write(tmp_path / "wired.pcap", [Ether(**MACS) / INNER[0]])
    real = shutil.which("tshark", path=os.environ["PATH"].partition(":")[2])
    assert real is not None
    good = subprocess.run([real, "-n", "-T", "pdml", "-r", str(capture)], check=True, capture_output=True).stdout
    packet = good[good.index(b"<packet>") : good.index(b"</packet>") + 9]
    bad = [b"<packet></packet>", b"<packet><proto name='ip'", b"<packet>&bad;\xff\x01</packet>",
           packet.replace(b"show=", b"x="),
           packet.replace(b'pos="14"', b'pos="q"'), packet.replace(b"</packet>", b"<proto/></packet>")]  # fmt: skip
    (tmp_path / "out").write_bytes(packet + b"".join(one + b"</packet>\n" for one in bad) + packet)
    false_tshark.write_text(f"#!/bin/sh\ncat {tmp_path / 'out'}\n")
    rows, tally = read(capture)
    assert len(rows) >= 2
    assert tally.malformed["tshark_output"] >= 4
    assert tally.offered == tally.kept + tally.malformed.total() + tally.unsupported.total()


def test_tshark_that_says_nothing_is_ended(tmp_path: Path, false_tshark: Path) -> None:
    pid = tmp_path / "pid"
    false_tshark.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 1000\n")
    source = PysharkSource(write(tmp_path / "a.pcap", [gtp(INNER[0])]), silence_s=0.5)
    source.open()
    with pytest.raises(InputError, match=r"said nothing for 0\.5 s"):
        source.read_batch()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_tshark_that_dies_is_told(tmp_path: Path, false_tshark: Path) -> None:
    false_tshark.write_text("#!/bin/sh\nprintf '<packet><proto'\nkill -SEGV $$\n")
    with pytest.raises(InputError, match="was ended by SIGSEGV"):
        read(write(tmp_path / "a.pcap", [gtp(INNER[0])]))


def test_closing_in_the_middle_ends_tshark(tmp_path: Path) -> None:
    source = PysharkSource(write(tmp_path / "a.pcap", [gtp(INNER[0])] * 3000))
    source.open()
    assert len(source.read_batch() or []) > 0
    assert source._tool is not None
    pid = source._tool._child.pid
    source.close()
    source.close()
    source.tally.check()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_reading_before_opening_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="before open"):
        PysharkSource(tmp_path).read_batch()
