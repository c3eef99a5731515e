"""A sidecar of a collector: exporter, pmacct's tee, collector, nsstream beside it, and its twin's exports; all real.

    python bench/sidecar.py [--seconds N] [--steps N] [--directory DIR] [--json OUT]          # as root

In a network namespace of its own: tcpreplay plays the bundled capture over N seconds into a veth pair, softflowd meters
it and exports NetFlow v9 to nfacctd, which is a tee with the configuration that nsstream ships: to nfcapd, the
collector, and over ZeroMQ to `nsstream daemon`, which learns. What it promotes a replay server plays as IPFIX to
another nfcapd. softflowd exports to a third nfcapd as well, with nobody in between. Bars: the collector's flows are
those of the third, line by line; nsstream has each of them once, and nothing else; every flow that the twin sent has
come. Exit status 1 when a bar is missed, 2 when it could not be run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bars.runs import run_main
from bars.verdict import Bar, as_dict, at_least, equal, finish, has_passed, show

from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.chunk import ChunkStore
from nsstream.errors import NsstreamError
from nsstream.replay import spawn_server
from nsstream.replay.rate import parse_rate
from nsstream.trace import FlowTable

ROOT = Path(__file__).parents[1]
CAPTURE = ROOT / "daemon" / "nsstream_daemon" / "data" / "lab.pcap.xz"
CONFIGURATIONS = ROOT / "plugins" / "nsstream_plugins" / "data" / "pmacct"
CAPTURE_S = 384.0
TEE, COLLECTOR, ALONE, TWIN, ZEROMQ = 2055, 2056, 2057, 2058, 50001  # of nsstream-tee.conf and .lst the first two
TOOLS = ("unshare", "ip", "tcpreplay", "softflowd", "nfacctd", "nfcapd", "nfdump", "xz")
DEADLINE_S = 120.0
LEAST_TWIN_FLOWS = 100
LATENESS_S = 15  # an expired flow of ten seconds, and a second until it is exported
INSIDE = "NSSTREAM_BENCH_SIDECAR"
TIMEOUTS = ("tcp=10", "udp=5", "icmp=5", "general=10", "tcp.fin=2", "tcp.rst=2", "maxlife=30", "expint=1")
FORMAT = "fmt:%ts|%te|%pr|%sap|%dap|%flg|%tos|%pkt|%byt|%ra|%in|%out"


class SidecarError(NsstreamError):
    """The lane cannot be run; the message is one sentence."""


def wait_until(what: str, holds: Callable[[], Any], seconds: float = DEADLINE_S) -> Any:
    until_s = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > until_s:
            raise SidecarError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return found


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise SidecarError(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


@contextmanager
def tool(log: Path, *command: object, by: signal.Signals = signal.SIGTERM) -> Iterator[subprocess.Popen[bytes]]:
    """A tool that runs until the context ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(by)
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def queued(port: int) -> int | None:
    """Octets that wait at a UDP port of this namespace; None where nobody listens."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        cells = line.split()
        if int(cells[1].partition(":")[2], 16) == port:
            return int(cells[4].partition(":")[2], 16)
    return None


def drops(port: int) -> int:
    """Datagrams that a UDP port had no room for."""
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(cells[-1]) for cells in lines if int(cells[1].partition(":")[2], 16) == port)


@contextmanager
def nfcapd(directory: Path, port: int) -> Iterator[Path]:
    """nfcapd on a port; what it wrote is whole behind the context."""
    files = directory / f"nfcapd-{port}"
    files.mkdir()
    command = ["nfcapd", "-w", files, "-p", port, "-b", "127.0.0.1", "-t", 3600, "-B", 4 << 20]
    with tool(directory / f"nfcapd-{port}.log", *command):
        wait_until(f"nfcapd at {port}", lambda: queued(port) == 0)
        yield files
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:  # SIGTERM would lose the datagram in hand
            one.sendto(bytes(24), ("127.0.0.1", port))
        wait_until(f"nfcapd at {port}", lambda: queued(port) == 0)


def make_namespace() -> None:
    """Loopback, and a veth pair that nothing but the capture crosses."""
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    run("ip", "link", "set", "dev", "lo", "up")
    run("ip", "link", "add", "name", "tx", "type", "veth", "peer", "name", "rx")
    for device in ("tx", "rx"):
        Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")
        run("ip", "link", "set", "dev", device, "up")


def tee_configuration(directory: Path) -> Path:
    """The files that nsstream ships, with the directory in the place of /etc/pmacct."""
    for path in CONFIGURATIONS.iterdir():
        (directory / path.name).write_text(path.read_text().replace("/etc/pmacct", str(directory)))
    return directory / "nsstream-tee.conf"


def daemon_configuration(directory: Path, seconds: float, steps: int | None) -> Path:
    length_s = max(4, round(seconds / 5))
    training = {"seed_budget_s": 60.0, "budget_s": 20.0, "fewest_conversations": 50, "silence_s": 600.0}
    if steps is not None:
        training |= {"seed_steps": steps, "steps": steps}
    lines = [f'state = "{directory / "state"}"', "[source]", f'input = "pmacct:tcp://127.0.0.1:{ZEROMQ}"', "[chunks]"]
    lines += [f"length_s = {length_s}", f"lateness_s = {LATENESS_S}", "[training]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in training.items()]
    lines += ["[gate]", "worst_ratio = 1e9", "reseed_after = 0", "[control]", "metrics_port = 0"]
    path = directory / "nsstream.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def asked(configuration: Path) -> dict[str, Any]:
    """The daemon's status; nothing while it does not answer."""
    control = configuration.parent / "state" / "control.sock"
    command = [sys.executable, "-m", "nsstream_daemon", "ctl", "status", "--socket", str(control), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout.startswith("{") else {}


def offered(configuration: Path) -> int:
    """Records that the daemon's source has counted."""
    return int(asked(configuration).get("capture", {}).get("tally", {}).get("offered", 0))


def lines_of(files: Path) -> Counter[str]:
    """What nfdump prints of the flows of a directory, in any order."""
    return Counter(run("nfdump", "-q", "-N", "-R", files, "-o", FORMAT).splitlines())


def flows_of(tables: list[FlowTable]) -> Counter[tuple[Any, ...]]:
    """What tells flows apart, in any order; but for ICMP's type, which nfcapd 1.7.1 does not keep of ICMPv6."""
    table = FlowTable.concatenate(tables)
    names = ("protocol_identifier", "source_transport_port", "destination_transport_port")
    counts = ("packet_delta_count", "octet_delta_count")
    ends = (list(map(bytes, getattr(table, name))) for name in ("source_address", "destination_address"))
    return Counter(zip(*ends, *(getattr(table, name).tolist() for name in (*names, *counts)), strict=True))


def flows_in_files(files: Path) -> Counter[tuple[Any, ...]]:
    tables = []
    for path in files.glob("nfcapd.2*"):
        source = NfcapdFileSource(path)
        source.open()
        tables += list(iter(source.read_batch, None))
        source.close()
    return flows_of(tables)


def flows_in_state(state: Path) -> Counter[tuple[Any, ...]]:
    """What nsstream stored, rows that came late among them."""
    stores = [ChunkStore(state / name) for name in ("chunks", "apart") if (state / name).is_dir()]
    tables: list[Any] = [store.read(info.path).table for store in stores for info in store.list()]
    return flows_of(tables)


def play_twin(stack: ExitStack, directory: Path, configuration: Path) -> Any:
    """Follow what the daemon promotes, as IPFIX to a collector."""
    wait_until("a promoted model", lambda: asked(configuration).get("training", {}).get("promoted"), 600.0)
    client = stack.enter_context(spawn_server())
    sink = {"kind": "netflow", "address": "127.0.0.1", "port": TWIN, "version": 10, "times": "now"}
    follow = {"kind": "follow", "directory": str(directory / "state" / "models")}
    client.start(follow, sink, rate=parse_rate("2kpps"))
    return client


def ended(client: Any) -> Any:
    """The status of a run that has ended; None while it goes on."""
    status = client.status()
    return status if status.state in ("stopped", "done", "failed") else None


def measure(directory: Path, seconds: float, steps: int | None) -> list[Bar]:
    make_namespace()
    capture = directory / "lab.pcap"
    with capture.open("wb") as file:
        subprocess.run(["xz", "-dc", CAPTURE], stdout=file, check=True)
    configuration = daemon_configuration(directory, seconds, steps)
    with ExitStack() as ends:
        collected, alone, twin = (ends.enter_context(nfcapd(directory, port)) for port in (COLLECTOR, ALONE, TWIN))
        tee = directory / "nfacctd.log"
        ends.enter_context(tool(tee, "nfacctd", "-f", tee_configuration(directory), by=signal.SIGINT))
        wait_until("nfacctd", lambda: queued(TEE) == 0)
        nsstream = [sys.executable, "-m", "nsstream_daemon", "daemon", "-c", configuration]
        daemon = ends.enter_context(tool(directory / "nsstream.log", *nsstream))
        wait_until("nsstream at the tee", lambda: f":{ZEROMQ}" in run("ss", "-Htn", "state", "established"))
        exported = export(directory, capture, seconds)
        wait_until("the tee", lambda: queued(TEE) == 0)
        wait_until("nsstream", lambda: offered(configuration) >= exported)
        with ExitStack() as stack:
            client = play_twin(stack, directory, configuration)
            wait_until("the twin", lambda: client.status().counters.get("flows_sent", 0) >= LEAST_TWIN_FLOWS)
            client.stop()
            played = wait_until("the twin's end", lambda: ended(client))
        records = offered(configuration)
        lost = {port: drops(port) for port in (TEE, COLLECTOR, ALONE, TWIN)}
        status = stopped(daemon)
    theirs, ours = flows_in_files(alone), flows_in_state(directory / "state")
    sent = played.counters["flows_sent"]
    return [
        equal("flows that softflowd says it exported", sum(theirs.values()), exported),
        equal("datagrams that had no room", sum(lost.values()), 0),
        equal("lines of the collector that are not those without a tee", len(lines_of(collected) - lines_of(alone)), 0),
        equal("lines without a tee that the collector has not", len(lines_of(alone) - lines_of(collected)), 0),
        equal("records that were offered to nsstream", records, exported),
        equal("flows that nsstream lacks", (theirs - ours).total(), 0),
        equal("flows that nsstream has beyond", (ours - theirs).total(), 0),
        equal("exit status of nsstream", status, 0),
        at_least("flows that the twin sent", sent, LEAST_TWIN_FLOWS),
        equal("flows of the twin that nfcapd has", sum(flows_in_files(twin).values()), sent),
    ]


def export(directory: Path, capture: Path, seconds: float) -> int:
    """Meter the capture as it is played; how many flow records softflowd says it exported."""
    log = directory / "softflowd.log"
    targets = f"127.0.0.1:{TEE},127.0.0.1:{ALONE}"
    timeouts = [part for name in TIMEOUTS for part in ("-t", name)]
    places = ["-p", directory / "softflowd.pid", "-c", directory / "softflowd.ctl"]
    with tool(log, "softflowd", "-i", "rx", "-n", targets, "-v", 9, "-d", "-m", 65536, *timeouts, *places):
        wait_until("softflowd", (directory / "softflowd.ctl").exists)
        run("tcpreplay", "-q", "-i", "tx", f"--multiplier={CAPTURE_S / seconds:g}", capture)
        told = run("softflowctl", "-c", directory / "softflowd.ctl", "expire-all")
        told += run("softflowctl", "-c", directory / "softflowd.ctl", "statistics")
    (directory / "statistics.txt").write_text(told)
    found = re.search(r"Flows exported: \d+ \((\d+) records\)", told)
    if found is None:
        raise SidecarError(f"softflowd does not say what it exported: {told[-300:]}")
    return int(found[1])


def stopped(daemon: subprocess.Popen[bytes]) -> int:
    daemon.terminate()
    return daemon.wait(DEADLINE_S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="over which the capture is played (default 300)")
    parser.add_argument("--steps", type=int, help="of each training, in place of a budget")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="keep logs, flows and state there")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    options = parser.parse_args()
    if missing := [name for name in TOOLS if shutil.which(name) is None]:
        raise SidecarError(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        raise SidecarError("this needs root, for a network namespace")
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory(prefix="nsstream-sidecar-") as temporary:
        directory = options.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        bars = measure(directory, options.seconds, options.steps)
    show(f"A sidecar of a collector, over {options.seconds:g} s", bars)
    return finish(as_dict(bars), options.json, passed=has_passed(bars))


if __name__ == "__main__":
    run_main(main)
