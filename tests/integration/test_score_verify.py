"""Captures written by scapy, judged by our own check and by the real tshark, which must agree."""

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, PcapWriter

from nsstream.errors import InputError
from nsstream.score import verify_alone, verify_trace
from nsstream.score.frames import frame_blocks

ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
START_S = 1_700_000_000


def _conversation(*, times_sent: int = 1, client_port: int = 40000) -> list[Packet]:
    """A handshake and a request in ten segments, each of them sent so many times."""

    def client(sequence: int, flags: str, acknowledged: int = 0) -> Packet:
        segment = TCP(sport=client_port, dport=9, seq=sequence, ack=acknowledged, flags=flags)
        return ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2") / segment

    answer = TCP(sport=9, dport=client_port, seq=500, ack=101, flags="SA")
    packets = [client(100, "S"), ETHERNET / IP(src="10.0.0.2", dst="10.0.0.1") / answer, client(101, "A", 501)]
    for i in range(10):
        packets += [client(101 + 4 * i, "PA", 501) / Raw(b"abcd")] * times_sent
    return packets


def _write(path: Path, packets: list[Packet], broken: Callable[[int, bytes], bytes] = lambda _, b: b) -> Path:
    writer = PcapWriter(str(path), nano=True, linktype=1) if path.suffix == ".pcap" else PcapNgWriter(str(path))
    with writer:
        for i, packet in enumerate(packets):
            frame = ETHERNET.__class__(broken(i, bytes(packet)))
            frame.time = START_S + i / 8
            writer.write(frame)
    return path


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return _write(tmp_path / "real.pcap", _conversation())


@pytest.mark.parametrize("name", ["twin.pcap", "twin.pcapng"])
def test_a_lawful_twin_passes_both_judges(tmp_path: Path, real: Path, name: str) -> None:
    verification = verify_trace(real, _write(tmp_path / name, _conversation(client_port=50000)))
    assert verification.complaints() == ()
    assert verification.passed
    assert verification.packet_count == 13
    assert verification.is_readable_by_capinfos
    assert verification.twin is not None
    assert verification.twin.tcp_packet_count == 13


def test_a_compressed_twin_is_unpacked_first(tmp_path: Path, real: Path) -> None:
    packed = tmp_path / "twin.pcap.gz"
    packed.write_bytes(gzip.compress(real.read_bytes()))
    assert verify_trace(packed, packed).passed


def test_both_judges_find_the_same_bad_checksum(tmp_path: Path, real: Path) -> None:
    def fifth(i: int, frame: bytes) -> bytes:
        return frame[:-1] + b"X" if i == 5 else frame

    verification = verify_trace(real, _write(tmp_path / "twin.pcap", _conversation(), fifth))
    assert verification.fault_count == {"tcp_checksum": 1}
    assert verification.twin is not None
    assert verification.twin.bad_checksum_count == {"tcp": 1}
    assert not verification.passed


def test_a_kind_of_analysis_flag_that_the_real_trace_lacks_is_too_much(tmp_path: Path, real: Path) -> None:
    verification = verify_trace(real, _write(tmp_path / "twin.pcap", _conversation(times_sent=2)))
    assert not verification.is_within("retransmission")
    assert any("retransmission" in complaint for complaint in verification.complaints())
    assert verification.fault_count == {}


def test_a_kind_that_the_real_trace_shows_as_often_is_within(tmp_path: Path) -> None:
    repeats = _write(tmp_path / "real.pcap", _conversation(times_sent=2))
    assert verify_trace(repeats, repeats).passed
    assert not verify_trace(repeats, _write(tmp_path / "twin.pcap", _conversation(times_sent=9))).passed


def test_a_malformed_packet_is_found_by_tshark(tmp_path: Path, real: Path) -> None:
    dns = ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=40000, dport=53) / Raw(b"\1\2\1\0\0\1")
    verification = verify_trace(real, _write(tmp_path / "twin.pcap", [dns]))
    assert verification.fault_count == {}
    assert "tshark: 1 malformed packets" in verification.complaints()


def test_times_that_do_not_rise_are_counted(tmp_path: Path, real: Path) -> None:
    doubled = tmp_path / "twin.pcap"
    doubled.write_bytes(real.read_bytes() + real.read_bytes()[24:])
    assert verify_trace(real, doubled).not_rising_count == 1


def test_without_tshark_our_own_check_still_judges(tmp_path: Path, real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("tshark") is None
    verification = verify_trace(real, real)
    assert verification.passed
    assert verification.twin is None
    bad = _write(tmp_path / "twin.pcap", _conversation(), lambda _, frame: frame[:-1] + b"X")
    assert verify_trace(real, bad).fault_count["tcp_checksum"] >= 10


def test_a_verification_goes_through_json(tmp_path: Path, real: Path) -> None:
    verification = verify_trace(real, _write(tmp_path / "twin.pcap", _conversation(times_sent=2)))
    assert json.loads(json.dumps(verification.as_dict()))["passed"] is False


def test_what_is_no_capture_is_said_to_be_so(tmp_path: Path, real: Path) -> None:
    text = tmp_path / "twin.pcap"
    text.write_text("no capture at all, but long enough for a header")
    with pytest.raises(InputError, match="cannot be read as a capture"):
        verify_trace(real, text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([b"", b"\x4d\x3c\xb2\xa1\2\0\4\0", b"\x0a\x0d\x0d\x0a\x1c\0\0\0"]))
def test_any_octets_are_a_capture_or_an_input_error(octets: bytes, head: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(head + octets)
        file.flush()
        try:
            blocks = [block.count for block in frame_blocks(Path(file.name))]
        except InputError:
            return
        assert sum(blocks) >= 0


def test_alone_a_twin_is_held_to_all_but_the_rates_of_the_real_trace(tmp_path: Path, real: Path) -> None:
    repeating = _write(tmp_path / "twin.pcap", _conversation(times_sent=2))
    assert any("retransmission" in told for told in verify_trace(real, repeating).complaints())
    alone = verify_alone(repeating)
    assert (alone.packet_count, alone.real, alone.complaints()) == (23, None, ())

    def spoil(number: int, octets: bytes) -> bytes:
        return octets[:50] + bytes([octets[50] ^ 1]) + octets[51:] if number == 2 else octets

    broken = verify_alone(_write(tmp_path / "broken.pcap", _conversation(), spoil))
    assert broken.fault_count == verify_trace(real, tmp_path / "broken.pcap").fault_count != {}
    assert not broken.passed
