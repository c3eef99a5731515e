"""What the clients do: page loads, look-ups, shell sessions, copies, echoes, scans and bulk transfers, all bounded.

Every behaviour runs real software in a client's namespace and is driven by its own seeded generator; the kernel, the
links and the load of the machine still make each run different in time. Waits between actions are log-normal, so that
there are bursts and pauses; near the middle all clients but the time daemons fall silent for a while.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import DOMAIN, GATEWAYS, HOSTS, LAN, Lab
from services import NAMES, OBJECT_COUNT

COMMAND_TIMEOUT_S = 30.0
SILENCE = (0.47, 0.52)  # of the whole duration
SHELL_COMMANDS = ("uptime", "ls -l /usr/bin | head -40", "df -h", "seq 1 300", "ps", "cat /etc/services | head -60")
MISSING = ("wpad", "printer", "update.corp", "isatap", "mail2", "typo")

Behaviour = Callable[["Client"], None]


@dataclass(frozen=True)
class Client:
    """One behaviour's view of the lab: where it runs, its chance, and when it must end (monotonic seconds)."""

    lab: Lab
    host: str
    rng: random.Random
    start_s: float
    end_s: float

    def run(self, *command: str) -> subprocess.CompletedProcess[str] | None:
        """Run a command on the client; None if it was ended after `COMMAND_TIMEOUT_S`, or the lab closes."""
        if self.lab.closing.is_set():
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.lab.run(self.host, *command, timeout_s=COMMAND_TIMEOUT_S)
        return None

    def pause(self, median_s: float, sigma: float = 0.8, most_s: float = 45.0) -> bool:
        """Wait a log-normal time, and through the common silence; False when the time is over."""
        self._wait(min(self.rng.lognormvariate(0, sigma) * median_s, most_s, self.end_s - time.monotonic()))
        silent_from_s, silent_to_s = (self.start_s + part * (self.end_s - self.start_s) for part in SILENCE)
        if silent_from_s <= time.monotonic() < silent_to_s:
            self._wait(silent_to_s - time.monotonic() + 2.0 * self.rng.random())
        return time.monotonic() < self.end_s and not self.lab.closing.is_set()

    def wait_until(self, part: float) -> None:
        """Wait until that part of the whole duration has passed."""
        self._wait(self.start_s + part * (self.end_s - self.start_s) - time.monotonic())

    def _wait(self, wait_s: float) -> None:
        self.lab.closing.wait(max(0.0, wait_s))


def browse(client: Client) -> None:
    """Load pages: a document, then its objects over parallel connections, kept alive or fresh, with think times."""
    rng = client.rng
    while client.pause(9.0, 0.9):
        site = rng.choice(("www", "news", "files"))
        scheme = rng.choice(("http", "https"))
        family = rng.choice(("-4", "-6"))
        client.run(*curl(client, family), *sink(f"{scheme}://{site}.{DOMAIN}/index.html"))
        objects = [rng.randrange(OBJECT_COUNT) for _ in range(min(30, 1 + int(rng.lognormvariate(1.9, 0.7))))]
        elsewhere = {"www": "static", "news": "cdn", "files": "media"}[site]
        urls = [f"{scheme}://{elsewhere if rng.random() < 0.5 else site}.{DOMAIN}/o{number}" for number in objects]
        style = rng.random()
        http = ["--http1.1"] if style < 0.7 else []
        close = ["-H", "Connection: close"] if style < 0.35 else []
        argv = [*curl(client, family), "--parallel", "--parallel-immediate", "--parallel-max", str(rng.choice((3, 6)))]
        client.run(*argv, *http, *close, *sink(*urls))


def call(client: Client) -> None:
    """Call an API: short requests, each on a fresh connection or a few on one that is kept alive."""
    rng = client.rng
    while client.pause(6.0):
        scheme, family = rng.choice(("http", "https")), rng.choice(("-4", "-6"))
        url = f"{scheme}://api.{DOMAIN}/api/v1"
        choice = rng.random()
        if choice < 0.5:
            client.run(*curl(client, family), *sink(url))
        elif choice < 0.8:
            client.run(*curl(client, family), "--data-binary", "x" * rng.randrange(50, 9000), *sink(url))
        else:
            client.run(*curl(client, family), "--rate", "40/m", *sink(*[f"{url}/{n}" for n in range(4)]))


