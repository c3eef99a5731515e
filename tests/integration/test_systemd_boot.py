"""The shipped units under a real systemd, with real traffic: a container is booted once, and each test goes on there.

What is shown in this order: installed; ready, and training within the sandbox; a reload; a hang and a kill; the replay
unit, which follows as its own user; a stop under load; the socket that outlives the daemon; the journal; removed.
"""

import json
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_netflow import data_set, template_set, v9
from namespaces import namespace
from socket_holder import Exporter
from systemd_box import COMPILES_S, HAS_TOOLS, INSIDE, NEEDS, NSSTREAM, Box, wait_until
from test_service_real import two_chunks_of_the_lab

from nsstream.chunk import ChunkStore

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_TOOLS, reason=NEEDS),
]

CONFIG = "/etc/nsstream/nsstream.toml"
DROP_IN = "/run/systemd/system/nsstreamd.service.d/test.conf"
STATE = "/var/lib/nsstream"
KEYS = "/etc/nsstream/replay"
CLIENT_KEYS = "/var/lib/lab-keys"  # of whoever steers, in the box
TWIN = "/var/lib/nsstream-replay/twin.pcap"
WATCHDOG_S = 8
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b(?:[0-9a-f]{1,4}:){3,}[0-9a-f:]+", re.IGNORECASE)


def configuration(
    *, source: str = "live:tap", state: str = STATE, keep: str = "7d", is_learned: bool = True, chunk_s: int = 5
) -> str:
    return f"""
state = "{state}"
[source]
input = "{source}"
[chunks]
length_s = {chunk_s}
lateness_s = {1 if is_learned else 3}
keep_for_s = "{keep}"
[training]
enabled = {json.dumps(is_learned)}
address_key = "credential:nsstream.address-key"
seed_steps = 2
steps = 2
silence_s = 170
fewest_conversations = 30
[gate]
worst_ratio = 3.0
drawn_conversations = 40
[control]
socket = "/run/nsstream/control.sock"
metrics_port = 0
"""


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "lab.pcap"
    path.write_bytes(two_chunks_of_the_lab())
    return path


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    booted = Box(tmp_path_factory.mktemp("systemd"))
    try:
        booted.boot()
        yield booted
    finally:
        booted.close()


@pytest.fixture(autouse=True)
def _what_was_said(box: Box) -> Iterator[None]:
    """Of a test that fails, pytest shows the end of the journal."""
    yield
    print(box.run("journalctl", "--boot", "--no-pager", "--lines=60", "--output=short-precise").stdout)
    print(json.dumps(box.ask("status"), indent=1))


def send(box: Box, capture: Path, *options: str) -> int:
    """Let the box's tap hear a capture; gives its packets."""
    command = box.beside("tcpreplay", "--intf1=tap", "--pps=2000", *options, str(capture))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.search(r"Successful packets:\s+(\d+)", done.stdout)
    assert found is not None
    return int(found[1])


def kept(box: Box) -> int:
    status = box.ask("status")
    return 0 if status is None else int(status["capture"]["tally"]["kept"])


def is_capturing(box: Box) -> bool:
    status = box.ask("status")
    return status is not None and bool(status["ready"])


def restarts(box: Box) -> int:
    return int(box.show("nsstreamd.service", "NRestarts")["NRestarts"])


def queued_octets(box: Box) -> int:
    """What waits in the socket for exports."""
    return int(box.run("ss", "--udp", "--listening", "--no-header", "sport = :2055").stdout.split()[1])


def promoted(box: Box) -> list[dict[str, Any]]:
    """The models that passed the gate, the newest first."""
    return [model for model in box.ask("models") or [] if model["passed"]]


