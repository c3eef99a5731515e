"""SendingRules: where a replay server may send, and how fast at most; given at its start, out of reach of clients.

Promises: a sink that sends asks `check` before it opens anything, and takes from `cap` for every frame. Nothing is sent

- on an interface that the rules do not name (by default they name none);
- on one that a default route leads through (also as the port of a bridge or bond, or under a VLAN), unless told twice:
  by the rules, and by the command that starts the run;
- beyond the cap.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import Field

from nsstream.capture.interface import Interface, InterfaceQuery
from nsstream.errors import OutputError
from nsstream.replay.default_routes import default_route_indices
from nsstream.replay.rate_cap import RateCap

_ETHERNET_TYPES: Final = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK

InterfaceName = Annotated[str, Field(pattern=r"^[^\s/\x00:]{1,15}$")]  # dev_valid_name() of the kernel, of 16 octets


@dataclass(frozen=True, slots=True)
class SendingRules:
    """What a server's configuration allows.

    Args:
        interfaces: names of those that may be sent on.
        default_route_interfaces: of those, which even if a default route leads through them.
        cap: of all that is sent.
        stdout: whether the standard output is free for a capture.
    """

    interfaces: frozenset[str] = frozenset()
    default_route_interfaces: frozenset[str] = frozenset()
    cap: RateCap = field(default_factory=RateCap)
    stdout: bool = True

    def __post_init__(self) -> None:
        if not self.default_route_interfaces <= self.interfaces:
            more = ", ".join(sorted(self.default_route_interfaces - self.interfaces))
            raise ValueError(f"default_route_interfaces must be among interfaces, got {more} more")

    def check(self, name: str, *, is_default_route_meant: bool) -> Interface:
        """The interface of that name in the calling thread's network namespace, if it may be sent on.

        Args:
            name: of the interface.
            is_default_route_meant: the command says that it means an interface of a default route.

        Raises OutputError if nothing may be sent there, or nothing could be.
        """
        if name not in self.interfaces:
            known = ", ".join(sorted(self.interfaces)) or "none"
            raise OutputError(
                f"{name}: this server's configuration does not name it as an interface to send on; it names {known}"
            )
        try:
            interface, carriers = _look_up(name)
        except OSError as err:
            raise OutputError(f"{name}: the kernel does not tell about it: {err.strerror}") from err
        if interface is None:
            raise OutputError(f"{name}: there is no such interface")
        if not interface.is_up:
            raise OutputError(f"{name}: the interface is down (ip link set dev {name} up)")
        if interface.hardware_type not in _ETHERNET_TYPES:
            raise OutputError(f"{name}: is no Ethernet interface (hardware type {interface.hardware_type})")
        if interface.index in carriers and name not in self.default_route_interfaces:
            raise OutputError(
                f"{name}: a default route leads through it, and this server's configuration does not allow that"
            )
        if interface.index in carriers and not is_default_route_meant:
            raise OutputError(f"{name}: a default route leads through it, and the command does not say default_route")
        return interface


def add_sending_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `rules_from` reads."""
    parser.add_argument("--send-on", action="append", default=[], metavar="IF", help="interface that may be sent on")
    parser.add_argument(
        "--send-on-default-route",
        action="append",
        default=[],
        metavar="IF",
        help="the same, even if a default route leads through it; the start command has to say so, too",
    )
    parser.add_argument("--max-packets-per-second", type=float, metavar="N", help="no run sends faster")
    parser.add_argument("--max-bits-per-second", type=float, metavar="N", help="no run sends more bits of frames")


def rules_from(options: argparse.Namespace) -> SendingRules:
    """The rules that options of `add_sending_options` say; raises ValueError for a cap that is none."""
    despite = frozenset(options.send_on_default_route)
    cap = RateCap(options.max_packets_per_second, options.max_bits_per_second)
    return SendingRules(frozenset(options.send_on) | despite, despite, cap)


def _look_up(name: str) -> tuple[Interface | None, set[int]]:
    """The interface, and the indices of all whose frames leave where a default route does."""
    query = InterfaceQuery()
    try:
        interface = query.by_name(name)
        carriers: set[int] = set()
        for index in default_route_indices():
            # Below a VLAN or MACVLAN lies the interface that it is linked to, also in several layers.
            while index and index not in carriers:
                carriers.add(index)
                carrier = query.by_index(index)
                index = carrier.lower_index if carrier is not None else 0
        # Above a port lies its bridge or bond, also in several layers.
        below: set[int] = set()
        above = interface
        while above is not None and above.index not in below:
            below.add(above.index)
            if above.master_index in carriers:
                carriers |= below
            above = query.by_index(above.master_index) if above.master_index else None
    finally:
        query.close()
    return interface, carriers
