"""The laws of recordings: whatever is captured, nothing beyond it is touched, and checksums follow what is changed.

The compiled loops check no index, so frames lie where memory ends: an access beyond them is a SIGSEGV.
"""

from collections import Counter

import numpy as np
import pytest
from fenced_memory import PAGE, fenced_page
from hypothesis import given, settings
from hypothesis import strategies as st
from made_streams import MINUTE_NS, START_NS, MadeDrawer, checkpoint, made_stream

from nsstream.replay.streams.captured import OTHER, WHOLE, survey
from nsstream.replay.streams.flow_memory import begin_pass, new_memory
from nsstream.replay.streams.plan import SequencePlan
from nsstream.replay.streams.refit import keep_mask, refit
from nsstream.trace.fields import ICMP, TCP, UDP
from nsstream.wire.checksum import fold, ones_complement_sum
from nsstream.wire.link import ETHERNET, LINUX_SLL, RAW

KEY = np.uint64(0x1234_5678_9ABC_DEF1)
MEMORY = new_memory()
link_types = st.sampled_from([ETHERNET, RAW, LINUX_SLL, 147])


@pytest.fixture(scope="module")
def fenced():
    return fenced_page()


def ipv4(protocol, body, flags=0):
    head = bytes([0x45, 0, *(20 + len(body)).to_bytes(2, "big"), 0, 1, *flags.to_bytes(2, "big"), 64, protocol])
    return head + bytes(2) + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + body


TCP_HEAD = bytes.fromhex("c3500050 00000001 00000002 80100100 00000000 0101050a 00000003 00000009")
UDP_HEAD = bytes.fromhex("c350003500100000") + bytes(8)
QUOTING = b"\x03\x03" + bytes(6) + ipv4(UDP, UDP_HEAD)
BODIES = [ipv4(TCP, TCP_HEAD), ipv4(UDP, UDP_HEAD), ipv4(ICMP, QUOTING), ipv4(ICMP, b"\x08\0" + bytes(10))]
BODIES += [bytes.fromhex("6000000000103a40") + bytes(32) + b"\x80\0" + bytes(14), bytes(60)]


@st.composite
def frames(draw):
    """A true frame, some octets of which may lie, and of which some may be missing."""
    link = draw(link_types)
    head = {ETHERNET: bytes(12) + b"\x08\0", RAW: b"", LINUX_SLL: bytes(14) + b"\x08\0", 147: bytes(4)}[link]
    made = bytearray(head + draw(st.sampled_from(BODIES)))
    if link == ETHERNET and made[14] >> 4 == 6:
        made[12:14] = b"\x86\xdd"
    for _ in range(draw(st.integers(0, 4))):
        made[draw(st.integers(0, len(made) - 1))] = draw(st.integers(0, 255))
    return bytes(made[: draw(st.integers(0, len(made)))]), link


@settings(deadline=None)
@given(st.lists(frames(), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 200))
def test_no_octet_beyond_the_frames_is_touched_and_every_frame_has_one_fate(fenced, made, turn, missing):
    octets = b"".join(frame for frame, _ in made)
    memory = fenced[PAGE - len(octets) :]
    memory[:] = np.frombuffer(octets, np.uint8)
    offset = np.cumsum([0] + [len(frame) for frame, _ in made]).astype(np.int64)
    link_type = np.array([link for _, link in made], np.int64)
    original = np.diff(offset) + missing
    tally = Counter()
    found = survey(memory, offset, link_type)
    kept = keep_mask(found, offset, original, link_type, 1500, tally)
    rows = np.flatnonzero(kept)
    begin_pass(MEMORY)
    new_offset, out = refit(memory, offset, original, link_type, found, rows, KEY, turn, MEMORY, tally)
    assert bytes(memory) == octets
    assert len(new_offset) == len(rows) + 1
    assert new_offset[-1] == len(out)
    left_out = sum(n for name, n in tally.items() if name in ("recorded_no_ethernet", "recorded_short"))
    assert len(rows) + left_out + tally["recorded_cut"] + tally["recorded_above_mtu"] == len(made)
    assert (np.diff(new_offset) >= 14).all()
    if turn == 0 and missing == 0:
        for k, row in enumerate(rows):
            if link_type[row] == ETHERNET:
                assert out[new_offset[k] : new_offset[k + 1]].tobytes() == made[row][0]


def message_sum(octets, start, end, addresses, protocol):
    pseudo = 0 if protocol == ICMP else ones_complement_sum(octets, addresses, 8, protocol + end - start)
    return fold(ones_complement_sum(octets, start, end - start, pseudo))


@settings(deadline=None)
@given(st.sampled_from(BODIES[:4]), st.binary(max_size=40), st.integers(1, 1000), st.integers(0, 0xFFFF))
def test_a_sum_that_was_right_stays_right_and_one_that_was_wrong_as_wrong_as_before(datagram, more, turn, checksum):
    body = datagram[20:] + more + bytes(len(more) % 2)
    protocol = datagram[9]
    frame = bytearray(bytes(12) + b"\x08\0" + ipv4(protocol, body))
    at = 34 + {TCP: 16, UDP: 6, ICMP: 2}[protocol]
    frame[at : at + 2] = checksum.to_bytes(2, "big")
    octets = np.frombuffer(bytes(frame), np.uint8)
    offset, link_type = np.array([0, len(frame)]), np.array([ETHERNET])
    found = survey(octets, offset, link_type)
    assert found.kind[0] == WHOLE != OTHER
    begin_pass(MEMORY)
    original = np.array([len(frame)])
    _, out = refit(octets, offset, original, link_type, found, np.array([0]), KEY, turn, MEMORY, Counter())
    assert out[:34].tobytes() == bytes(frame[:34])
    assert out.tobytes() != bytes(frame)
    if protocol == UDP and checksum == 0:
        assert out[at : at + 2].tobytes() == b"\0\0"
        return
    before = message_sum(octets, 34, len(frame), 26, protocol)
    after = message_sum(out, 34, len(frame), 26, protocol)
    assert before % 0xFFFF == after % 0xFFFF


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.lists(st.integers(0, 3 * 60), min_size=1, max_size=4))
def test_a_stream_that_was_sought_gives_what_the_stream_has_there(seed, seconds):
    def stream():
        plan = SequencePlan([checkpoint("a"), checkpoint("b", 1), checkpoint("a", 2)])
        return made_stream(plan, MadeDrawer({"a": 0, "b": 1}), seed)

    whole = [b.frames.observation_time_ns for b in iter(stream().read, None)]
    times = np.concatenate(whole)
    sought = stream()
    for second in seconds:
        at_ns = min(START_NS + second * 10**9, START_NS + 3 * MINUTE_NS - 1)
        sought.seek(at_ns)
    rest = [b.frames.observation_time_ns for b in iter(sought.read, None)]
    np.testing.assert_array_equal(np.concatenate([*rest, times[:0]]), times[times >= at_ns])
