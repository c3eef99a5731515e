"""Real servers in the lab, each with throwaway keys and files in the lab's folder.

s1: dnsmasq (53) and chronyd (123); s2, s3, s4: nginx (80, 443); s4: iperf3 (5201); s3, s5: sshd (22).
Each ``start_*`` returns when the server listens.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from lab import DOMAIN, HOSTS, Lab, LabError

NAMES = {  # host name in DNS -> host of the lab
    "ns": "s1",
    "time": "s1",
    "www": "s2",
    "api": "s2",
    "news": "s3",
    "static": "s3",
    "git": "s3",
    "files": "s4",
    "media": "s4",
    "shell": "s5",
}
WEB_HOSTS = ("s2", "s3", "s4")
SSH_HOSTS = ("s3", "s5")
OBJECT_COUNT = 60
OBJECT_LOGNORMAL = (7.9, 1.15)  # median 2.7 kB, mean 5.2 kB
LARGEST_OBJECT_BYTES = 120_000

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_timeout 12s; types {{ text/html html; }} default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  ssl_certificate {tls}/cert.pem; ssl_certificate_key {tls}/key.pem; ssl_session_cache shared:lab:1m;
  server {{
    listen 80; listen [::]:80; listen 443 ssl http2; listen [::]:443 ssl http2;
    root {root};
    location /stream/ {{ alias {root}/; limit_rate_after 30k; limit_rate 40k; }}
    location /api/ {{ default_type application/json; return 200 '{{"state": "ok"}}'; }}
  }}
}}
"""

DNSMASQ = """
keep-in-foreground
no-resolv
no-hosts
user=root
pid-file
port=53
bind-interfaces
listen-address={ipv4},{ipv6}
local=/test/
local=/example/
local=/in-addr.arpa/
local=/ip6.arpa/
cname=cdn.{domain},static.{domain}
mx-host={domain},www.{domain},10
txt-record=policy.{domain},{text}
"""

CHRONYD = "cmdport 0\nbindcmdaddress /\npidfile {pid}\n"

SSHD = """
ListenAddress 0.0.0.0
ListenAddress ::
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/client_key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
"""


def start_dns(lab: Lab, names: dict[str, str] = NAMES, hosts_file: Path | None = None) -> None:
    """Start dnsmasq on s1: A, AAAA and PTR of every name, and of those in the file; NXDOMAIN for the rest."""
    host = HOSTS["s1"]
    config = DNSMASQ.format(ipv4=host.ipv4, ipv6=host.ipv6, domain=DOMAIN, text=",".join(["v=lab1 " + "x" * 200] * 4))
    if hosts_file is not None:
        config += f"addn-hosts={hosts_file}\n"
    for name, server in names.items():
        config += f"host-record={name}.{DOMAIN},{HOSTS[server].ipv4},{HOSTS[server].ipv6},60\n"
    path = lab.directory / "dnsmasq.conf"
    path.write_text(config, encoding="ascii")
    lab.start("s1", "dnsmasq", "-C", str(path), log="dnsmasq.log")
    lab.wait_for_port("s1", 53)


def start_web(lab: Lab, host: str) -> None:
    """Start nginx on a host: HTTP and HTTPS (HTTP/2 where the client offers it), objects of many sizes."""
    root = lab.directory / "web"
    if not root.exists():
        _write_objects(root, random.Random(lab.seed))
    tls = certificate(lab)
    folder = lab.directory / f"nginx-{host}"
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(f"user root;{NGINX.format(folder=folder, tls=tls, root=root)}", encoding="ascii")
    lab.start(host, "nginx", "-p", str(folder), "-c", str(config), log=f"nginx-{host}.log")
    lab.wait_for_port(host, 443)


def start_ssh(lab: Lab, host: str) -> None:
    """Start sshd on a host with a throwaway host key and one client key."""
    folder = lab.directory / "ssh"
    if not folder.exists():
        folder.mkdir(mode=0o700)
        for key in ("host_key", "client_key"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(folder / key))
        (folder / "sshd_config").write_text(SSHD.format(folder=folder), encoding="ascii")
    # sshd insists on /run/sshd; a mount of its own keeps the machine's /run as it was.
    serve = f"mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -e -f {folder}/sshd_config"
    lab.start(host, "sh", "-c", serve, log=f"sshd-{host}.log")
    lab.wait_for_port(host, 22)


def start_time(lab: Lab) -> None:
    """Start chronyd on s1 as a server of its own clock; it never sets the clock."""
    path = lab.directory / "chronyd.conf"
    path.write_text(f"local stratum 2\nallow all\n{CHRONYD.format(pid=path.with_suffix('.pid'))}", encoding="ascii")
    lab.start("s1", "chronyd", "-d", "-x", "-u", "root", "-f", str(path), log="chronyd.log")
    lab.wait_for_port("s1", 123)


def start_time_client(lab: Lab, host: str) -> None:
    """Start chronyd on a client: it asks s1 every 8 to 16 s from a fresh port and never sets the clock."""
    path = lab.directory / f"chronyd-{host}.conf"
    sources = f"server {HOSTS['s1'].ipv4} iburst minpoll 3 maxpoll 4\nserver {HOSTS['s1'].ipv6} minpoll 3 maxpoll 4\n"
    path.write_text(f"{sources}port 0\n{CHRONYD.format(pid=path.with_suffix('.pid'))}", encoding="ascii")
    lab.start(host, "chronyd", "-d", "-x", "-u", "root", "-f", str(path), log=f"chronyd-{host}.log")


def start_bulk(lab: Lab) -> None:
    """Start the iperf3 server on s4."""
    lab.start("s4", "iperf3", "-s", log="iperf3.log")
    lab.wait_for_port("s4", 5201)


def start_all(lab: Lab) -> None:
    """Start every server."""
    start_dns(lab)
    start_time(lab)
    for host in WEB_HOSTS:
        start_web(lab, host)
    for host in SSH_HOSTS:
        start_ssh(lab, host)
    start_bulk(lab)


def _write_objects(root: Path, rng: random.Random) -> None:
    root.mkdir()
    line = b"The quick brown fox jumps over the lazy dog of the lab.\n"
    for number in range(OBJECT_COUNT):
        size = min(LARGEST_OBJECT_BYTES, int(rng.lognormvariate(*OBJECT_LOGNORMAL)) + 80)
        (root / f"o{number}").write_bytes((line * (size // len(line) + 1))[:size])
    (root / "index.html").write_bytes(line * 150)
    (root / "large").write_bytes(line * 6000)  # 336 kB


def certificate(lab: Lab) -> Path:
    folder = lab.directory / "tls"
    if not folder.exists():
        folder.mkdir(mode=0o700)
        _do(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:*.{DOMAIN}"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        )
    return folder


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise LabError(f"`{command[0]}` failed: {done.stderr.strip()}")
