"""A home: 27 devices behind a router, what each of them does, and the servers of their makers.

The router (`core`) runs dnsmasq for DHCP, router advertisements and DNS; the makers' servers are those of the lab.
Devices ask for an address, look up names, set their clocks, hold an MQTT connection, call their makers' servers, tell
of themselves by mDNS, UPnP, WS-Discovery and broadcasts, and are found, read and switched by phones and a computer.
All of it is real software but UPnP's side of a device (`upnp.py`). Some are there from the beginning, others are
switched on later, and most are once switched off and on again.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lab import DOMAIN, GATEWAYS, HOME, NETNS_ETC, SERVERS, SRV, Host, Lab, LabError
from links import Impairment
from services import WEB_HOSTS, certificate, start_dns, start_time, start_web
from workload import Behaviour, Client, curl, sink

HOME_DOMAIN = "home.test"
MAKERS = {  # a name of a maker's, or of what the web is, the host of the lab, and at how many addresses it is
    "mqtt": ("s2", 4), "plugs": ("s2", 3), "bulbs": ("s3", 3), "hub": ("s3", 4), "camera": ("s4", 5),
    "speaker": ("s4", 6), "tv": ("s2", 4), "climate": ("s3", 2), "sensors": ("s4", 2), "printer": ("s2", 1),
    "apps": ("s3", 6), "www": ("s2", 8), "news": ("s3", 6), "files": ("s4", 4), "media": ("s4", 6), "pool": ("s1", 5),
}  # fmt: skip
FIRST_NUMBER = 100  # of their addresses, on the servers' network
MQTTS_PORT, BULB_PORT, WSD_PORT = 8883, 56700, 3702
ROUTER = GATEWAYS[HOME][0].split("/")[0]
BROADCAST = ROUTER.rsplit(".", 1)[0] + ".255"
MDNS, WSD = "224.0.0.251", "239.255.255.250"
UPNP = Path(__file__).with_name("upnp.py")
KINDS = ("_googlecast._tcp", "_hap._tcp", "_ipp._tcp", "_http._tcp", "_airplay._tcp")

DHCP_SCRIPT = """#!/bin/sh
case "$1" in
  deconfig) ip -4 address flush dev "$interface" ;;
  bound|renew)
    ip -4 address replace "$ip/$mask" dev "$interface"
    ip -4 route replace default via "$router" ;;