def worker_status() -> dict[str, str]:
    """Of a worker that is at work, what the kernel says of it."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            if command.startswith(b"/opt/nsstream/bin/python3") and b"nsstream.train.worker" in command:
                return dict(
                    line.split(":\t", 1) for line in (path / "status").read_text().splitlines() if ":\t" in line
                )
        except OSError:
            continue  # it has ended
    return {}


def test_the_units_are_installed_by_the_command_that_shows_what_it_does(box: Box):
    shown = box.run(NSSTREAM, "install-systemd").stdout
    assert "write   /etc/systemd/system/nsstreamd.service\n" in shown
    assert shown.endswith("run     systemctl daemon-reload\nnothing was done; --yes does it\n")
    assert not box.path("/etc/systemd/system/nsstreamd.service").exists()
    assert "\ndone\n" in box.run(NSSTREAM, "install-systemd", "--yes").stdout
    assert box.run("id", "--user", "--name", "nsstream-replay").stdout == "nsstream-replay\n"
    assert box.run("stat", "--format=%U %a", f"{STATE}/models").stdout == "nsstream 750\n"
    assert box.show("nsstreamd.service", "LoadState", "ActiveState") == {
        "LoadState": "loaded",
        "ActiveState": "inactive",
    }
    told = box.run(
        "systemd-analyze", "verify", "--man=no", "nsstreamd.service", "nsstreamd.socket", "nsstream-replay.service"
    )
    assert (told.stdout, told.stderr) == ("", "")


def test_the_daemon_is_ready_and_learns_within_the_sandbox(box: Box, capture: Path):
    box.seed_machine_code("/var/cache/nsstream", "nsstream")
    box.write(CONFIG, configuration())
    box.run("mkdir", "--mode=700", "--parents", "/etc/credstore")
    box.run(NSSTREAM, "keys", "address", "/etc/credstore/nsstream.address-key")
    box.run("systemctl", "start", "nsstreamd")  # returns when READY=1 has come, or with a failure
    told = box.show("nsstreamd.service", "ActiveState", "SubState", "NRestarts", "User", "StatusText")
    assert (told["ActiveState"], told["SubState"], told["NRestarts"], told["User"]) == (
        "active",
        "running",
        "0",
        "nsstream",
    )
    sent = send(box, capture)  # at once: who is ready misses nothing
    wait_until(lambda: kept(box) == sent, COMPILES_S)
    status = wait_until(worker_status, COMPILES_S)
    assert (int(status["CapEff"], 16), int(status["CapAmb"], 16), status["NoNewPrivs"], status["Seccomp"]) == (
        0,
        0,
        "1",
        "2",
    )
    wait_until(lambda: promoted(box), COMPILES_S)
    send(box, capture)
    wait_until(lambda: len(promoted(box)) > 1, COMPILES_S)
    assert "model" in box.show("nsstreamd.service", "StatusText")["StatusText"]
    assert not box.path(f"{STATE}/address.key").exists()  # it is a credential, and nowhere else


def test_a_reload_holds_when_systemctl_returns_and_a_refused_one_changes_nothing(box: Box):
    box.write(CONFIG, configuration(keep="6d"))
    box.run("systemctl", "reload", "nsstreamd")
    (entry,) = box.journal("NSSTREAM_EVENT=reloaded")
    assert entry["NSSTREAM_CHANGES"] == "chunks.keep_for_s"
    box.write(CONFIG, configuration(source="live:net"))
    refused = box.run("systemctl", "reload", "nsstreamd", ok=False)
    assert refused.returncode != 0
    (entry,) = box.journal("NSSTREAM_EVENT=reload_refused")
    assert entry["NSSTREAM_ERROR"].startswith("source.input: cannot change while the daemon runs; restart it")
    assert box.show("nsstreamd.service", "ActiveState")["ActiveState"] == "active"
    box.write(CONFIG, configuration())


def test_a_hung_and_a_killed_daemon_are_started_anew_and_capture_goes_on(box: Box, capture: Path):
    box.write(DROP_IN, f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "restart", "nsstreamd")
    wait_until(lambda: is_capturing(box))
    hung = box.show("nsstreamd.service", "MainPID")["MainPID"]
    box.run("systemctl", "kill", "--kill-who=main", "--signal=STOP", "nsstreamd")
    wait_until(lambda: restarts(box) >= 1)
    messages = [str(entry["MESSAGE"]) for entry in box.journal("UNIT=nsstreamd.service")]
    assert f"nsstreamd.service: Watchdog timeout (limit {WATCHDOG_S}s)!" in messages
    wait_until(lambda: is_capturing(box))
    box.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "nsstreamd")
    wait_until(lambda: restarts(box) >= 2)
    wait_until(lambda: is_capturing(box))
    assert box.show("nsstreamd.service", "MainPID")["MainPID"] != hung
    before = kept(box)
    sent = send(box, capture, "--limit=500")
    wait_until(lambda: kept(box) == before + sent)


def test_the_replay_unit_follows_as_its_own_user_and_lets_in_whom_it_knows(box: Box, tmp_path: Path):
    box.run(NSSTREAM, "keys", "server", KEYS)
    box.run("mv", f"{KEYS}/server.key_secret", "/etc/credstore/nsstream.replay-key")
    box.run(NSSTREAM, "keys", "client", CLIENT_KEYS, "lab")
    box.run(NSSTREAM, "keys", "allow", KEYS, f"{CLIENT_KEYS}/lab.key")
    box.run("chgrp", "-R", "nsstream-replay", KEYS)
    box.run("chmod", "750", KEYS, f"{KEYS}/clients")
    options = f"--endpoint tcp://{INSIDE}:5555 --keys {KEYS} --secret-key credential:nsstream.replay-key"
    box.write("/etc/nsstream/replay.env", f"NSSTREAM_REPLAY_OPTIONS={options}\n")
    box.seed_machine_code("/var/cache/nsstream-replay", "nsstream-replay")
    box.run("systemctl", "start", "nsstream-replay")

    def steer(*command: str, key: str = "lab", ok: bool = True) -> subprocess.CompletedProcess[str]:
        keys = ["--key", f"{CLIENT_KEYS}/{key}.key_secret", "--server-key", f"{KEYS}/server.key"]
        return box.run(NSSTREAM, "send", *command, "--endpoint", f"tcp://{INSIDE}:5555", *keys, ok=ok)

    wait_until(lambda: steer("hello", ok=False).returncode == 0)
    pid = box.show("nsstream-replay.service", "MainPID")["MainPID"]
    assert box.run("stat", "--format=%U", f"/proc/{pid}").stdout == "nsstream-replay\n"
    seen = str(Path("/proc", pid, "root", "var/lib/nsstream"))
    assert box.run("ls", seen).stdout == "models\n"  # no chunks, no ledger, no keys
    follow = json.dumps({"kind": "follow", "directory": f"{STATE}/models", "wait_s": 5})
    steer("start", "--stream", follow, "--output", TWIN, "--force")

    def status() -> dict[str, Any]:
        return dict(json.loads(steer("status").stdout))

    wait_until(lambda: status()["packets_written"] > 0, COMPILES_S)
    first = status()["model_id"]
    other = next(model["id"] for model in promoted(box) if model["id"] != first)
    box.run(NSSTREAM, "ctl", "promote", other)
    wait_until(lambda: status()["model_id"] == other)
    assert status()["state"] == "running"
    steer("stop")
    wait_until(lambda: status()["state"] == "stopped")

    box.run(NSSTREAM, "keys", "client", CLIENT_KEYS, "stranger")
    assert steer("hello", key="stranger", ok=False).returncode == 1
    box.run("systemctl", "stop", "nsstream-replay")
    assert box.show("nsstream-replay.service", "Result")["Result"] == "success"


def test_a_stop_under_load_takes_less_than_five_seconds(box: Box, capture: Path):
    box.write(DROP_IN, "[Service]\nTimeoutStopSec=5\n")  # beyond, systemd kills it, and the result is no success
    box.run("systemctl", "daemon-reload")
    command = box.beside("tcpreplay", "--intf1=tap", "--pps=5000", "--loop=0", str(capture))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as traffic:
        try:
            before = kept(box)
            wait_until(lambda: kept(box) > before + 5000)
            box.run("systemctl", "stop", "nsstreamd")
        finally:
            traffic.kill()
    told = box.show("nsstreamd.service", "ActiveState", "Result", "ExecMainStatus")
    assert told == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}


def test_the_socket_outlives_the_daemon_and_no_export_is_lost(box: Box):
    box.write(CONFIG, configuration(source="netflow:@", state=f"{STATE}/netflow", is_learned=False, chunk_s=1))
    box.run("systemctl", "start", "nsstreamd.socket")
    exporter = NamespacedExporter(box.namespace, (INSIDE, 2055))
    exporter.start()
    try:
        for _ in range(3):
            wait_until(lambda: kept(box) > 1000, COMPILES_S)  # of this process; the first export has started the first
            box.run("systemctl", "restart", "nsstreamd")
    finally:
        exporter.is_told_to_stop.set()
        exporter.join()
    count = exporter.sent
    wait_until(lambda: queued_octets(box) == 0)
    box.run("systemctl", "stop", "nsstreamd")
    store = ChunkStore(box.path(f"{STATE}/netflow/chunks"))
    numbers = sorted(
        struct.unpack("!I", bytes(row[12:]))[0]
        for info in store.list()
        for row in store.read(info.id).flows.source_address
    )
    assert numbers == list(range(count))
    assert count > 3000
    box.run("systemctl", "stop", "nsstreamd.socket")


def test_events_are_in_the_journal_with_fields_and_no_address_is(box: Box):
    stored = box.journal("_SYSTEMD_UNIT=nsstreamd.service", "NSSTREAM_EVENT=chunk_stored")
    assert stored
    assert {"NSSTREAM_CHUNK", "NSSTREAM_ROWS", "CODE_FILE", "CODE_LINE", "CODE_FUNC"} <= stored[0].keys()
    assert (stored[0]["PRIORITY"], stored[0]["SYSLOG_IDENTIFIER"]) == ("6", "nsstream")
    (first, *_) = box.journal("NSSTREAM_EVENT=model_promoted")
    assert {"NSSTREAM_MODEL", "NSSTREAM_JOB", "NSSTREAM_CHUNK", "NSSTREAM_LOSS"} <= first.keys()
    assert [entry["NSSTREAM_REASON"] for entry in box.journal("NSSTREAM_EVENT=daemon_stops")][:1] == ["SIGTERM"]
    entries = box.journal("_SYSTEMD_UNIT=nsstreamd.service") + box.journal("_SYSTEMD_UNIT=nsstream-replay.service")
    told = [
        f"{name}={value}"
        for entry in entries
        for name, value in entry.items()
        if name == "MESSAGE" or name.startswith("NSSTREAM_")
    ]
    assert len(told) > 20
    listens = f"tcp://{INSIDE}:5555"  # where the replay server listens, as it was told
    assert [line for line in told if ADDRESS.search(line.replace(listens, ""))] == []


def test_what_was_installed_goes_and_what_was_learned_stays(box: Box):
    box.run("systemctl", "enable", "nsstreamd", "nsstream-replay")
    told = box.run(NSSTREAM, "install-systemd", "--remove", "--yes").stdout
    assert f"keep    {CONFIG}: it was edited\n" in told
    assert box.show("nsstreamd.service", "LoadState")["LoadState"] == "not-found"
    left = box.run("find", "/etc/systemd", "/etc/sysusers.d", "/etc/tmpfiles.d", "-name", "*nsstream*").stdout
    assert left == ""
    assert box.run("ls", f"{STATE}/models").stdout


class NamespacedExporter(Exporter):
    """Sends from a network namespace, from its first datagram on."""

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        super().__init__(address, lambda number: v9(template_set(9), data_set(number, 1), sequence=number))
        self._name = name

    def run(self) -> None:
        with namespace(self._name):
            super().run()