def watch(client: Client) -> None:
    """Fetch paced streams: the server sends at 40 kB/s after a first burst."""
    while client.pause(35.0, 0.4, 80.0):
        scheme, family = client.rng.choice(("http", "https")), client.rng.choice(("-4", "-6"))
        client.run(*curl(client, family), "--max-time", "7", *sink(f"{scheme}://media.{DOMAIN}/stream/large"))


def look_up(client: Client) -> None:
    """Ask the resolver in bursts: A, AAAA, PTR, MX, missing names, a long TXT that falls back to TCP."""
    rng = client.rng
    while client.pause(5.0, 1.0):
        for _ in range(min(8, 1 + int(rng.lognormvariate(0.3, 0.8)))):
            resolver = rng.choice((HOSTS["s1"].ipv4, HOSTS["s1"].ipv6))
            choice = rng.random()
            if choice < 0.68:
                question = [f"{rng.choice(list(NAMES))}.{DOMAIN}", rng.choice(("A", "A", "AAAA"))]
            elif choice < 0.83:
                question = [f"{rng.choice(MISSING)}.{rng.choice((DOMAIN, 'corp.example'))}", rng.choice(("A", "AAAA"))]
            elif choice < 0.92:
                question = ["-x", HOSTS[rng.choice(list(NAMES.values()))].ipv4]
            elif choice < 0.97:
                question = [DOMAIN, "MX"]
            else:
                question = ["+noedns", f"policy.{DOMAIN}", "TXT"]
            client.run("dig", "+tries=2", "+time=1", f"@{resolver}", *question)


