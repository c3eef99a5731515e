"""The plugins with their real tools: how fast they answer, how true they keep a rate, and whether anything gets lost.

    python bench/plugins.py wireshark [--model DIR] [--json OUT]
    python bench/plugins.py notebooks [--packets N] [--json OUT]
    python bench/plugins.py accounts [--minutes 10] [--rate 1000] [--json OUT]      # as root

`wireshark`: how long an extcap takes to list itself (bar: 100 ms, the median of 20), and how far the rate of packets'
stamps is from what was asked for (bar: 1 %); beside it the rate at which they came out of the FIFO just now. How soon
the first packet comes, of the bundled capture and of a model: no bar, since most of it is the start of libraries.

`notebooks`: packets a second as scapy's and pyshark's objects, and into a feed. No bar: these are the ceilings.

`accounts`: for so many minutes at once, in a network namespace, datagrams that are told apart by port and length go to
nsstream-tcpdump, to nsstream-dumpcap with a new file each second, whose ingest is killed and started again each minute;
and softflowd's exports of the bundled capture go to nfcapd with a new file each five seconds and the hook. Bar: every
packet and every flow that the tools took is stored once, and the tools lost none. Exit status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import lzma
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_most, equal, finish, has_passed, show
from nsstream_plugins.installer import Installer
from nsstream_plugins.lab import LAB
from nsstream_plugins.registry import load_plugin

from nsstream.chunk import ChunkStore
from nsstream.wire.frame_stream import FrameReader

LISTINGS = 20
LISTING_S = 0.1
RATES_HZ = (100, 1000, 10_000, 50_000)
RATE_S = 5.0
OFF_BY = 0.01
PORTS = 40_000
FIRST_PORT = 20_000
NETFLOW_PORT = 9995
PATIENCE_S = 120.0
SENDER = """
import socket, sys, time
until_s, rate, ports, first = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
began, n = time.monotonic(), 0
sockets = []
while time.monotonic() - began < until_s:
    port, payload = first + n % ports, 8 + n // ports
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", port))
        s.sendto(bytes(payload), ("127.0.0.1", 9))
    n += 1
    time.sleep(max(began + n / rate - time.monotonic(), 0))
