"""Live capture over a veth pair, loopback and tun devices, in namespaces made for it: nothing lost, nothing changed."""

import fcntl
import json
import lzma
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from namespaces import namespace

from nsstream.capture import PcapFileSource, read_trace
from nsstream.capture.live import LiveSource
from nsstream.capture.packet_ring import RingSize
from nsstream.counters import Tally
from nsstream.errors import InputError
from nsstream.trace import PacketBatch
from nsstream.trace.fields import PACKET_FIELDS
from nsstream.wire import pcap_header, write_records
from nsstream.wire.link import ETHERNET, LINUX_SLL, RAW

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from bars.traces import lab_capture
from bars.veth import VethPair, veth_pair

CAPTURER = Path(__file__).with_name("live_capturer.py")
DEADLINE_S = 300.0
MACS = bytes.fromhex("020000000002 020000000001")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("tcpreplay") is None, reason="needs tcpreplay"),
]


@pytest.fixture
def pair() -> Iterator[VethPair]:
    with veth_pair() as made:
        yield made


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab") / "lab.pcap"
    with lab_capture() as packed:
        path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


@contextmanager
def opened(source: LiveSource, where: str) -> Iterator[LiveSource]:
    with namespace(where):
        source.open()
    try:
        yield source
    finally:
        source.close()
        source.tally.check()


def drain(source: LiveSource) -> PacketBatch:
    """All that has been taken in so far."""
    source.stop()
    batches = []
    while (batch := source.read_batch()) is not None:
        source.tally.check()
        batches.append(batch)
    assert source.read_batch() is None
    return PacketBatch.concatenate(batches)


def read_until(source: LiveSource, is_enough: Callable[[Tally], bool]) -> PacketBatch:
    batches = []
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_enough(source.tally):
        assert time.monotonic() < deadline_s, source.tally
        batch = source.read_batch()
        assert batch is not None
        batches.append(batch)
    return PacketBatch.concatenate(batches)


def send_in_order(pair: VethPair, capture: Path, *options: str) -> int:
    """Send with one CPU, so that frames keep their order; gives how many arrived."""
    counts: list[int] = []

    def send() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread, and of what it starts
        sent = pair.send(capture, *options)
        assert sent.failed_count == 0
        counts.append(sent.received_count)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    return counts[0]


def assert_same(live: PacketBatch, read: PacketBatch) -> None:
    assert len(live) == len(read)
    for name in PACKET_FIELDS:
        if name != "observation_time_ns":
            np.testing.assert_array_equal(getattr(live, name), getattr(read, name), err_msg=name)


def write_frames(path: Path, frames: list[bytes]) -> Path:
    offset = np.concatenate([[0], np.cumsum([len(f) for f in frames])]).astype(np.int64)
    times_ns = 1_700_000_000_000_000_000 + np.arange(len(frames), dtype=np.int64)
    path.write_bytes(pcap_header() + write_records(times_ns, offset, np.frombuffer(b"".join(frames), np.uint8)))
    return path


def udp_frame(tags: str = "", port: int = 53, size: int = 30) -> bytes:
    datagram = struct.pack("!BBHHHBBH", 0x45, 0, 28 + size, 1, 0, 64, 17, 0) + bytes([192, 0, 2, 1, 198, 51, 100, 7])
    return MACS + bytes.fromhex(tags) + b"\x08\0" + datagram + struct.pack("!4H", 4000, port, 8 + size, 0) + bytes(size)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def test_capture_of_the_lab_arrives_as_it_is_in_the_file(pair: VethPair, lab: Path) -> None:
    began_ns = time.time_ns()
    with opened(LiveSource("rx"), pair.receiver) as source:
        assert source.link_type == ETHERNET
        sent = send_in_order(pair, lab, "--topspeed")
        live = drain(source)
    in_file = PcapFileSource(lab)
    in_file.open()
    batches = []
    while (batch := in_file.read_batch()) is not None:
        batches.append(batch)
    in_file.close()
    assert_same(live, PacketBatch.concatenate(batches))
    assert source.tally.offered == source.kernel_packet_count == sent == in_file.tally.offered
    assert source.tally.unsupported == in_file.tally.unsupported
    assert source.tally.malformed == in_file.tally.malformed
    assert not source.tally.dropped
    assert (live.observation_time_ns >= began_ns).all()
    assert (live.observation_time_ns <= time.time_ns()).all()


