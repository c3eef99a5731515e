"""Our interfaces in a real tshark: listed, captured from, filtered, and gone when tshark is."""

from __future__ import annotations

import ipaddress
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoints import drawn_checkpoint
from nsstream_plugins.installer import Installer
from nsstream_plugins.registry import load_plugin

from nsstream.draw import Drawer
from nsstream.encode.address_map import AddressMap
from nsstream.wire import PcapReader, pcap_header

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
PATIENCE_S = 300.0
KILLS = 20
CHECKS = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user who has installed the plugin, and nothing else."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in sys.path if part))
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    Installer("user").install(load_plugin("wireshark"))
    return home


def tshark(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["tshark", *words], capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_tshark_lists_both_and_captures_1000_good_packets_at_the_rate_asked_for(home, tmp_path):
    listed = tshark("-D").stdout
    assert " nsstream-synth (nsstream synthetic traffic, live)" in listed
    assert " nsstream-tap (" in listed
    path = tmp_path / "out.pcapng"
    rate = ("-o", "extcap.nsstream_synth.rate:2.5kpps", "-o", "extcap.nsstream_synth.seed:7")
    done = tshark("-i", "nsstream-synth", *rate, "-c", "1000", "-w", str(path))
    assert done.returncode == 0, done.stderr
    fields = ("frame.time_epoch", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status")
    rows = tshark("-r", str(path), *CHECKS, "-T", "fields", *(w for f in fields for w in ("-e", f))).stdout.splitlines()
    assert len(rows) == 1000
    statuses = {status for row in rows for status in row.split("\t")[1:]}
    assert "0" not in statuses  # bad
    assert "1" in statuses
    times = [int(row.split("\t")[0].replace(".", "")) for row in rows]
    assert abs((times[-1] - times[0]) / 999 - 400_000) < 4000
    assert any(stamp % 1000 for stamp in times)  # nanoseconds
    assert abs(times[0] - time.time_ns()) < PATIENCE_S * 1e9


def test_a_capture_filter_is_kept_and_one_that_is_none_refused(home):
    done = tshark("-i", "nsstream-synth", "-f", "tcp port 443", "-c", "50", "-T", "fields", "-e", "tcp.port")
    assert done.returncode == 0, done.stderr
    ports = [set(row.split(",")) for row in done.stdout.split()]
    assert len(ports) == 50
    assert all("443" in both for both in ports)
    done = tshark("-i", "nsstream-synth", "-f", "no filter", "-c", "50")
    assert "nsstream-synth: capture filter 'no filter': can't parse filter expression" in done.stderr
    assert "0 packets captured" in done.stderr


def of_home(home: Path) -> dict[int, str]:
    """The processes whose environment says that they live there, but for this one."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                if f"HOME={home}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended, or is another user's
    return found


def end(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a tshark until it ends: 4.0 forgets a SIGTERM that comes just as its capture begins, and captures on."""
    for _ in range(5):
        child.send_signal(number)
        try:
            child.wait(PATIENCE_S / 10)
        except subprocess.TimeoutExpired:
            continue
        return
    child.kill()
    child.wait()
    pytest.fail(f"tshark does not end by {number.name}")


def test_tshark_killed_at_any_time_leaves_no_process_behind(home):
    # Never into /dev/null: a dumpcap that is ended before its first packet unlinks its output, and root's may.
    chance = random.Random(7)
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    for number in range(KILLS):
        child = subprocess.Popen(
            ["tshark", "-i", "nsstream-synth", "-w", home / "out.pcapng"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(chance.uniform(0.0, 1.5))  # from before it starts us to long after the first packets
        end(child, signals[number % len(signals)])
        until_s = time.monotonic() + PATIENCE_S
        while left := of_home(home):
            assert time.monotonic() < until_s, (number, left)
            time.sleep(0.02)


def test_the_doctor_finds_all_well(home):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nsstream_daemon", "plugin", "doctor", "wireshark"],
        capture_output=True, text=True, check=False, cwd=home,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if "lists itself in" not in line]  # of how busy this machine is
    assert "  good  tshark -i nsstream-synth -c 10 gives 10 packets" in told
    assert not [line for line in told if line.startswith("  bad")]


@pytest.fixture
def taken_in(tmp_path):
    """An ingest of what is written into a FIFO, in real time: its state, and where to write."""
    fifo, state = tmp_path / "traffic", tmp_path / "state"
    os.mkfifo(fifo)
    command = [sys.executable, "-P", "-m", "nsstream_daemon", "ingest", f"fifo:{fifo}", "--state", str(state), "--live"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    writer = os.open(fifo, os.O_WRONLY)
    os.write(writer, pcap_header())
    try:
        yield state, writer
    finally:
        os.close(writer)
        child.terminate()
        child.wait(PATIENCE_S)


def record(number: int, payload: int) -> bytes:
    """A UDP datagram of this moment, from a port that tells which it is."""
    source, destination = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 7])
    total = 28 + payload
    ip = b"\x45\0" + total.to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0" + source + destination
    udp = (20_000 + number).to_bytes(2, "big") + (53).to_bytes(2, "big") + (8 + payload).to_bytes(2, "big") + b"\0\0"
    frame = bytes(12) + b"\x08\0" + ip + udp + b"secret!!" * (payload // 8)
    now_ns = time.time_ns()
    lengths = len(frame).to_bytes(4, "little") * 2
    return (now_ns // 10**9).to_bytes(4, "little") + (now_ns % 10**9).to_bytes(4, "little") + lengths + frame


@pytest.mark.parametrize("addresses", ["twin", "real", "config"])
def test_the_tap_shows_headers_of_what_is_taken_in_from_now_on_each_once(
    home, taken_in, tmp_path, addresses, monkeypatch
):
    state, writer = taken_in
    key, ipv4_range = bytes(range(32)), "10.0.0.0/8"
    os.write(writer, b"".join(record(number, 0) for number in range(40)))  # before anybody looks
    until_s = time.monotonic() + PATIENCE_S
    while not list(state.glob("journal/*.arrows")):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    (state / "address.key").write_text(key.hex() + "\n")
    asked = {"state": state, "addresses": addresses}
    if addresses == "config":  # the key is a credential, and the range is another
        (state / "address.key").rename(tmp_path / "nsstream.key")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        ipv4_range = "172.16.0.0/12"
        (tmp_path / "nsstream.toml").write_text(
            f'state = "{state}"\n[source]\ninput = "-"\n'
            f'[training]\naddress_key = "credential:nsstream.key"\nipv4_range = "{ipv4_range}"\n'
        )
        asked = {"config": tmp_path / "nsstream.toml"}
    path = tmp_path / "tap.pcapng"
    options = [f"extcap.nsstream_tap.{name}:{value}" for name, value in asked.items()]
    command = ["tshark", "-i", "nsstream-tap", *(w for option in options for w in ("-o", option))]
    child = subprocess.Popen([*command, "-f", "udp dst port 53", "-c", "300", "-w", path], stderr=subprocess.PIPE)
    stop = threading.Event()
    sent = [40]

    def feed() -> None:
        while not stop.wait(0.05):
            os.write(writer, b"".join(record(sent[0] + k, 80) for k in range(10)))
            sent[0] += 10

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        _, said = child.communicate(timeout=PATIENCE_S)
    finally:
        stop.set()
        feeder.join()
        child.kill()
    assert child.returncode == 0, said
    reader = PcapReader()
    columns = reader.feed(path.read_bytes())
    numbers = columns["source_transport_port"].astype(int) - 20_000
    assert len(numbers) == 300
    assert numbers.tolist() == list(range(numbers[0], numbers[0] + 300))
    assert numbers[0] >= 40
    source = np.frombuffer(bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]), np.uint8).reshape(1, 16)
    shown = source if addresses == "real" else AddressMap(key, ipv4_range).map(source)
    assert (columns["source_address"] == shown).all()
    assert set(columns["ip_total_length"].tolist()) == {108}
    assert b"secret" not in path.read_bytes()


def test_a_model_is_chosen_looked_for_again_and_captured_from(home, tmp_path, monkeypatch):
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setenv("NSSTREAM_MODELS", str(models))
    (program,) = home.rglob("nsstream-synth")
    asked = ("--extcap-interface=nsstream-synth", "--extcap-config", "--extcap-reload-option=model")

    def offered() -> list[str]:
        """What Wireshark offers when it looks again; the service's own models may be among it."""
        told = subprocess.run([program, *asked], capture_output=True, text=True, check=True).stdout
        return [line.split("{value=")[1].split("}")[0] for line in told.splitlines() if str(models) in line]

    assert offered() == []
    model = drawn_checkpoint(models)
    assert offered() == [str(model)]
    (models / "promoted").symlink_to(model.name)
    assert offered() == [f"follow:{models}", str(model)]
    for chosen in offered():
        path = tmp_path / "out.pcapng"
        options = ("-o", f"extcap.nsstream_synth.model:{chosen}", "-o", "extcap.nsstream_synth.rate:max")
        done = tshark("-i", "nsstream-synth", *options, "-c", "200", "-w", str(path))
        assert done.returncode == 0, done.stderr
        fields = ("ip.src", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status")
        told = tshark("-r", str(path), *CHECKS, "-T", "fields", *(w for f in fields for w in ("-e", f))).stdout
        rows = [line.split("\t") for line in told.splitlines()]
        assert len(rows) == 200
        assert "0" not in {status for row in rows for status in row[1:]}  # bad
        # of the model's own hosts, which are none of the bundled capture's
        known = {str(ipaddress.IPv4Address(host[12:])) for host in Drawer(0).hosts(model) if host[10:12] == b"\xff\xff"}
        assert {row[0] for row in rows if row[0]} <= known


def test_a_tap_on_nothing_says_so(home, tmp_path):
    done = tshark("-i", "nsstream-tap", "-o", f"extcap.nsstream_tap.state:{tmp_path}", "-c", "1")
    assert "nothing is being taken in" in done.stderr