print(n)
"""


@contextmanager
def installed(*names: str) -> Iterator[Path]:
    """A home in which these plugins are installed; the environment is that of who lives there."""
    with tempfile.TemporaryDirectory(prefix="nsstream-plugins-") as directory:
        before = dict(os.environ)
        os.environ["HOME"] = directory
        os.environ["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
        for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
            os.environ.pop(variable, None)
        try:
            for name in names:
                Installer("user").install(load_plugin(name))
            yield Path(directory)
        finally:
            os.environ.clear()
            os.environ.update(before)


def wireshark(model: Path | None) -> list[Bar]:
    bars: list[Bar] = []
    with installed("wireshark") as home:
        (program,) = home.rglob("nsstream-synth")
        for name, words in (
            ("--extcap-interfaces", ["--extcap-interfaces", "--extcap-version=4.0"]),
            ("--extcap-config", ["--extcap-config", "--extcap-interface", "nsstream-synth"]),
        ):
            took = [timed([str(program), *words]) for _ in range(LISTINGS)]
            bars.append(at_most(f"{name}, s, median of {LISTINGS}", statistics.median(took), LISTING_S, max(took)))
        bars.append(Bar("python that does nothing, s", timed([sys.executable, "-c", "pass"])))
        bars.append(Bar("tshark -D with both, s", timed(["tshark", "-D"])))
        bars.append(Bar("first packet of the bundled capture, s", first_packet(program, home / "lab")))
        if model is not None:
            took_s = first_packet(program, home / "model", "--model", str(model.absolute()))
            bars.append(Bar(f"first packet of the model {model.name}, s", took_s))
        for rate_hz in RATES_HZ:
            stamped, came = rates(program, home, rate_hz)
            off = abs(stamped / rate_hz - 1)
            bars.append(at_most(f"rate of stamps, {rate_hz:,} asked: off by", off, OFF_BY, f"{came:,.0f}/s came"))
    return bars


def timed(command: list[str]) -> float:
    began_s = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)
    return time.monotonic() - began_s


def first_packet(program: Path, fifo: Path, *words: str) -> float:
    """Seconds from the start of a capture to its first packet, of the second of two: the first may compile."""
    took_s = 0.0
    for _ in range(2):
        os.mkfifo(fifo)
        began_s, reader = time.monotonic(), FrameReader()
        command = [str(program), "--capture", "--extcap-interface", "nsstream-synth", "--fifo", str(fifo), *words]
        child = subprocess.Popen(command)
        with fifo.open("rb", buffering=0) as file:
            while octets := file.read(1 << 16):
                columns = reader.feed(octets)
                if columns is not None and len(columns["observation_time_ns"]):
                    break
        took_s = round(time.monotonic() - began_s, 2)
        child.wait()
        fifo.unlink()
    return took_s


def rates(program: Path, home: Path, rate_hz: int) -> tuple[float, float]:
    """Packets a second by their stamps, and as they came out of the FIFO."""
    fifo = home / f"fifo{rate_hz}"
    os.mkfifo(fifo)
    words = ["--capture", "--extcap-interface", "nsstream-synth", "--fifo", str(fifo), "--rate", f"{rate_hz}pps"]
    child = subprocess.Popen([str(program), *words])
    descriptor, reader = os.open(fifo, os.O_RDONLY), FrameReader()
    stamps: list[np.ndarray] = []
    first_s = last_s = 0.0
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not first_s or last_s - first_s < RATE_S:
        if not poll.poll(PATIENCE_S * 1000):
            break
        columns = reader.feed(os.read(descriptor, 1 << 20))
        if len(columns["observation_time_ns"]):
            last_s = time.monotonic()
            first_s = first_s or last_s
            stamps.append(columns["observation_time_ns"])
    os.close(descriptor)
    child.wait()
    times = np.concatenate(stamps)
    behind_first = len(times) - len(stamps[0])
    return (len(times) - 1) / (int(times[-1] - times[0]) * 1e-9), behind_first / (last_s - first_s)


def notebooks(count: int) -> list[Bar]:
    import pyshark
    from nsstream_plugins.notebook import FrameFeed, frames
    from nsstream_plugins.pyshark import feed_from
    from nsstream_plugins.pyshark import twins as dissected
    from nsstream_plugins.scapy import Feed, twins
    from scapy.sendrecv import sniff

    few = max(count // 20, 100)
    with tempfile.TemporaryDirectory() as directory:
        capture = Path(directory) / "twin.pcap"

        def write() -> int:
            with FrameFeed(capture, snaplen=262_144) as feed:
                for time_ns, octets in frames(count=count):
                    feed.write(time_ns, octets)
            return count

        def sniffed() -> int:
            with Feed(Path(directory) / "sniffed.pcap") as feed:
                sniff(offline=str(capture), prn=feed, store=False)
                return feed.count

        def fed() -> int:
            source = pyshark.FileCapture(str(capture), include_raw=True, use_json=True, keep_packets=False)
            try:
                return feed_from(source, Path(directory) / "fed.pcap", count=few)
            finally:
                source.close()

        for _ in islice(frames(count=10), 10):  # compiles, or loads what is compiled
            pass
        return [
            per_second("frames of a twin into a feed", write),
            per_second("twins as scapy's packets", lambda: sum(1 for _ in twins(count=count))),
            per_second("scapy's sniff of a capture into a feed", sniffed),
            per_second("twins as pyshark's packets", lambda: sum(1 for _ in dissected(count=few))),
            per_second("a pyshark capture into a feed", fed),
        ]


def per_second(name: str, work: Callable[[], int]) -> Bar:
    began_s = time.monotonic()
    count = work()
    return Bar(f"{name}, a second", round(count / (time.monotonic() - began_s)))


def accounts(minutes: float, rate_hz: float) -> list[Bar]:
    name = f"nsplug{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    children: list[subprocess.Popen[str]] = []

    def start(*words: object, **options: object) -> subprocess.Popen[str]:
        command = [*inside, *map(str, words)]
        children.append(subprocess.Popen(command, text=True, start_new_session=True, **options))  # type: ignore[call-overload]
        return children[-1]

    inside = ["ip", "netns", "exec", name]
    with installed("dumpcap", "tcpdump", "nfdump") as home, tempfile.TemporaryDirectory() as directory:
        programs, place = home / ".local/bin", Path(directory)
        spool, flow_spool, written = (place / each for each in ("spool", "flow_spool", "written"))
        for each in (spool, flow_spool, written):
            each.mkdir()
        whole = place / "lab.pcap"
        whole.write_bytes(lzma.decompress(LAB.read_bytes()))
        try:
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            heard = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            wanted = ["udp", "dst", "port", "9"]
            piped = start(programs / "nsstream-tcpdump", place / "piped", "-i", "lo", *wanted, **heard)
            ring = start(programs / "nsstream-dumpcap", spool, "-i", "lo", "-f", " ".join(wanted), "-b", "interval:1",
                         "--most-files", 100_000, **heard)  # fmt: skip
            hook = f"{programs / 'nsstream-nfcapd-rotated'} {flow_spool} %d/%f"
            collector = start(
                "nfcapd", "-w", written, "-p", NETFLOW_PORT, "-b", "127.0.0.1", "-t", 5, "-x", hook, **silent
            )
            ingest = [
                sys.executable,
                "-P",
                "-m",
                "nsstream_daemon",
                "ingest",
                f"spool:{spool}",
                "--state",
                place / "ring",
            ]
            reader = start(*ingest, **silent)
            wait_until(lambda: list(spool.glob(".ring/*")))
            time.sleep(3.0)  # tcpdump listens by then
            sender = start(
                sys.executable, "-c", SENDER, minutes * 60, rate_hz, PORTS, FIRST_PORT, stdout=subprocess.PIPE
            )
            kills, exports, next_s = 0, 0, time.monotonic() + 60
            while sender.poll() is None:
                export = ["softflowd", "-r", whole, "-n", f"127.0.0.1:{NETFLOW_PORT}", "-v", "9", "-d", "-c", "none"]
                subprocess.run([*inside, *map(str, export), "-p", str(place / "pid")], capture_output=True, check=True)
                exports += 1
                if time.monotonic() >= next_s:
                    reader.kill()
                    reader.wait()
                    reader, kills, next_s = start(*ingest, **silent), kills + 1, time.monotonic() + 60
                time.sleep(5.0)
            assert sender.stdout is not None
            sent = int(sender.stdout.read())
            time.sleep(2.0)
            for tool in (piped, ring, collector):
                os.kill(tool.pid, signal.SIGTERM)
            said = {
                "tcpdump": piped.communicate(timeout=PATIENCE_S)[1],
                "dumpcap": ring.communicate(timeout=PATIENCE_S)[1],
            }
            collector.wait(PATIENCE_S)
            reader.terminate()
            reader.wait(PATIENCE_S)
            run_ingest(f"spool:{spool}", place / "ring")
            subprocess.run([programs / "nsstream-nfcapd-rotated", flow_spool, written], check=True)
            late = run_ingest(f"spool:{flow_spool}", place / "flows", "-O", "content=flows", "--lateness", "1000d")
            told = subprocess.run(["nfdump", "-R", written, "-I"], capture_output=True, text=True, check=True).stdout
            flows = int(next(line for line in told.splitlines() if line.startswith("Flows:")).split()[1])
            stored = sum(info.row_count for info in ChunkStore(place / "flows" / "chunks").list())
            return [
                Bar("datagrams sent", sent),
                Bar("times that the ring's ingest was killed", kills),
                equal("nsstream-tcpdump: stored", *account(place / "piped", sent)),
                equal("dropped by the kernel, as tcpdump says", dropped(said["tcpdump"]), 0),
                equal("nsstream-dumpcap: stored", *account(place / "ring", sent), beside=said["dumpcap"].strip()),
                equal(f"nfcapd's hook: flows of {exports} exports stored", stored + late, flows),
            ]
        finally:
            for child in children:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            subprocess.run(["ip", "netns", "del", name], check=False)


def account(state: Path, sent: int) -> tuple[str, str]:
    """How many datagrams are stored, and how many of them are different; and what that must be."""
    store = ChunkStore(state / "chunks")
    chunks = [store.read(info.path).packets for info in store.list()]
    port = np.concatenate([c.source_transport_port.astype(np.int64) for c in chunks]) - FIRST_PORT
    number = port + PORTS * (np.concatenate([c.ip_total_length.astype(np.int64) for c in chunks]) - 36)
    return f"{len(number):,}, {len(np.unique(number)):,} different", f"{sent:,}, {sent:,} different"


def dropped(said: str) -> int:
    return int(next(line for line in said.splitlines() if "dropped by kernel" in line).split()[0])


def run_ingest(source: str, state: Path, *options: str) -> int:
    """Ingest a spool to its end; how many rows came late, which are stored apart."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "nsstream_daemon",
        "ingest",
        source,
        "--state",
        str(state),
        "-O",
        "follow=false",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    found = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("late ")]
    return int(found[0].replace(",", "")) if found else 0


def wait_until(is_so: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > until_s:
            raise RuntimeError("a tool did not begin")
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("wireshark", "notebooks", "accounts"))
    parser.add_argument("--packets", type=int, default=20_000, help="of notebooks (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of accounts (%(default)s)")
    parser.add_argument("--rate", type=float, default=1000.0, help="datagrams a second (%(default)s)")
    parser.add_argument("--model", type=Path, help="of wireshark: whose first packet is waited for as well")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.what == "wireshark":
        bars, beside = wireshark(asked.model), "beside"
    elif asked.what == "notebooks":
        bars, beside = notebooks(asked.packets), ""
    else:
        bars, beside = accounts(asked.minutes, asked.rate), "beside"
    show(f"plugins: {asked.what}", bars, beside)
    return finish(as_dict(bars), asked.json, passed=None if asked.what == "notebooks" else has_passed(bars))


if __name__ == "__main__":
    sys.exit(run_main(main))