esac
"""

ROUTER_DNSMASQ = """
keep-in-foreground
no-resolv
no-hosts
user=root
pid-file
bind-interfaces
interface={bridge}
except-interface=lo
server={resolver}
domain={domain}
local=/{domain}/
dhcp-authoritative
no-ping
dhcp-leasefile={folder}/leases
dhcp-range={first},{last},255.255.255.0,10m
enable-ra
dhcp-range=::,constructor:{bridge},slaac,10m
"""

MOSQUITTO = """
listener {port}
certfile {tls}/cert.pem
keyfile {tls}/key.pem
allow_anonymous true
persistence false
user root
"""

AVAHI = """[server]
host-name={name}
enable-dbus=no
allow-interfaces={name}
[publish]
publish-workstation=no
"""

AVAHI_SERVICE = """<?xml version="1.0"?><!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group><name>{name}</name><service><type>{kind}</type><port>{port}</port>
<txt-record>id={name}-0123456789abcdef</txt-record><txt-record>md=Lab model 1</txt-record></service></service-group>
"""


@dataclass(frozen=True)
class Device(Host):
    """A device of the home and what it does."""

    does: tuple[Behaviour, ...] = ()
    service: str = ""  # of mDNS, if it tells of any


def _wifi(delay_ms: float, loss: float = 0.004) -> Impairment:
    return Impairment(delay_s=delay_ms / 1e3, jitter_s=delay_ms / 1e3, rate_bits_per_s=20e6, loss=loss)


def address_of(client: Client) -> str | None:
    """The IPv4 address that a device has now."""
    told = client.run("ip", "-4", "-o", "address", "show", "dev", client.host, "scope", "global")
    words = told.stdout.split() if told is not None else []
    return words[3].split("/")[0] if len(words) > 3 else None


def join(client: Client) -> bool:
    """Ask for an address, as after power comes; whether there is one."""
    script = client.lab.directory / "udhcpc.sh"
    client.run("ip", "link", "set", client.host, "down")
    client.run("ip", "link", "set", client.host, "up")
    once = ("-q", "-n", "-f", "-t", "4")
    client.run("udhcpc", "-i", client.host, "-s", str(script), *once, "-x", f"hostname:{client.host}")
    return address_of(client) is not None


def set_time(client: Client) -> None:
    """Ask for the time, once, and do not set it."""
    client.run("chronyd", "-Q", "-t", "4", f"server pool.{DOMAIN} iburst maxsamples {client.rng.choice((1, 1, 4))}")


def telemetry(client: Client, topic: str, median_s: float, until_s: float) -> None:
    """Hold an MQTT connection over TLS, and tell of the device now and then."""
    cert, rng = client.lab.directory / "tls" / "cert.pem", client.rng
    argv = client.lab.argv(
        *(client.host, "mosquitto_pub", "-h", f"mqtt.{DOMAIN}", "-p", str(MQTTS_PORT), "--cafile", str(cert)),
        *("--insecure", "-k", str(rng.choice((15, 30))), "-i", client.host, "-t", f"{topic}/{client.host}", "-l"),
        *("-q", str(rng.choice((0, 1)))),
    )
    session = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, bufsize=0
    )
    assert session.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        while session.poll() is None and time.monotonic() < until_s and client.pause(median_s, 0.5):
            numbers = {"on": rng.randrange(2), "watt": round(rng.lognormvariate(3, 1), 2), "rssi": -50}
            session.stdin.write(f"{numbers}{'.' * rng.choice((0, 0, 40))}\n".encode())
        session.stdin.close()
    try:
        session.wait(5.0)
    except subprocess.TimeoutExpired:
        session.kill()
        session.wait()


def lives(client: Client) -> list[tuple[float, float]]:
    """When a device is on (monotonic seconds): from early or late on, with a pause of some seconds in most."""
    rng = client.rng
    latest = 0.08 if rng.random() < 0.5 else 0.6
    begin_s = client.start_s + (client.end_s - client.start_s) * rng.uniform(0, latest)
    if rng.random() < 0.35:
        return [(begin_s, client.end_s)]
    middle_s = begin_s + (client.end_s - begin_s) * rng.uniform(0.3, 0.8)
    return [(begin_s, middle_s), (middle_s + rng.uniform(3, 15), client.end_s)]


def live(client: Client, work: Behaviour) -> None:
    """Do a work while the device is on, each time after asking for an address and the time."""
    for begin_s, until_s in lives(client):
        client.lab.closing.wait(max(0.0, begin_s - time.monotonic()))
        if client.lab.closing.is_set() or time.monotonic() >= client.end_s:
            return
        now = Client(client.lab, client.host, client.rng, client.start_s, min(until_s, client.end_s))
        if join(now):
            if now.rng.random() < 0.8:
                set_time(now)
            work(now)


def fetch(client: Client, url: str, *options: str) -> None:
    """One request to a maker's server, over IPv4 or as the resolver says."""
    client.run(*curl(client, client.rng.choice(("-4", "-4", "-6"))), *options, *sink(url))


def _send(client: Client, octets: bytes, where: str) -> None:
    argv = client.lab.argv(client.host, "socat", "-t", "0.3", "-", where)
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(argv, input=octets, capture_output=True, timeout=5.0)


def plug(client: Client) -> None:
    """Register over HTTPS, then hold an MQTT connection."""
    fetch(client, f"https://plugs.{DOMAIN}/api/register", "--data-binary", "x" * 180)
    telemetry(client, "plugs", 9.0, client.end_s)


