"""ToolMessages: sums of tcpdump and dumpcap, reasons, and bounds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.capture.tool_messages import MAX_LINE_BYTES, MAX_LINES, ToolMessages
from nsstream.counters import PLACES

TCPDUMP = b"""tcpdump: listening on lo, link-type EN10MB (Ethernet), snapshot length 96 bytes
100 packets captured
200 packets received by filter
7 packets dropped by kernel
1 packet dropped by interface
"""
DUMPCAP = b"""Capturing on 'Loopback: lo' and 'eth0'
File: -
Packets: 55 \rPackets: 56 \rPackets captured: 100
Packets captured: 100
Packets received/dropped on interface 'Loopback: lo': 100/9 (pcap:4/dumpcap:3/flushed:2/ps_ifdrop:0) (91.7%)
Packets received/dropped on interface 'eth0': 0/1 (pcap:0/dumpcap:0/flushed:0/ps_ifdrop:1) (0.0%)
"""


def heard(octets: bytes) -> ToolMessages:
    messages = ToolMessages()
    messages.feed(octets)
    messages.finish()
    return messages


def test_sum_of_tcpdump_is_read() -> None:
    messages = heard(TCPDUMP)
    assert messages.captured == 100
    assert messages.dropped == {"ring": 7, "nic": 1}
    assert messages.reason == ""


def test_sum_of_dumpcap_is_read_over_its_interfaces() -> None:
    messages = heard(DUMPCAP)
    assert messages.captured == 100
    assert messages.dropped == {"ring": 4, "tool": 5, "nic": 1}
    assert messages.reason == ""


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"tcpdump: nope: No such device exists\n(No such device exists)\n", "tcpdump: nope: No such device exists"),
        (b"Capturing on 'nope'\ndumpcap: There is no device\n(No such device)\n", "dumpcap: There is no device"),
        (b"sh: 1: \x1b[31mno\x00such: not found", "sh: 1: ?[31mno?such: not found"),
    ],
)  # fmt: skip
def test_reason_is_the_first_line_that_is_no_chatter(octets: bytes, reason: str) -> None:
    assert heard(octets).reason == reason


def test_memory_is_bounded() -> None:
    messages = ToolMessages()
    for _ in range(1000):
        messages.feed(b"x" * 10_000)
        messages.feed(b"y\n" * 1000)
    assert len(messages._lines) <= MAX_LINES
    assert len(messages._rest) <= MAX_LINE_BYTES


@given(octets=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_any_octets_in_any_pieces_are_taken(octets: bytes, cuts: list[int]) -> None:
    whole = TCPDUMP + octets
    edges = [0, *sorted(cuts), len(whole)]
    messages = ToolMessages()
    for a, b in pairwise(edges):
        messages.feed(whole[a:b])
    messages.finish()
    assert messages.dropped == heard(whole).dropped
    assert set(messages.dropped) <= set(PLACES)
