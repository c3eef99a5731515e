"""What a device's firmware says over UPnP: presence over SSDP, a description over HTTP; and a search for others.

::

    python upnp.py serve ADDRESS NAME [--every 60]   # until it is ended
    python upnp.py search ADDRESS TARGET             # prints where descriptions are, after three seconds

After UPnP Device Architecture 1.1, sections 1 and 2. Standard library only.
"""

from __future__ import annotations

import argparse
import http.server
import random
import re
import socket
import struct
import threading
import time
import uuid

GROUP = ("239.255.255.250", 1900)
HTTP_PORT = 49152
SERVER = "Linux/4.9 UPnP/1.0 lab/1.0"
TTL = 4
SEARCH_S = 3.0


def targets(name: str) -> list[str]:
    """What a device is announced as: a root device, itself by its number, and by its kind."""
    kind = re.sub(r"\d+$", "", name).capitalize()
    return ["upnp:rootdevice", f"uuid:{uuid.uuid5(uuid.NAMESPACE_DNS, name)}", f"urn:lab-test:device:{kind}:1"]


def group_socket(address: str) -> socket.socket:
    """A socket that hears the group on the interface of that address."""
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    heard.bind(("", GROUP[1]))
    heard.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP[0]) + socket.inet_aton(address)
    )
    heard.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
    heard.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    return heard


def serve(address: str, name: str, every_s: float) -> None:
    """Announce, answer searches and serve the description."""
    where = f"http://{address}:{HTTP_PORT}/description.xml"
    threading.Thread(target=_describe, args=(address, name), daemon=True).start()
    heard = group_socket(address)
    told_s = -every_s
    while True:
        if time.monotonic() - told_s >= every_s:
            told_s = time.monotonic()
            for _ in range(2):
                for target in targets(name):
                    heard.sendto(_message("NOTIFY * HTTP/1.1", where, name, target, "NT"), GROUP)
                time.sleep(0.1 * random.random())
        heard.settimeout(max(0.05, told_s + every_s - time.monotonic()))
        try:
            asked, sender = heard.recvfrom(2048)
        except TimeoutError:
            continue
        if not asked.startswith(b"M-SEARCH"):
            continue
        wanted = re.search(rb"(?im)^ST: *(\S+)", asked)
        found = [t for t in targets(name) if wanted and wanted[1].decode() in ("ssdp:all", t)]
        time.sleep(random.random())  # within the searcher's MX
        for target in found:
            heard.sendto(_message("HTTP/1.1 200 OK", where, name, target, "ST"), sender)


def search(address: str, target: str) -> list[str]:
    """Ask the group twice; where the descriptions are of those that answered."""
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, struct.pack("b", TTL))
    asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    host = f"HOST: {GROUP[0]}:{GROUP[1]}"
    question = "\r\n".join(["M-SEARCH * HTTP/1.1", host, 'MAN: "ssdp:discover"', "MX: 2", f"ST: {target}", "", ""])
    for _ in range(2):
        asking.sendto(question.encode(), GROUP)
        time.sleep(0.05)
    found, end_s = set(), time.monotonic() + SEARCH_S
    while (left_s := end_s - time.monotonic()) > 0:
        asking.settimeout(left_s)
        try:
            answer = asking.recv(2048)
        except TimeoutError:
            break
        if where := re.search(rb"(?im)^LOCATION: *(\S+)", answer):
            found.add(where[1].decode())
    return sorted(found)


def _message(first_line: str, where: str, name: str, target: str, kind: str) -> bytes:
    number = targets(name)[1]
    usn = number if target == number else f"{number}::{target}"
    lines = [first_line, "CACHE-CONTROL: max-age=1800", f"LOCATION: {where}", f"SERVER: {SERVER}", f"{kind}: {target}"]
    if kind == "NT":
        lines[1:1] = [f"HOST: {GROUP[0]}:{GROUP[1]}"]
        lines.append("NTS: ssdp:alive")
    else:
        lines.append("EXT:")
    return ("\r\n".join([*lines, f"USN: {usn}"]) + "\r\n\r\n").encode()


def _describe(address: str, name: str) -> None:
    body = (
        f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><friendlyName>{name}'
        f"</friendlyName><UDN>{targets(name)[1]}</UDN>{'<service/>' * 40}</device></root>"
    ).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    http.server.ThreadingHTTPServer((address, HTTP_PORT), Handler).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A device's side of UPnP.")
    parser.add_argument("what", choices=("serve", "search"))
    parser.add_argument("address")
    parser.add_argument("name", help="the device's, or the target of a search")
    parser.add_argument("--every", type=float, default=60.0)
    given = parser.parse_args()
    if given.what == "serve":
        serve(given.address, given.name, given.every)
    else:
        print("\n".join(search(given.address, given.name)))


if __name__ == "__main__":
    main()
