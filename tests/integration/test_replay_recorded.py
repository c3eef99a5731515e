"""The bundled capture of the lab, played as a recording: octet by octet once, then as flows that were not there before.

tshark judges what later passes make of it.
"""

import lzma
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import nsstream_daemon
import numpy as np
import pytest

from nsstream.capture.pcap_file import read_trace
from nsstream.errors import InputError
from nsstream.replay.frame_packets import packets_of
from nsstream.replay.scenario import Scenario
from nsstream.replay.streams.recorded import RecordedFile
from nsstream.trace import PacketBatch
from nsstream.trace.grouping import group_conversations
from nsstream.wire.pcap import pcap_header, write_records

LAB = Path(nsstream_daemon.__file__).parent / "data" / "lab.pcap.xz"
MTU = 9216


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """The first 6000 packets of the lab, whole: what its snaplen cut is filled up by the first pass."""
    whole = tmp_path_factory.mktemp("lab") / "whole.pcap"
    whole.write_bytes(lzma.decompress(LAB.read_bytes()))
    cut = whole.with_name("cut.pcap")
    subprocess.run(["editcap", "-F", "nsecpcap", "-r", whole, cut, "1-6000"], check=True)
    return write(play(cut), whole.with_name("lab.pcap"))


def play(path, scenario=None, seed=1, passes=1, mtu=MTU):
    with closing(RecordedFile(path, scenario or Scenario(), seed, mtu, passes)) as stream:
        return list(iter(stream.read, None))


def write(blocks, path):
    frames = [block.frames for block in blocks]
    records = [write_records(f.observation_time_ns, f.offset, f.octets) for f in frames]
    path.write_bytes(pcap_header() + b"".join(records))
    return path


def tshark(path, *fields):
    checks = ("ip", "tcp", "udp")
    options = [part for name in checks for part in ("-o", f"{name}.check_checksum:TRUE")]
    command = ["tshark", "-n", "-r", path, *options, "-T", "fields", *(x for f in fields for x in ("-e", f))]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in out.splitlines()]


def five_tuples(blocks):
    table, _ = group_conversations(PacketBatch.concatenate([packets_of(b.frames) for b in blocks]))
    has_ports = (table.initiator_port > 0) & (table.initiator_port != table.responder_port)
    return {
        (
            table.initiator_address[i].tobytes(), table.responder_address[i].tobytes(),
            int(table.initiator_port[i]), int(table.responder_port[i]), int(table.protocol_identifier[i]),
        )
        for i in np.flatnonzero(has_ports)
    }  # fmt: skip


def test_the_first_pass_is_the_capture_octet_by_octet(capture, tmp_path):
    blocks = play(capture)
    again, _ = read_trace(write(blocks, tmp_path / "again.pcap"))
    real, _ = read_trace(capture)
    assert all(np.array_equal(getattr(again, name), column) for name, column in real.columns().items())
    assert (tmp_path / "again.pcap").read_bytes() == capture.read_bytes()
    tally = blocks[-1].tally
    assert tally == {"recorded_frames": sum(len(b.frames) for b in blocks)}


def test_later_passes_are_other_flows_whose_checksums_and_analysis_are_as_before(capture, tmp_path):
    blocks = play(capture, passes=3)
    by_pass = [[b for b in blocks if b.chunk == number] for number in (1, 2, 3)]
    assert len({sum(len(b.frames) for b in part) for part in by_pass}) == 1
    times = np.concatenate([b.frames.observation_time_ns for b in blocks])
    assert (np.diff(times) > 0).all()
    tuples = [five_tuples(part) for part in by_pass]
    assert min(map(len, tuples)) > 100
    assert not tuples[0] & tuples[1]
    assert not tuples[0] & tuples[2]
    assert not tuples[1] & tuples[2]
    fields = (
        "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status",
        "icmpv6.checksum.status", "tcp.seq", "tcp.ack", "tcp.flags", "tcp.analysis.flags", "tcp.len", "frame.len",
        "ip.src", "ipv6.src", "tcp.completeness", "udp.length",
    )  # fmt: skip
    first, *others = [tshark(write(part, tmp_path / f"{i}.pcap"), *fields) for i, part in enumerate(by_pass)]
    assert all(other == first for other in others)
    assert {row[1] for row in first} <= {"1", ""}