def bulb(client: Client) -> None:
    """Answer broadcasts of phones; tell the neighbourhood of itself, and its maker's server rarely."""
    heard = client.lab.start(
        client.host, "socat", "-T", "2", f"UDP4-RECVFROM:{BULB_PORT},fork",
        "SYSTEM:cat >/dev/null; printf %052d 1", log="bulbs.log",
    )  # fmt: skip
    while client.pause(14.0, 0.5):
        if client.rng.random() < 0.7:
            _send(client, b"%038d" % client.rng.getrandbits(20), f"UDP4-DATAGRAM:{BROADCAST}:{BULB_PORT},broadcast")
        else:
            fetch(client, f"http://bulbs.{DOMAIN}/api/state")
    heard.terminate()


def camera(client: Client) -> None:
    """Say hello by WS-Discovery, upload pictures, ask for commands over a connection that is kept."""
    _send(client, b"<?xml version='1.0'?><Hello>" + b"x" * 560 + b"</Hello>", f"UDP4-DATAGRAM:{WSD}:{WSD_PORT}")
    while client.pause(7.0, 0.5):
        if client.rng.random() < 0.5:
            picture = "x" * int(client.rng.lognormvariate(10, 0.4))
            fetch(client, f"https://camera.{DOMAIN}/api/picture", "--data-binary", picture, "--limit-rate", "60k")
        else:
            asked = [f"https://camera.{DOMAIN}/api/poll/{n}" for n in range(4)]
            client.run(*curl(client, "-4"), "--rate", "30/m", *sink(*asked))


def speaker(client: Client) -> None:
    """Tell of itself by mDNS and UPnP; stream music in pieces."""
    with announced(client):
        while client.pause(12.0, 0.6):
            fetch(client, f"https://speaker.{DOMAIN}/o{client.rng.randrange(40)}")
            if client.rng.random() < 0.3:
                client.run(*curl(client, "-4"), "--max-time", "5", *sink(f"http://speaker.{DOMAIN}/stream/large"))


def hub(client: Client) -> None:
    """Tell of itself; poll its maker's server, and hold an MQTT connection."""
    with announced(client):
        threading.Thread(target=telemetry, args=(client, "hubs", 15.0, client.end_s), daemon=True).start()
        while client.pause(11.0, 0.3):
            fetch(client, f"https://hub.{DOMAIN}/api/poll")


def printer(client: Client) -> None:
    """Tell of itself, and ask for new software rarely."""
    with announced(client, has_upnp=False):
        while client.pause(30.0, 0.3):
            fetch(client, f"http://printer.{DOMAIN}/api/version")


def climate(client: Client) -> None:
    """Post what was measured, each time over a connection of its own."""
    while client.pause(12.0, 0.2):
        measured = "t=" + "1" * client.rng.randrange(60, 300)
        fetch(client, f"https://climate.{DOMAIN}/api/measured", "--data-binary", measured)


def sensor(client: Client) -> None:
    """Wake, ask for an address, post a few octets, sleep."""
    while client.pause(25.0, 0.5):
        if join(client):
            measured = "w=" + "7" * client.rng.randrange(20, 90)
            fetch(client, f"http://sensors.{DOMAIN}/api/measured", "--data-binary", measured)


def phone(client: Client) -> None:
    """Find devices by mDNS, UPnP and broadcasts, read their descriptions, use apps and the web."""
    rng = client.rng
    while client.pause(8.0, 0.8):
        choice = rng.random()
        if choice < 0.25:
            for kind in rng.sample(KINDS, rng.randrange(1, 4)):
                client.run("dig", "+tries=1", "+time=1", "-p", "5353", f"@{MDNS}", f"{kind}.local", "PTR")
        elif choice < 0.45:
            target = rng.choice(("ssdp:all", "upnp:rootdevice"))
            found = client.run(sys.executable, str(UPNP), "search", address_of(client) or ROUTER, target)
            for where in found.stdout.split()[: rng.randrange(1, 4)] if found is not None else ():
                client.run("curl", "--silent", "--max-time", "4", "-o", "/dev/null", where)
        elif choice < 0.6:
            for _ in range(rng.randrange(1, 4)):
                _send(client, b"%036d" % rng.getrandbits(20), f"UDP4-DATAGRAM:{BROADCAST}:{BULB_PORT},broadcast")
        elif choice < 0.8:
            for _ in range(rng.randrange(1, 5)):
                fetch(client, f"https://apps.{DOMAIN}/api/v1", "--data-binary", "x" * rng.randrange(40, 2000))
        else:
            number = [rng.randrange(60) for _ in range(rng.randrange(2, 9))]
            site = rng.choice(("www", "news"))
            client.run(
                *curl(client, "-4"), "--parallel", "--parallel-max", "3",
                *sink(*[f"https://{site}.{DOMAIN}/o{n}" for n in number]),
            )  # fmt: skip