def work_in_shell(client: Client) -> None:
    """Type commands into ssh sessions, key by key, at a typist's pace."""
    rng = client.rng
    while client.pause(20.0, 0.6):
        target = rng.choice(("shell", "shell", "git"))
        argv = client.lab.argv(client.host, *_ssh(client, "ssh", rng.choice(("-4", "-6"))), "-tt", f"{target}.{DOMAIN}")
        session = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert session.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            time.sleep(0.8)
            for command in [*rng.sample(SHELL_COMMANDS, rng.randrange(1, 4)), "exit"]:
                for key in command + "\n":
                    session.stdin.write(key.encode())
                    time.sleep(min(1.0, rng.lognormvariate(-2.0, 0.5)))
                if command != "exit":
                    client.pause(1.5, 0.7, 10.0)
            session.stdin.close()
        try:
            session.wait(COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            session.kill()
            session.wait()


def copy_files(client: Client) -> None:
    """Copy files with scp, both ways; run single commands with ssh."""
    rng = client.rng
    web, target = client.lab.directory / "web", f"shell.{DOMAIN}"
    while client.pause(30.0, 0.5, 60.0):
        family = rng.choice(("-4", "-6"))
        source, copy = f"{web}/o{rng.randrange(OBJECT_COUNT)}", str(client.lab.directory / f"copy-{client.host}")
        choice = rng.random()
        if choice < 0.4:
            client.run(*_ssh(client, "scp", family), f"{target}:{source}", copy)
        elif choice < 0.7:
            client.run(*_ssh(client, "scp", family), source, f"{target}:{copy}")
        else:
            client.run(*_ssh(client, "ssh", family), target, "uptime")


def echo(client: Client) -> None:
    """Ping servers and neighbours, over both families; sometimes with a short TTL, to nobody, or in fragments."""
    rng = client.rng
    neighbours = [host.ipv4 for host in HOSTS.values() if host.network == LAN and host.name != client.host]
    while client.pause(9.0, 0.7):
        host = HOSTS[rng.choice(("s1", "s2", "s3", "s4", "s5"))]
        address = rng.choice((host.ipv4, host.ipv6))
        count = ["-c", str(rng.randrange(1, 6)), "-i", rng.choice(("0.2", "1")), "-W", "1"]
        choice = rng.random()
        if choice < 0.65:
            client.run("ping", "-n", *count, address)
        elif choice < 0.75:
            client.run("ping", "-n", *count, "-s", str(rng.randrange(100, 1400)), host.ipv4)
        elif choice < 0.82:
            client.run("ping", "-n", *count, rng.choice(neighbours))
        elif choice < 0.90:
            client.run("ping", "-n", "-c", "1", "-W", "1", "-t", "1", address)
        elif choice < 0.96:
            nobody = rng.choice(("198.51.100.200", "2001:db8:51::c8"))  # the router answers: host unreachable
            client.run("ping", "-n", "-c", "1", "-W", "4", nobody)
        else:
            client.run("ping", "-n", "-c", "1", "-s", "2200", "-M", "dont", host.ipv4)


def knock(client: Client) -> None:
    """Ask a resolver that is not there, and a web port that is closed: port unreachable and resets."""
    rng = client.rng
    while client.pause(15.0, 0.6):
        host = HOSTS[rng.choice(("s2", "s3", "s5"))]
        address = rng.choice((host.ipv4, host.ipv6))
        if rng.random() < 0.6:
            client.run("dig", "+tries=1", "+time=1", f"@{address}", f"www.{DOMAIN}")
        else:
            bracketed = f"[{address}]" if ":" in address else address
            client.run(*curl(client, "--http1.1"), *sink(f"http://{bracketed}:8080/"))


def scan(client: Client) -> None:
    """Scan the lab's own servers with nmap: SYN and connect scans, a few UDP ports, both families."""
    bounds = ["nmap", "-n", "-Pn", "--max-retries", "1", "--max-rate", "120", "--host-timeout", "25s"]
    for part, how in (
        (0.22, ["-sS", "-p", "1-220", HOSTS["s2"].ipv4]),
        (0.40, ["-sU", "-p", "53,67-69,123,137,161,500,514,1900", HOSTS["s5"].ipv4]),
        (0.62, ["-6", "-sT", "-p", "20-139", HOSTS["s3"].ipv6]),
        (0.85, ["-sS", "-p", "22,80,443", GATEWAYS[LAN][0].split("/")[0], *(HOSTS[s].ipv4 for s in NAMES.values())]),
    ):
        client.wait_until(part)
        client.run(*bounds, *how)


def move_bulk(client: Client) -> None:
    """Transfer bulk with iperf3: TCP up and down, and UDP streams of voice and video size."""
    iperf = ["iperf3", "--connect-timeout", "3000", "-c"]
    host = HOSTS["s4"]
    for part, how in (
        (0.12, [host.ipv4, "-n", "1200K"]),
        (0.30, [host.ipv6, "-u", "-b", "64K", "-l", "160", "-t", "8"]),
        (0.56, [host.ipv6, "-R", "-n", "1500K"]),
        (0.74, [host.ipv4, "-R", "-u", "-b", "600K", "-l", "1200", "-t", "6"]),
    ):
        client.wait_until(part)
        client.run(*iperf, *how)


WORK: dict[str, tuple[Behaviour, ...]] = {
    "c1": (browse, look_up, echo),
    "c2": (browse, call, look_up),
    "c3": (browse, look_up, watch),
    "c4": (work_in_shell, copy_files, look_up, echo, scan, knock),
    "c5": (call, look_up, move_bulk, work_in_shell),
    "c6": (browse, look_up, call, echo, copy_files),
}


def run_workload(lab: Lab, duration_s: float, rng: random.Random) -> None:
    """Let every client do its work for that long; return when all have finished (at most a command longer)."""
    start_s = time.monotonic()
    threads = [
        threading.Thread(
            target=behaviour,
            args=(Client(lab, host, random.Random(rng.getrandbits(64)), start_s, start_s + duration_s),),
            name=f"{host}-{behaviour.__name__}",
            daemon=True,  # an interrupt must not wait for them; Lab.close ends what they run
        )
        for host, behaviours in WORK.items()
        for behaviour in behaviours
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def curl(client: Client, family: str) -> list[str]:
    return ["curl", "--silent", family, "--cacert", str(client.lab.directory / "tls" / "cert.pem"), "--max-time", "20"]


def sink(*urls: str) -> list[str]:
    return [word for url in urls for word in ("-o", "/dev/null", url)]


def _ssh(client: Client, program: str, family: str) -> list[str]:
    key: Path = client.lab.directory / "ssh" / "client_key"
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=5")
    login = ("User=root", "LogLevel=ERROR")
    return [program, family, "-F", "none", "-i", str(key), *(word for o in (*options, *login) for word in ("-o", o))]
