"""The BPF machine beside tcpdump's: the same frames, the same filters, the same ones pass."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import nsstream_daemon
import numpy as np
import pytest

from nsstream.capture.bpf import compile_filter
from nsstream.errors import InputError
from nsstream.wire.filter_machine import accepted, check_program
from nsstream.wire.frame_stream import FrameReader

LAB = Path(nsstream_daemon.__file__).parent / "data" / "lab.pcap.xz"
EXPRESSIONS = """
tcp | udp port 53 | tcp port 443 or tcp port 80 | not ip | ip6 | arp | icmp or icmp6 | vlan | len > 1000 | less 64
net 10.20.0.0/16 and not broadcast | tcp[tcpflags] & 3 != 0 | ip[8] > 63 | ether[0] & 1 = 1 | host 10.20.1.11
tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420 | ip[2:2] % 7 = 3 | ip[2:2] / 3 > 100 | portrange 1-1023 | len <= 90
(ip[2:2] - ((ip[0] & 0xf) << 2)) > 500 | ip and ip[6:2] & 0x1fff = 0 | ip[0:4] ^ 7 > 9 | -ip[0] = 0
tcp and ip[2:2] * 3 - 7 >= 4000 and not port 22 | vlan and tcp port 80
"""


@pytest.fixture(scope="module", params=[262_144, 40], ids=["whole", "cut"])
def capture(request, tmp_path_factory):
    """The first frames of the lab, and the same cut so short that many a filter looks beyond the end."""
    whole = tmp_path_factory.mktemp("filter") / "whole.pcap"
    whole.write_bytes(lzma.decompress(LAB.read_bytes())[:6_000_000])
    path = whole.with_name("frames.pcap")
    cut = ["editcap", "-F", "nsecpcap", "-s", str(request.param), "-r", whole, path, "1-4000"]
    subprocess.run(cut, check=False, capture_output=True)
    reader = FrameReader()
    columns = reader.feed(path.read_bytes())
    return path, columns


@pytest.mark.skipif(not shutil.which("tcpdump"), reason="needs tcpdump")
def test_what_passes_is_what_tcpdump_lets_pass(capture):
    path, columns = capture
    lengths = columns["captured_length"].astype(np.int64)
    offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    times = columns["observation_time_ns"]
    some = 0
    for expression in EXPRESSIONS.strip().replace(" | ", "\n").splitlines():
        program = compile_filter(expression, 1, 262_144)
        passed = program.run_over(columns["octets"], offset, columns["original_length"].astype(np.int64))
        command = ["tcpdump", "-r", path, "--time-stamp-precision=nano", "-tt", "-n", "-w", "-", "--", expression]
        told = subprocess.run(command, capture_output=True, check=True).stdout
        theirs = FrameReader().feed(told)
        there = theirs["observation_time_ns"] if theirs is not None else times[:0]
        assert np.array_equal(times[passed], there), expression
        some += 0 < len(there) < len(times)
    assert some > 10


def test_programs_that_could_run_astray_are_refused():
    bad = (
        [],
        [(0x28, 0, 0, 12)],  # no return
        [(0x05, 0, 0, 7), (0x06, 0, 0, 1)],
        [(0x15, 0, 9, 1), (0x06, 0, 0, 1)],
        [(0x02, 0, 0, 16), (0x06, 0, 0, 1)],
        [(0xFF, 0, 0, 0), (0x06, 0, 0, 1)],
    )
    for program in bad:
        with pytest.raises(InputError, match="a filter program"):
            check_program(np.array(program, np.int64).reshape(-1, 4))


def test_arithmetic_is_of_32_bits_and_a_division_by_nothing_rejects():
    frame, offset = np.array([0xFF, 0xFF, 0xFF, 0xFE], np.uint8), np.array([0, 4])

    def result(*operations):
        program = np.array([(0x20, 0, 0, 0), *operations, (0x16, 0, 0, 0)], np.int64)
        check_program(program)
        return bool(accepted(program, frame, offset, np.array([4]))[0])

    assert not result((0x04, 0, 0, 2))  # add: 2**32 is 0
    assert result((0x04, 0, 0, 3))
    assert not result((0x04, 0, 0, 2), (0x84, 0, 0, 0))  # and so is its negative
    assert not result((0x34, 0, 0, 0))
    assert not result((0x94, 0, 0, 0))
    assert not result((0x64, 0, 0, 40))  # shifted out
    assert not result((0x74, 0, 0, 40))
    assert result((0xA4, 0, 0, 1))
    assert not result((0x07, 0, 0, 0), (0xAC, 0, 0, 0))  # xor with itself
    assert result((0x02, 0, 0, 15), (0x00, 0, 0, 0), (0x60, 0, 0, 15))
    assert result((0x00, 0, 0, 0), (0x81, 0, 0, 0), (0x87, 0, 0, 0))  # the length is 4
    assert not result((0x30, 0, 0, 4))  # beyond the end
