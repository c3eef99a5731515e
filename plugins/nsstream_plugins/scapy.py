"""scapy in notebooks: twins as scapy's packets, and a scapy sniff that feeds a daemon.

    from nsstream_plugins.scapy import Feed, twins

    for packet in twins(count=100): packet.show()          # of the bundled capture; twins("STATE/models/ID") of a model

    with Feed("/run/tap") as feed:                          # nsstream ingest fifo:/run/tap --state STATE
        sniff(iface="eth0", prn=feed, store=False, timeout=60)

scapy takes some thousand packets a second (`bench/plugins.py`); ``live:eth0`` takes a million.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from scapy.config import conf
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils import EDecimal

from nsstream.errors import InputError
from nsstream_plugins.notebook import SNAPLEN, FrameFeed, Where, frames

__all__ = ["Feed", "twins"]


def twins(
    of: Where | Sequence[Where] | None = None,
    *,
    seed: int = 0,
    count: int | None = None,
    services: Sequence[str] | None = None,
    hosts: Sequence[str] | None = None,
) -> Iterator[Packet]:
    """A twin's packets, dissected by scapy, with their times; arguments as of `notebook.frames`."""
    for time_ns, octets in frames(of, seed=seed, count=count, services=services, hosts=hosts):
        packet = Ether(octets)
        packet.time = EDecimal(time_ns) / 10**9
        yield packet


class Feed(FrameFeed):
    """A feed that is called with scapy's packets: ``sniff(prn=feed, store=False)``."""

    def __init__(self, path: Where, snaplen: int = SNAPLEN) -> None:
        super().__init__(path, snaplen)

    def __call__(self, packet: Any) -> None:
        """Hand a packet on, as it was captured; says nothing that sniff would print."""
        link_type = conf.l2types.layer2num.get(type(packet))
        if link_type is None:
            raise InputError(f"scapy knows no link type of {type(packet).__name__}")
        octets = packet.original or bytes(packet)
        seconds = EDecimal(packet.time)
        self.write(int(seconds * 10**9), octets, packet.wirelen, link_type)
