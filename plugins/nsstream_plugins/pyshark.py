"""pyshark in notebooks: twins as pyshark's packets, and a pyshark capture that feeds a daemon.

    from nsstream_plugins.pyshark import feed_from, twins

    for packet in twins(count=100): print(packet.highest_layer)

    capture = pyshark.LiveCapture("eth0", include_raw=True, use_json=True)
    feed_from(capture, "/run/tap")                          # nsstream ingest fifo:/run/tap --state STATE

pyshark takes less than a hundred packets a second (`bench/plugins.py`): for a look, not for a load. `twins` does not
use pyshark's event loop, which cannot run in a notebook's; a capture that is fed from a notebook needs `nest_asyncio`.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyshark.tshark.output_parser.tshark_xml import packet_from_xml_packet
from pyshark.tshark.tshark import get_process_path

from nsstream.errors import InputError
from nsstream.wire.pdml import PdmlSplitter
from nsstream_plugins.notebook import SNAPLEN, FrameFeed, Where, frames

__all__ = ["feed_from", "twins"]


def twins(
    of: Where | Sequence[Where] | None = None,
    *,
    count: int,
    seed: int = 0,
    services: Sequence[str] | None = None,
    hosts: Sequence[str] | None = None,
    display_filter: str | None = None,
    tshark_options: Sequence[str] = (),
) -> Iterator[Any]:
    """A twin's packets, dissected by tshark, as pyshark's; `services` and the like are `notebook.frames`'.

    They pass through a temporary file, so say how many. Raises InputError where tshark does not take the options.
    """
    with tempfile.TemporaryDirectory(prefix="nsstream-") as directory:
        path = Path(directory) / "twin.pcap"
        with FrameFeed(path, snaplen=262_144) as feed:
            for time_ns, octets in frames(of, seed=seed, count=count, services=services, hosts=hosts):
                feed.write(time_ns, octets)
        command = [get_process_path(), "-n", "-T", "pdml", "-r", path, *tshark_options]
        if display_filter is not None:
            command += ["-Y", display_filter]
        yield from _dissected(command, Path(directory) / "messages")


def _dissected(command: Sequence[str | Path], messages: Path) -> Iterator[Any]:
    splitter = PdmlSplitter()
    with messages.open("wb") as said, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as tshark:
        assert tshark.stdout is not None
        try:
            while octets := tshark.stdout.read(1 << 16):
                yield from (packet_from_xml_packet(piece) for piece in splitter.feed(octets) if piece is not None)
            status = tshark.wait()
        finally:
            tshark.kill()
    if status:
        raise InputError(f"tshark: {messages.read_text(errors='replace').strip() or f'exit status {status}'}")


def feed_from(capture: Iterable[Any], path: Where, *, count: int | None = None, snaplen: int = SNAPLEN) -> int:
    """Hand a capture's packets on until it ends, or so many; how many. Raises NsstreamError.

    The capture must have been made with ``include_raw=True, use_json=True``, and be of Ethernet.
    """
    with FrameFeed(path, snaplen) as feed:
        for packet in capture:
            if "FRAME_RAW" not in packet:
                raise InputError("make the capture with include_raw=True, use_json=True")
            octets = packet.get_raw_packet()
            whole, _, fraction = packet.sniff_timestamp.partition(".")
            time_ns = int(whole) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)
            feed.write(time_ns, octets, int(packet.length))
            if feed.count == count:
                break
        return feed.count
