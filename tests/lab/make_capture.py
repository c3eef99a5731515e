"""Make the project's own capture: build the lab, let its clients work, keep what crossed the bridge.

::

    sudo python tests/lab/make_capture.py OUT.pcap.xz [--minutes 6.5] [--seed 1] [--home]

With ``--home`` it is a home of devices in place of the office. Writes OUT only when all is well: tcpdump lost nothing
and no frame is longer than 1518 octets.
"""

from __future__ import annotations

import argparse
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from home import HOME_HOSTS, run_home, start_home
from lab import CLIENTS, HOME, PREFIX, Lab, LabError
from services import start_all, start_time_client
from sniff import Sniffer, count_packets
from workload import run_workload

LONGEST_FRAME_BYTES = 1518  # 1500 of IP, 14 of Ethernet, 4 of 802.1Q
PROGRAMS = {  # program -> Debian package (the list is packages.txt)
    "chronyd": "chrony",
    "curl": "curl",
    "dig": "bind9-dnsutils",
    "dnsmasq": "dnsmasq-base",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nginx": "nginx-light",
    "nmap": "nmap",
    "openssl": "openssl",
    "ping": "iputils-ping",
    "reordercap": "wireshark-common",
    "scp": "openssh-client",
    "sshd": "openssh-server",
    "tcpdump": "tcpdump",
}


HOME_PROGRAMS = {  # the same of what a home needs beside them
    "avahi-daemon": "avahi-daemon",
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "socat": "socat",
    "udhcpc": "udhcpc",
}


def missing_packages(programs: dict[str, str] = PROGRAMS) -> list[str]:
    """Return the Debian packages that the lab needs and whose programs are not on PATH."""
    return sorted({package for program, package in programs.items() if shutil.which(program) is None})


def make_capture(out: Path, *, minutes: float, seed: int, is_home: bool) -> None:
    """Run the lab for that long and write its capture, compressed.

    Raises:
        LabError: something is missing or failed; the message says what. Nothing is written.
    """
    if missing := missing_packages(PROGRAMS | HOME_PROGRAMS if is_home else PROGRAMS):
        raise LabError(f"install the Debian packages {' '.join(missing)} (or put /usr/sbin on PATH)")
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as folder:
        raw, ordered = Path(folder, "raw.pcap"), Path(folder, "ordered.pcap")
        if is_home:
            with Lab(seed, HOME_HOSTS) as lab:
                start_home(lab)
                with Sniffer(lab, raw, HOME):
                    run_home(lab, 60 * minutes, random.Random(seed))
        else:
            with Lab(seed) as lab:
                start_all(lab)
                with Sniffer(lab, raw):
                    for client in CLIENTS:
                        start_time_client(lab, client.name)
                    run_workload(lab, 60 * minutes, random.Random(seed))
        if longer := count_packets(raw, f"greater {LONGEST_FRAME_BYTES + 1}"):
            raise LabError(f"{longer} frames are longer than {LONGEST_FRAME_BYTES} octets: an offload is on")
        # Two CPUs may stamp two frames out of turn by some microseconds.
        subprocess.run(["reordercap", str(raw), str(ordered)], check=True, capture_output=True)
        packed = out.with_name(out.name + ".part")
        packed.write_bytes(lzma.compress(ordered.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
        packed.replace(out)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a capture of real software in network namespaces.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=6.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", action="store_true", help="devices of a home in place of an office")
    options = parser.parse_args()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda number, _: sys.exit(128 + number))
    try:
        make_capture(options.out, minutes=options.minutes, seed=options.seed, is_home=options.home)
    except LabError as error:
        print(f"make_capture: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make_capture: interrupted, nothing written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