def test_vlan_tags_that_the_kernel_takes_off_are_put_back(pair: VethPair, tmp_path: Path) -> None:
    tags = ["", "81000005", "81006005", "88a80064 81000007", "81000001 81000002 81000003", "81000000"]
    capture = write_frames(tmp_path / "tagged.pcap", [udp_frame(t) for t in tags])
    with namespace(pair.receiver):
        plain = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        plain.bind(("rx", 3))
    with plain, opened(LiveSource("rx"), pair.receiver) as source:
        send_in_order(pair, capture, "--topspeed")
        live = drain(source)
        plain.settimeout(DEADLINE_S)
        seen = [len(plain.recv(4096)) for _ in tags]
    assert seen == [72, 72, 72, 76, 80, 72]  # so it is true that they are taken off
    assert_same(live, read_trace(capture)[0])
    assert live.vlan_id.tolist() == [0, 5, 5, 100, 1, 0]


@pytest.mark.parametrize("expression", ["udp port 53", "vlan 5", "vlan 100 and vlan 7", "not udp", "len > 100"])
def test_filter_passes_what_tcpdump_passes(pair: VethPair, lab: Path, tmp_path: Path, expression: str) -> None:
    tagged = [udp_frame(tags, port) for port in (53, 80) for tags in ("81000005", "81000006", "88a80064 81000007")]
    write_frames(tmp_path / "tagged.pcap", tagged)
    few = tmp_path / "few.pcap"
    subprocess.run(["editcap", "-F", "nsecpcap", "-r", str(lab), str(few), "1-3000"], check=True)
    expected = tmp_path / "expected.pcap"
    with opened(LiveSource("rx", capture_filter=expression), pair.receiver) as source:
        listening = subprocess.Popen(
            [
                *("ip", "netns", "exec", pair.receiver, "tcpdump", "-i", "rx", "-U", "-B", "65536"),
                *("-Z", "root", "-w", str(expected), expression),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert listening.stderr is not None
        assert "listening on" in listening.stderr.readline()
        for capture in (few, tmp_path / "tagged.pcap"):
            send_in_order(pair, capture, "--topspeed")
        live = drain(source)
        wanted = source.tally.offered
        deadline_s = time.monotonic() + DEADLINE_S
        while _record_count(expected) < wanted and time.monotonic() < deadline_s:
            time.sleep(0.05)
        listening.send_signal(2)
        listening.communicate(timeout=DEADLINE_S)
    assert source.kernel_packet_count == source.tally.offered == _record_count(expected)
    assert 0 < source.tally.offered < 3000
    if source.tally.kept:
        assert_same(live, read_trace(expected)[0])


def _record_count(path: Path) -> int:
    if not path.exists() or path.stat().st_size < 24:
        return 0
    source = PcapFileSource(path, allow_cut=True)
    source.open()
    while source.read_batch() is not None:
        pass
    source.close()
    return source.tally.offered - source.tally.malformed["cut_record"]


def test_bad_filter_is_refused_and_nothing_stays_open(pair: VethPair) -> None:
    source = LiveSource("rx", capture_filter="port eighty thousand")
    with namespace(pair.receiver), pytest.raises(InputError, match=r"eighty.*`man pcap-filter`"):
        source.open()
    source.close()


def test_snaplen_cuts_and_what_it_cuts_is_counted(pair: VethPair, tmp_path: Path) -> None:
    capture = write_frames(tmp_path / "few.pcap", [udp_frame(), udp_frame("81000005")])
    with opened(LiveSource("rx", snaplen=30), pair.receiver) as source:
        send_in_order(pair, capture, "--topspeed")
        assert len(drain(source)) == 0
    assert source.tally.malformed == {"cut_by_snaplen": 2}
    with opened(LiveSource("rx", snaplen=40), pair.receiver) as source:
        send_in_order(pair, capture, "--topspeed")
        assert drain(source).ip_total_length.tolist() == [58, 58]


def test_idle_interface_gives_empty_batches(pair: VethPair) -> None:
    with opened(LiveSource("rx"), pair.receiver) as source:
        for _ in range(2):
            batch = source.read_batch()
            assert batch is not None
            assert len(batch) == 0
    assert source.tally == Tally()


def test_block_that_is_not_full_comes_too(pair: VethPair, tmp_path: Path) -> None:
    capture = write_frames(tmp_path / "one.pcap", [udp_frame()])
    with opened(LiveSource("rx"), pair.receiver) as source:
        for k in range(1, 4):
            send_in_order(pair, capture, "--topspeed")
            assert len(read_until(source, lambda tally, k=k: tally.kept == k)) == 1


@pytest.mark.parametrize("is_promiscuous", [True, False])
def test_promiscuous_mode_lasts_as_long_as_the_source(pair: VethPair, is_promiscuous: bool) -> None:
    def promiscuity() -> int:
        command = ["ip", "-n", pair.receiver, "-json", "-details", "link", "show", "dev", "rx"]
        return int(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]["promiscuity"])

    with opened(LiveSource("rx", is_promiscuous=is_promiscuous), pair.receiver):
        assert promiscuity() == int(is_promiscuous)
    assert promiscuity() == 0


@pytest.mark.parametrize("is_drained", [True, False])
def test_what_finds_no_room_is_counted_as_the_kernel_counts_it(pair: VethPair, lab: Path, is_drained: bool) -> None:
    small = RingSize(ring_bytes=1 << 16, block_bytes=1 << 13)
    with opened(LiveSource("rx", size=small), pair.receiver) as source:
        sent = send_in_order(pair, lab, "--topspeed", "--limit=5000")
        kept = len(drain(source)) if is_drained else 0
    assert source.tally.offered == source.kernel_packet_count == sent == 5000
    assert source.tally.kept == kept
    assert source.tally.dropped["ring"] == 5000 - source.tally.read
    assert (0 < source.tally.read < 5000) if is_drained else (source.tally.read == 0)


def test_offered_is_the_kernels_count_when_reading_starts_late_and_ends_early(pair: VethPair, lab: Path) -> None:
    small = RingSize(ring_bytes=1 << 20, block_bytes=1 << 14)
    with opened(LiveSource("rx", size=small), pair.receiver) as source:
        sender = threading.Thread(target=send_in_order, args=(pair, lab, "--topspeed", "--limit=30000"))
        sender.start()
        read_until(source, lambda tally: tally.read > 10_000)
        sender.join()
    assert source.tally.offered == source.kernel_packet_count == 30_000
    assert 10_000 < source.tally.read < 30_000


def test_loopback_frames_are_kept_once(pair: VethPair) -> None:
    ip("-n", pair.receiver, "link", "set", "lo", "up")
    for interface, link_type in (("lo", ETHERNET), ("any", LINUX_SLL)):
        source = LiveSource(interface, capture_filter="udp port 9")
        with opened(source, pair.receiver), namespace(pair.receiver):
            assert source.link_type == link_type
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for k in range(20):
                    sender.sendto(bytes(k), ("127.0.0.1", 9))
            batch = drain(source)
        assert batch.ip_total_length.tolist() == [28 + k for k in range(20)]
        assert source.tally.offered == source.kernel_packet_count == 20


def test_all_interfaces_together_are_read_cooked(pair: VethPair, tmp_path: Path) -> None:
    frames = [udp_frame(), udp_frame("81000005"), udp_frame("88a80064 81000007"), udp_frame(port=80)]
    capture = write_frames(tmp_path / "tagged.pcap", frames)
    expected = read_trace(capture)[0]
    for where in (pair.receiver, pair.sender):  # coming in, and going out
        with opened(LiveSource("any"), where) as source:
            send_in_order(pair, capture, "--topspeed")
            assert_same(drain(source), expected)
        with opened(LiveSource("any", capture_filter="udp dst port 80"), where) as source:
            send_in_order(pair, capture, "--topspeed")
            assert_same(drain(source), expected.take(slice(3, 4)))


def test_outgoing_frames_are_captured(pair: VethPair, tmp_path: Path) -> None:
    capture = write_frames(tmp_path / "tagged.pcap", [udp_frame(), udp_frame("81000005")])
    with opened(LiveSource("tx"), pair.sender) as source:
        send_in_order(pair, capture, "--topspeed")
        assert_same(drain(source), read_trace(capture)[0])


def test_tun_device_is_read_as_raw_ip(pair: VethPair) -> None:
    with namespace(pair.receiver):
        tun = os.open("/dev/net/tun", os.O_RDWR)
    try:
        with namespace(pair.receiver):
            fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun9", 0x0001 | 0x1000))
        ip("-n", pair.receiver, "link", "set", "tun9", "up")
        with opened(LiveSource("tun9", capture_filter="udp port 53"), pair.receiver) as source:
            assert source.link_type == RAW
            os.write(tun, udp_frame()[14:])
            os.write(tun, udp_frame(port=80)[14:])
            batch = drain(source)
        assert batch.destination_transport_port.tolist() == [53]
        assert batch.ip_total_length.tolist() == [58]
    finally:
        os.close(tun)


def test_offloaded_segments_and_unready_checksums_are_rows_of_their_length(pair: VethPair) -> None:
    ip("-n", pair.sender, "addr", "add", "10.77.0.1/24", "dev", "tx")
    ip("-n", pair.receiver, "addr", "add", "10.77.0.2/24", "dev", "rx")
    octet_count = 4_000_000
    with opened(LiveSource("rx", capture_filter="tcp"), pair.receiver) as source:
        with namespace(pair.receiver):
            server = socket.create_server(("10.77.0.2", 0))
        with namespace(pair.sender):
            client = socket.socket()
        with server, client:
            client.settimeout(DEADLINE_S)
            client.connect(server.getsockname())
            accepted, _ = server.accept()
            sender = threading.Thread(target=client.sendall, args=(bytes(octet_count),))
            sender.start()
            received = 0
            with accepted:
                while received < octet_count:
                    received += len(accepted.recv(1 << 20))
            sender.join()
        batch = drain(source)
    assert not source.tally.malformed
    assert source.tally.kept == source.tally.offered == source.kernel_packet_count
    sent = batch.destination_transport_port == server_port(batch)
    payload = batch.ip_total_length.astype(np.int64) - batch.ip_header_length - batch.tcp_header_length
    assert batch.ip_total_length.max() > 1500  # so the kernel did segment later
    start = batch.tcp_sequence_number[sent][0].astype(np.int64) + 1  # behind SYN
    covered = (batch.tcp_sequence_number[sent].astype(np.int64) - start + payload[sent])[payload[sent] > 0]
    assert covered.max() == octet_count
    assert payload[sent].sum() >= octet_count


def server_port(batch: PacketBatch) -> int:
    return int(batch.destination_transport_port[0])


def test_interface_that_goes_down_is_waited_for(
    pair: VethPair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    capture = write_frames(tmp_path / "one.pcap", [udp_frame()])
    with opened(LiveSource("rx"), pair.receiver) as source:
        send_in_order(pair, capture, "--topspeed")
        ip("-n", pair.receiver, "link", "set", "rx", "down")
        assert len(read_until(source, lambda tally: tally.kept == 1)) == 1
        read_until(source, lambda _: "interface down interface=rx" in caplog.messages)
        ip("-n", pair.receiver, "link", "set", "rx", "up")
        read_until(source, lambda _: "interface up interface=rx" in caplog.messages)
        send_in_order(pair, capture, "--topspeed")
        assert len(drain(source)) == 1
    assert source.tally.offered == source.kernel_packet_count == 2


def test_interface_that_is_removed_ends_the_source_behind_its_last_packet(pair: VethPair, lab: Path) -> None:
    with opened(LiveSource("rx"), pair.receiver) as source:
        send_in_order(pair, lab, "--topspeed", "--limit=2000")
        ip("-n", pair.receiver, "link", "del", "rx")
        with pytest.raises(InputError, match=r"^rx: .*removed"):
            read_until(source, lambda _: False)
        assert source.tally.offered == source.kernel_packet_count == 2000
        assert not source.tally.dropped
        assert source.read_batch() is None


@pytest.mark.parametrize(
    ("interface", "message"),
    [("nowhere0", "no such interface"), ("", "no such interface"), ("x" * 99, "no such interface"), ("rx", "down")],
)
def test_interface_that_cannot_be_captured_is_named(pair: VethPair, interface: str, message: str) -> None:
    ip("-n", pair.receiver, "link", "set", "rx", "down")
    with namespace(pair.receiver), pytest.raises(InputError, match=message) as caught:
        LiveSource(interface).open()
    assert str(caught.value).startswith(interface)
    assert "\n" not in str(caught.value)


class Capturer:
    """`live_capturer.py`, in the receiver's namespace."""

    def __init__(self, pair: VethPair, output: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.output = output
        self.process = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                pair.receiver,
                *prefix,
                sys.executable,
                str(CAPTURER),
                "rx",
                str(output),
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=DEADLINE_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def stop(self) -> dict[str, object]:
        told, _ = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0
        return dict(json.loads(told))


def test_fanout_deals_every_packet_to_one_of_two_processes(pair: VethPair, lab: Path, tmp_path: Path) -> None:
    members = [Capturer(pair, tmp_path / f"{k}.npz", "77", str(k)) for k in range(2)]
    with closing(members[0]), closing(members[1]):
        assert [m.said for m in members] == ["ready", "ready"]
        sent = send_in_order(pair, lab, "--topspeed")
        told = [m.stop() for m in members]
    tallies = [Tally.from_dict(one["tally"]) for one in told]  # type: ignore[arg-type]
    assert [t.offered for t in tallies] == [one["kernel"] for one in told]
    assert sum(t.offered for t in tallies) == sent
    assert all(t.kept > 0 and not t.dropped for t in tallies)
    conversations = []
    for member in members:
        columns = np.load(member.output)
        tcp = columns["protocol_identifier"] == 6
        names = ("source_address", "source_transport_port", "destination_address", "destination_transport_port")
        ends = [columns[name][tcp].reshape(tcp.sum(), -1).astype(np.int64) for name in names]
        one, other = np.concatenate(ends[:2], axis=1), np.concatenate(ends[2:], axis=1)
        conversations.append(
            {frozenset((tuple(a), tuple(b))) for a, b in zip(one.tolist(), other.tolist(), strict=True)}
        )
    assert not conversations[0] & conversations[1]  # both directions to the same member


UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
NET_RAW_ONLY = ("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw", "--bounding-set=-all,+net_raw")
NOTHING = ("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")


@pytest.fixture
def anybodys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that user 65534 can write to, numba's cache, too; not within pytest's, which is for its user only."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        monkeypatch.setenv("NUMBA_CACHE_DIR", directory)
        yield Path(directory)


@pytest.mark.slow
def test_user_with_cap_net_raw_alone_captures(pair: VethPair, lab: Path, anybodys: Path) -> None:
    capturer = Capturer(pair, anybodys / "got.npz", prefix=(*UNPRIVILEGED, *NET_RAW_ONLY))
    with closing(capturer):
        assert capturer.said == "ready"
        status = Path(f"/proc/{capturer.process.pid}/status").read_text()
        assert "Uid:\t65534\t65534" in status
        assert "CapEff:\t0000000000002000" in status
        sent = send_in_order(pair, lab, "--topspeed", "--limit=1000")
        told = capturer.stop()
    tally = Tally.from_dict(told["tally"])  # type: ignore[arg-type]
    assert tally.offered == told["kernel"] == sent == 1000
    assert len(np.load(capturer.output)["ip_version"]) == tally.kept


@pytest.mark.slow
def test_user_without_it_is_told_what_is_missing(pair: VethPair, anybodys: Path) -> None:
    capturer = Capturer(pair, anybodys / "got.npz", prefix=(*UNPRIVILEGED, *NOTHING))
    with closing(capturer):
        assert capturer.said.startswith("error rx: capturing needs CAP_NET_RAW")