def netbios_question(rng: random.Random) -> bytes:
    """Who is the workgroup's master, asked of all (RFC 1002, 4.2.12)."""
    name = "".join(chr(65 + (octet >> 4)) + chr(65 + (octet & 15)) for octet in b"WORKGROUP".ljust(15) + b"\x1d")
    header = rng.randrange(1 << 16).to_bytes(2, "big") + bytes((1, 0x10, 0, 1, 0, 0, 0, 0, 0, 0))
    return header + bytes([len(name)]) + name.encode() + bytes((0, 0, 0x20, 0, 1))


def computer(client: Client) -> None:
    """Much as a phone, and ask by LLMNR and NetBIOS, ping the router, print."""
    rng = client.rng
    while client.pause(10.0, 0.8):
        choice = rng.random()
        if choice < 0.25:
            client.run("dig", "+tries=1", "+time=1", "-p", "5355", "@224.0.0.252", rng.choice(("wpad", "printer")), "A")
        elif choice < 0.4:
            _send(client, netbios_question(rng), f"UDP4-DATAGRAM:{BROADCAST}:137,broadcast")
        elif choice < 0.55:
            client.run("ping", "-n", "-c", str(rng.randrange(1, 5)), "-i", "0.5", "-W", "1", ROUTER)
        else:
            fetch(client, f"https://{rng.choice(('www', 'files', 'media'))}.{DOMAIN}/o{rng.randrange(60)}")


@contextlib.contextmanager
def announced(client: Client, *, has_upnp: bool = True) -> Iterator[None]:
    """Tell of the device by mDNS meanwhile, and by UPnP."""
    device = DEVICES[client.host]
    running = []
    if device.service:
        serve = "mount -t tmpfs none /run && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits"
        running.append(client.lab.start(client.host, "sh", "-c", serve, log=f"avahi-{client.host}.log"))
    address = address_of(client)
    if address is not None and has_upnp:
        every = str(client.rng.choice((30, 45, 60)))
        argv = (sys.executable, str(UPNP), "serve", address, client.host, "--every", every)
        running.append(client.lab.start(client.host, *argv, log="upnp.log"))
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _devices(
    kind: str, does: Behaviour, ttls: tuple[int, ...], wifi: Impairment, *, has_ipv6: bool = True, service: str = ""
) -> list[Device]:
    return [Device(f"{kind}{n + 1}", HOME, 0, wifi, ttl, has_ipv6, (does,), service) for n, ttl in enumerate(ttls)]


DEVICES = {
    device.name: device
    for device in (
        *_devices("plug", plug, (64, 255, 64, 128, 64, 255), _wifi(5), has_ipv6=False),
        *_devices("bulb", bulb, (255, 255, 128, 64), _wifi(4, 0.01), has_ipv6=False),
        *_devices("camera", camera, (64, 64), _wifi(5)),
        *_devices("speaker", speaker, (64, 64), _wifi(3), service="_googlecast._tcp"),
        *_devices("hub", hub, (64, 64), _wifi(1, 0.0), service="_hap._tcp"),
        *_devices("tv", speaker, (64,), _wifi(2), service="_airplay._tcp"),
        *_devices("printer", printer, (128,), _wifi(2), service="_ipp._tcp"),
        *_devices("climate", climate, (128, 64), _wifi(4), has_ipv6=False),
        *_devices("sensor", sensor, (255, 128, 64), _wifi(6, 0.01), has_ipv6=False),
        *_devices("phone", phone, (64, 64, 64), _wifi(3)),
        *_devices("computer", computer, (128,), _wifi(2)),
    )
}
FAR = {"s1": 56, "s2": 51, "s3": 238, "s4": 47, "s5": 117}  # TTLs of makers' servers, some hops away
HOME_HOSTS = (*DEVICES.values(), *(replace(server, ttl=FAR[server.name]) for server in SERVERS))


