"""Sockets that sources listen on: bound here, or passed in by a service manager that keeps them over restarts.

Promises: a socket that was passed in is never closed by a source (it works on a duplicate), so what the kernel queues
while nobody reads is read by the successor. Receive buffers only ever grow. What the kernel dropped is known by a
`SocketMark`, which says of which socket it counts, so that a successor goes on counting where its predecessor stopped.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

from nsstream.errors import InputError

LISTEN_FDS_START: Final = 3  # sd_listen_fds(3)

# Numbers of <asm-generic/socket.h> that the standard library does not name.
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_SO_COOKIE: Final = 57
_MEMINFO_DROPS: Final = 8  # SK_MEMINFO_DROPS of <linux/sock_diag.h>
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")  # random(4)


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A socket that the service manager opened for us, and the name that it gave it (`FileDescriptorName=`)."""

    name: str
    socket: socket.socket


def passed_sockets(environ: Mapping[str, str], pid: int) -> list[PassedSocket]:
    """The sockets that systemd passed to the process `pid`, which must be this one; none where it passed none.

    To be called once in a process: each call makes owners of the same descriptors. Children do not inherit them.
    Raises InputError where the environment is not what sd_listen_fds(3) says, or a descriptor is no socket.
    """
    if environ.get("LISTEN_PID") != str(pid) or "LISTEN_FDS" not in environ:
        return []
    told = environ["LISTEN_FDS"]
    if not told.isascii() or not told.isdigit() or int(told) > 1024:
        raise InputError(f"LISTEN_FDS must be a number of descriptors, got {told!r}")
    count = int(told)
    names = environ["LISTEN_FDNAMES"].split(":") if environ.get("LISTEN_FDNAMES") else ["unknown"] * count
    if len(names) != count:
        raise InputError(f"LISTEN_FDNAMES names {len(names)} descriptors, LISTEN_FDS passes {count}")
    passed = []
    for name, fd in zip(names, range(LISTEN_FDS_START, LISTEN_FDS_START + count), strict=True):
        try:
            os.set_inheritable(fd, False)
            passed.append(PassedSocket(name, socket.socket(fileno=fd)))
        except OSError as err:
            raise InputError(f"descriptor {fd} ({name}), passed by LISTEN_FDS, is no socket: {err.strerror}") from err
    return passed


@cache
def _passed_to_us() -> tuple[PassedSocket, ...]:
    return tuple(passed_sockets(os.environ, os.getpid()))


def passed_socket(name: str = "") -> socket.socket:
    """The socket of that name that was passed to this process, or the only one; raises InputError where it was not."""
    passed = _passed_to_us()
    found = [one.socket for one in passed if name in ("", one.name)]
    if len(found) != 1:
        names = ", ".join(one.name for one in passed) or "none"
        wanted = f"one socket named {name!r}" if name else "exactly one socket"
        raise InputError(f"{wanted} must be passed in by the service manager (LISTEN_FDS); passed: {names}")
    return found[0]


def bind_socket(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A UDP socket, or a TCP socket that listens, on a numeric address; ``::`` is every IPv6 and IPv4 address.

    Raises InputError if the address is none of this machine's, or the port is taken or needs a right.
    """
    try:
        version = ipaddress.ip_address(address).version
        resolved = socket.getaddrinfo(address, port, type=kind, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE)[0]
    except (ValueError, OSError) as err:
        raise InputError(f"{address!r} is no numeric IPv4 or IPv6 address to listen on") from err
    sock: socket.socket | None = None
    try:
        sock = socket.socket(resolved[0], kind)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(resolved[4])
        if kind == socket.SOCK_STREAM:
            sock.listen()
    except OSError as err:
        if sock is not None:
            sock.close()
        name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
        raise InputError(f"{name} port {port} of {address} cannot be listened on: {err.strerror}") from err
    return sock


def duplicate_socket(passed: socket.socket, kind: socket.SocketKind) -> socket.socket:
    """A socket of our own for what was passed in; raises InputError if it is closed, or not of IP and of this kind."""
    name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    if passed.family not in (socket.AF_INET, socket.AF_INET6) or passed.type != kind:
        raise InputError(f"the socket that was passed in is not of {name}: {passed.family.name}, {passed.type.name}")
    try:
        is_listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if kind == socket.SOCK_STREAM and not is_listening:
            raise InputError("the TCP socket that was passed in does not listen")
        return passed.dup()
    except OSError as err:
        raise InputError(f"the {name} socket that was passed in cannot be used: {err.strerror}") from err


def grow_receive_buffer(sock: socket.socket, wanted_bytes: int) -> int:
    """Ask for a receive buffer; the size that the kernel then says, which counts its own overhead, too.

    Beyond ``net.core.rmem_max`` it needs CAP_NET_ADMIN; without, the result is as much as that allows.
    """
    for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
        if receive_buffer_bytes(sock) >= wanted_bytes:
            break
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, wanted_bytes // 2)  # the kernel doubles it: socket(7)
        except PermissionError:
            continue
    return receive_buffer_bytes(sock)


def receive_buffer_bytes(sock: socket.socket) -> int:
    """What the kernel may queue, its overhead of some 800 octets a datagram included."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@dataclass(frozen=True, slots=True)
class SocketMark:
    """How much the kernel has dropped of what came to a socket, by the socket's own count."""

    cookie: int  # of the socket: no other has it until the machine is started anew
    drop_count: int  # modulo 2**32

    @classmethod
    def of(cls, sock: socket.socket) -> Self:
        """The mark as it is now: of datagrams that found the receive buffer full, or had a bad checksum."""
        (cookie,) = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))
        memory = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
        return cls(cookie, struct.unpack(f"={len(memory) // 4}I", memory)[_MEMINFO_DROPS])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, which say of which start of the machine they are, too."""
        return {"cookie": self.cookie, "drop_count": self.drop_count, "boot": _boot_id()}

    @classmethod
    def from_dict(cls, values: object) -> Self | None:
        """The mark that `as_dict` wrote; None for one of an earlier start. Raises InputError for anything else."""
        if not isinstance(values, dict) or not isinstance(values.get("boot"), str):
            raise InputError(f"the mark of a socket must be a mapping with a boot id, got {values!r:.60}")
        numbers = [values.get("cookie"), values.get("drop_count")]
        for number, bits in zip(numbers, (64, 32), strict=True):
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << bits:
                raise InputError(f"the mark of a socket must have numbers of 64 and 32 bits, got {numbers!r:.60}")
        return cls(values["cookie"], values["drop_count"]) if values["boot"] == _boot_id() else None

    def drops_since(self, before: SocketMark | None) -> int:
        """Drops since `before` if it is of the same socket; else all of this socket's."""
        if before is None or before.cookie != self.cookie:
            return self.drop_count
        return (self.drop_count - before.drop_count) % 2**32


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()
