"""send subscribe, send hello: a run's packets from a replay server into a capture, and whether a server is there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, NamedTuple

import typer

from nsstream_daemon.replay_commands import UNIT_ENDPOINT, Endpoint, Key, ServerKey, connected

if TYPE_CHECKING:
    from nsstream.replay import PacketBatch, ReplayClient
    from nsstream.replay.batch import EndOutcome

Write = Callable[["PacketBatch"], None]


def hello(endpoint: Endpoint = UNIT_ENDPOINT, key: Key = None, server_key: ServerKey = None) -> None:
    """Ask a server who it is, and agree on a version of the protocol."""
    with connected(endpoint, key, server_key) as client:
        welcome = client.hello()
        print(f"{welcome.server}, protocol version {welcome.version}")


def subscribe(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Capture: .pcap or .pcapng, and .gz, .xz, .zst; - for stdout."),
    ],
    endpoint: Endpoint = UNIT_ENDPOINT,
    name: Annotated[str, typer.Option(help="Who we are, in the server's status.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    key: Key = None,
    server_key: ServerKey = None,
) -> None:
    """Take the packets of the next run into the sink `subscribers`, or of what is left of the present one.

    What came is kept also where the run fails; the exit status is 1 then.
    """
    with connected(endpoint, key, server_key) as client:
        if str(output) == "-":
            taken = _take_run(client, name, _writer(sys.stdout.buffer))
        else:
            taken = _into_file(client, name, output.absolute(), overwrite=force)
    print(taken.sentence, file=sys.stderr)
    raise typer.Exit(taken.outcome == "failed")


class Taken(NamedTuple):
    """What came of a run."""

    outcome: EndOutcome
    sentence: str


def _into_file(client: ReplayClient, name: str, path: Path, *, overwrite: bool) -> Taken:
    from nsstream.assemble.frames import Frames
    from nsstream.replay.pcap_sink import PcapSink, PcapSinkSpec
    from nsstream.replay.sink import SinkContext

    sink = PcapSink(PcapSinkSpec(path=str(path), overwrite=overwrite), SinkContext())
    sink.check()
    sink.open()
    try:
        taken = _take_run(
            client, name, lambda batch: sink.write(Frames(batch.observation_time_ns, batch.offset, batch.octets))
        )
        sink.close()
    except BaseException:
        sink.abort()
        raise
    return taken


def _writer(stream: IO[bytes]) -> Write:
    from nsstream.wire.pcap import pcap_header, write_records

    stream.write(pcap_header())
    stream.flush()

    def write(batch: PacketBatch) -> None:
        stream.write(write_records(batch.observation_time_ns, batch.offset, batch.octets))
        stream.flush()

    return write


def _take_run(client: ReplayClient, name: str, write: Write) -> Taken:
    """Write the batches up to the end of a run."""
    from nsstream.errors import ReplayError
    from nsstream.replay import End, Missed

    packets = missed = 0
    for item in client.packets(name):
        if isinstance(item, End):
            said = f"run {item.run} is {item.outcome}: {packets:,} packets, {missed:,} missed"
            return Taken(item.outcome, said)
        if isinstance(item, Missed):
            missed += item.packet_count
        else:
            write(item)
            packets += len(item)
    raise ReplayError(f"{client.endpoint}: the subscription ended before the run")