def test_what_a_snaplen_cut_is_filled_up_and_its_checksum_made_right(capture, tmp_path):
    cut = tmp_path / "cut.pcap"
    subprocess.run(["editcap", "-F", "nsecpcap", "-s", "96", capture, cut], check=True)
    for passes in (1, 2):
        blocks = play(cut, passes=passes)
        path = write(blocks, tmp_path / f"{passes}.pcap")
        rows = tshark(path, "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "frame.len")
        # 0: bad. What an ICMP error quotes has a checksum of what was cut, too; tshark gives both, with a comma.
        assert not [row for row in rows if "0" in row[:3] and "," not in row[0]]
        sizes = [row[3] for row in tshark(capture, "ip.src", "ip.src", "ip.src", "frame.len")]
        assert [row[3] for row in rows] == sizes * passes
        assert blocks[-1].tally["recorded_padded"] > 0


def test_raw_ip_becomes_ethernet(capture, tmp_path):
    raw = tmp_path / "raw.pcap"
    subprocess.run(["editcap", "-F", "nsecpcap", "-C", "14", "-L", "-T", "rawip", capture, raw], check=True)
    blocks = play(raw, passes=2)
    rows = tshark(write(blocks, tmp_path / "out.pcap"), "eth.type", "ip.checksum.status", "tcp.checksum.status")
    assert {row[0] for row in rows} == {"0x0800", "0x86dd"}
    assert "0" not in {status for row in rows for status in row[1:]}
    tally = blocks[-1].tally
    left_out = tally.get("recorded_no_ethernet", 0)
    assert tally["recorded_frames"] == len(rows) + left_out
    assert tally["recorded_link_layers_made"] == len(rows)


def test_only_these_services_and_hosts_are_left(capture):
    blocks = play(capture, Scenario(services=["udp/53", "icmp"]))
    packets = PacketBatch.concatenate([packets_of(b.frames) for b in blocks])
    is_dns = (packets.source_transport_port == 53) | (packets.destination_transport_port == 53)
    assert is_dns.any()
    assert (is_dns | (packets.protocol_identifier == 1)).all()
    tally = blocks[-1].tally
    assert tally["recorded_frames"] == len(packets) + tally["packets_not_selected"]
    with pytest.raises(InputError, match="nothing of it can be sent in this scenario"):
        play(capture, Scenario(hosts=["198.51.100.1"]))


def test_half_of_the_flows_are_whole_flows_others_in_each_pass(capture):
    whole = five_tuples(play(capture))
    blocks = play(capture, Scenario(flows=0.5), passes=2)
    first = five_tuples([b for b in blocks if b.chunk == 1])
    second = five_tuples([b for b in blocks if b.chunk == 2])
    assert first < whole
    assert 0.3 * len(whole) < len(first) < 0.7 * len(whole)
    assert not first & second
    tally = blocks[-1].tally
    assert tally["recorded_frames"] == tally["packets_thinned_out"] + sum(len(b.frames) for b in blocks)


def test_the_same_seed_gives_the_same_and_another_gives_other_sequence_numbers(capture):
    a, b, c = ([x.frames.octets.tobytes() for x in play(capture, seed=s, passes=2)] for s in (1, 1, 2))
    assert a == b
    assert a != c


def test_seeking_leads_to_the_frame_that_would_have_come_there(capture):
    blocks = play(capture, passes=3)
    times = np.concatenate([b.frames.observation_time_ns for b in blocks])
    frames = [b.frames.frame(i) for b in blocks for i in range(len(b.frames))]
    stream = RecordedFile(capture, Scenario(), 1, MTU, 3)
    for wanted in (len(times) - 7, 5, len(times) // 2):
        stream.seek(int(times[wanted]))
        block = stream.read()
        assert int(block.frames.observation_time_ns[0]) == times[wanted]
        assert block.frames.frame(0) == frames[wanted]
    stream.seek(int(times[-1]) + 10**12)
    assert stream.read() is None
    with pytest.raises(InputError, match="before the first frame"):
        stream.seek(int(times[0]) - 1)
    stream.close()


def test_more_passes_after_the_end_are_those_that_would_have_come(capture):
    wanted = [block.frames.octets.tobytes() for block in play(capture, passes=3)]
    with closing(RecordedFile(capture, Scenario(), 1, MTU, 1)) as stream:
        blocks = list(iter(stream.read, None))
        for passes in (2, 3):
            stream.set_loop(passes)
            blocks += iter(stream.read, None)
    assert [block.frames.octets.tobytes() for block in blocks] == wanted
    assert [block.chunk for block in blocks] == sorted(block.chunk for block in blocks)
    assert blocks[-1].chunk == 3


def test_a_fifo_is_played_once_and_no_more(capture, tmp_path):
    fifo = tmp_path / "fifo"
    subprocess.run(["mkfifo", fifo], check=True)
    writer = subprocess.Popen(f"cat {capture} > {fifo}", shell=True)
    stream = RecordedFile(fifo, Scenario(), 1, MTU, 1)
    with pytest.raises(InputError, match="can be read only once"):
        stream.seek(1 << 62)
    with pytest.raises(InputError, match="can be played only once"):
        stream.check_loop()
    assert sum(len(block.frames) for block in iter(stream.read, None)) == 6000
    assert writer.wait() == 0
    stream.close()


PLAY_WITHIN = """
import resource, sys
from pathlib import Path
from nsstream.replay.scenario import Scenario
from nsstream.replay.streams.recorded import RecordedFile
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stream = RecordedFile(Path(sys.argv[1]), Scenario(), 1, 9216, None)
sizes, count = [], 0
while len(sizes) < 2:
    count += len(stream.read().frames)
    if count > (40_000, 400_000)[len(sizes)]:
        sizes.append(peak())
print(sizes[1] - sizes[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_stream(capture):
    done = subprocess.run([sys.executable, "-c", PLAY_WITHIN, capture], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4096  # kibibytes, over 60 passes more