def start_router(lab: Lab) -> None:
    """Start dnsmasq on the router's side of the home."""
    bridge, prefix = HOME, ROUTER.rsplit(".", 1)[0]
    path = lab.directory / "router.conf"
    path.write_text(
        ROUTER_DNSMASQ.format(
            bridge=bridge, resolver="198.51.100.53", domain=HOME_DOMAIN, folder=lab.directory,
            first=f"{prefix}.50", last=f"{prefix}.199",
        ),
        encoding="ascii",
    )  # fmt: skip
    lab.start("core", "dnsmasq", "-C", str(path), log="router.log")
    lab.wait_for_port("core", 67)


def give_addresses(lab: Lab) -> Path:
    """Give the servers the addresses of all makers' names; a file that says whose is which, for the resolver."""
    lines, number = [], FIRST_NUMBER
    ipv4, ipv6 = (gateway.split("/")[0][:-1] for gateway in GATEWAYS[SRV])
    for name, (host, count) in MAKERS.items():
        for _ in range(count):
            lab.run(host, "ip", "address", "add", f"{ipv4}{number}/24", "dev", host)
            lab.run(host, "ip", "address", "add", f"{ipv6}{number:x}/64", "dev", host, "nodad")
            lines += [f"{ipv4}{number} {name}.{DOMAIN}", f"{ipv6}{number:x} {name}.{DOMAIN}"]
            number += 1
    path = lab.directory / "makers"
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return path


def start_mqtt(lab: Lab) -> None:
    """Start mosquitto on s2, with TLS."""
    path = lab.directory / "mosquitto.conf"
    path.write_text(MOSQUITTO.format(port=MQTTS_PORT, tls=certificate(lab)), encoding="ascii")
    lab.start("s2", "mosquitto", "-c", str(path), log="mosquitto.log")
    lab.wait_for_port("s2", MQTTS_PORT)


def start_home(lab: Lab) -> None:
    """Start the router's and the makers' servers, and write what devices need."""
    script = lab.directory / "udhcpc.sh"
    script.write_text(DHCP_SCRIPT, encoding="ascii")
    script.chmod(0o755)
    for device in DEVICES.values():
        if device.service:
            folder = NETNS_ETC / lab.namespace(device.name) / "avahi"
            (folder / "services").mkdir(parents=True)
            (folder / "avahi-daemon.conf").write_text(AVAHI.format(name=device.name), encoding="ascii")
            told = AVAHI_SERVICE.format(name=device.name, kind=device.service, port=8009)
            (folder / "services" / "device.service").write_text(told, encoding="ascii")
    start_dns(lab, {}, give_addresses(lab))
    start_time(lab)
    for host in WEB_HOSTS:
        start_web(lab, host)
    start_mqtt(lab)
    start_router(lab)


def run_home(lab: Lab, duration_s: float, rng: random.Random) -> None:
    """Let every device live for that long; return when all have finished (at most a command longer)."""
    start_s = time.monotonic()
    threads = [
        threading.Thread(
            target=live,
            args=(Client(lab, name, random.Random(rng.getrandbits(64)), start_s, start_s + duration_s), work),
            name=name,
            daemon=True,
        )
        for name, device in DEVICES.items()
        for work in device.does
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not any((lab.directory / "leases").read_text(encoding="ascii").split()):
        raise LabError("no device of the home got an address: is udhcpc there?")
