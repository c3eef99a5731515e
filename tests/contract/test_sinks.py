"""The published rules of sinks, held to every sink that is registered. A new one adds a case to CASES.

Those whose other end is a device or a client of the server are in `test_sending_sinks`.
"""

from __future__ import annotations

import csv
import gzip
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_exports import EXPORTER
from made_traffic import made_table, octets_of
from nsstream_plugins.ntop import NtopSource
from test_sending_sinks import CASES as SENDING

from nsstream.assemble import Assembler
from nsstream.capture.nfcapd_file import NfcapdFileSource
from nsstream.replay.contract import RULES, SinkCase
from nsstream.replay.frame_meter import FrameMeter
from nsstream.replay.registry import sink_kinds
from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder
from nsstream.wire.pcap import pcap_header, write_records

FRAMES = Assembler(np.random.default_rng(5)).assemble(made_table(count=24)).slice(0, 150)
CAPTURE = pcap_header() + write_records(FRAMES.observation_time_ns, FRAMES.offset, FRAMES.octets)
TIMEOUTS: dict[str, object] = {"active_timeout_s": 5.0, "idle_timeout_s": 2.0}
DEADLINE_S = 300.0
Flows = list[tuple[Any, ...]]


def flows_of(tables: list[FlowTable]) -> Flows:
    """What tells flows apart, of any order, times in milliseconds."""
    table = FlowTable.concatenate(tables)
    return sorted(
        zip(
            (table.flow_start_ns // 10**6).tolist(),
            (table.flow_end_ns // 10**6).tolist(),
            map(bytes, table.source_address),
            map(bytes, table.destination_address),
            table.protocol_identifier.tolist(),
            table.source_transport_port.tolist(),
            table.packet_delta_count.tolist(),
            table.octet_delta_count.tolist(),
            strict=True,
        )
    )


def metered() -> Flows:
    meter = FrameMeter(active_timeout_s=5.0, idle_timeout_s=2.0)
    return flows_of([meter.push(FRAMES), meter.flush()])


@contextmanager
def while_reading(read: Callable[[threading.Event], None]) -> Iterator[None]:
    """Something that reads in a thread; told to end, once what is there is read, when the sink is done."""
    is_over = threading.Event()
    thread = threading.Thread(target=read, args=(is_over,))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def fifo_of(directory: Path) -> dict[str, object]:
    path = directory / "fifo"
    if not path.exists():
        os.mkfifo(path)
    return {"kind": "fifo", "path": str(path)}


def fifo_reader(directory: Path) -> Any:
    fifo_of(directory)
    descriptor = os.open(directory / "fifo", os.O_RDONLY | os.O_NONBLOCK)

    def read(is_over: threading.Event) -> None:
        octets = b""
        while not is_over.is_set() or select.select([descriptor], [], [], 0)[0]:
            if select.select([descriptor], [], [], 0.02)[0]:
                part = os.read(descriptor, 1 << 16)
                if not part and is_over.is_set():
                    break
                octets += part
        os.close(descriptor)
        (directory / "came").write_bytes(octets)

    return while_reading(read)


@contextmanager
def stdout_in_a_file(directory: Path) -> Iterator[None]:
    sys.stdout.flush()
    kept = os.dup(1)
    descriptor = os.open(directory / "came", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.close(descriptor)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@dataclass
class Collector:
    """A UDP socket for each directory, while the sink's run goes on, and the datagrams that came."""

    sockets: dict[Path, socket.socket] = field(default_factory=dict)
    datagrams: dict[Path, list[bytes]] = field(default_factory=dict)

    def fields(self, directory: Path) -> dict[str, object]:
        port = self.sockets[directory].getsockname()[1] if directory in self.sockets else 9
        return {"kind": "netflow", "address": "127.0.0.1", "port": port, "version": 10, **TIMEOUTS}

    @contextmanager
    def reader(self, directory: Path) -> Iterator[None]:
        came = self.datagrams[directory] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inlet:
            inlet.bind(("127.0.0.1", 0))
            self.sockets[directory] = inlet

            def read(is_over: threading.Event) -> None:
                is_last = False
                while not is_last:
                    is_last = is_over.is_set()  # what is there now is all
                    while select.select([inlet], [], [], 0.02)[0]:
                        came.append(inlet.recv(65535))

            with while_reading(read):
                yield
            del self.sockets[directory]

    def flows(self, directory: Path) -> Flows:
        datagrams = self.datagrams[directory]
        decoder = ExportDecoder(max_clock_error_s=1e9)
        table = decoder.decode(
            np.frombuffer(b"".join(datagrams), np.uint8),
            np.cumsum([0, *map(len, datagrams)], dtype=np.int64),
            np.tile(np.frombuffer(EXPORTER, np.uint8), (len(datagrams), 1)),
            np.full(len(datagrams), int(FRAMES.observation_time_ns[-1]), np.int64),
        )
        assert [(one.estimated_lost, one.sequence_resets) for one in decoder.exporters] == [(0, 0)]
        return flows_of([table])


def read_flows(source: Any) -> Flows:
    source.open()
    tables = []
    while (table := source.read_batch()) is not None:
        tables.append(table)
    source.close()
    return flows_of(tables)


def flows_of_csv(path: Path) -> Flows:
    with path.open() as lines:
        rows = list(csv.DictReader(lines))
    return sorted(
        (
            int(row["flow_start_ns"]) // 10**6,
            int(row["flow_end_ns"]) // 10**6,
            octets_of(row["source_address"]).tobytes(),
            octets_of(row["destination_address"]).tobytes(),
            *(
                int(row[name])
                for name in (
                    "protocol_identifier", "source_transport_port", "packet_delta_count", "octet_delta_count",
                )
            ),
        )
        for row in rows
    )  # fmt: skip


@dataclass
class Subscriber:
    """Somebody who subscribes as ntopng does, for each directory, and the flows that came."""

    ports: dict[Path, int] = field(default_factory=dict)
    tables: dict[Path, list[FlowTable]] = field(default_factory=dict)

    def fields(self, directory: Path) -> dict[str, object]:
        if directory not in self.ports:
            with socket.socket() as chosen:
                chosen.bind(("127.0.0.1", 0))
                self.ports[directory] = chosen.getsockname()[1]
        return {"kind": "ntop", "endpoint": f"tcp://127.0.0.1:{self.ports[directory]}", **TIMEOUTS}

    @contextmanager
    def reader(self, directory: Path) -> Iterator[None]:
        came = self.tables[directory] = []
        source = NtopSource(str(self.fields(directory)["endpoint"]))
        source.open()

        def read(is_over: threading.Event) -> None:
            while (table := source.read_batch()) is not None and (len(table) or not is_over.is_set()):
                came.append(table)
            source.close()

        with while_reading(read):
            yield
        assert source.tally.offered == source.tally.kept

    def flows(self, directory: Path) -> Flows:
        return flows_of(self.tables[directory])


COLLECTOR = Collector()
SUBSCRIBER = Subscriber()
CASES = {
    "pcap": SinkCase(
        fields=lambda directory: {"kind": "pcap", "path": str(directory / "twin.pcap.gz")},
        frames=FRAMES,
        received=lambda directory: gzip.decompress((directory / "twin.pcap.gz").read_bytes()),
        expected=CAPTURE,
        is_undone=True,
    ),
    "fifo": SinkCase(
        fields=fifo_of,
        frames=FRAMES,
        received=lambda directory: (directory / "came").read_bytes(),
        expected=CAPTURE,
        reader=fifo_reader,
        waits=True,
    ),
    "stdout": SinkCase(
        fields=lambda directory: {"kind": "stdout"},
        frames=FRAMES,
        received=lambda directory: (directory / "came").read_bytes(),
        expected=CAPTURE,
        reader=stdout_in_a_file,
    ),
    "csv": SinkCase(
        fields=lambda directory: {"kind": "csv", "path": str(directory / "flows.csv"), **TIMEOUTS},
        frames=FRAMES,
        received=lambda directory: flows_of_csv(directory / "flows.csv"),
        expected=metered(),
        is_undone=True,
    ),
    "nfcapd": SinkCase(
        fields=lambda directory: {"kind": "nfcapd", "path": str(directory / "flows"), **TIMEOUTS},
        frames=FRAMES,
        received=lambda directory: read_flows(NfcapdFileSource(directory / "flows")),
        expected=metered(),
        is_undone=True,
    ),
    "netflow": SinkCase(
        fields=COLLECTOR.fields,
        frames=FRAMES,
        received=COLLECTOR.flows,
        expected=metered(),
        reader=COLLECTOR.reader,
    ),
    "ntop": SinkCase(
        fields=SUBSCRIBER.fields,
        frames=FRAMES,
        received=SUBSCRIBER.flows,
        expected=metered(),
        reader=SUBSCRIBER.reader,
        waits=True,
    ),
}


def test_every_sink_that_is_registered_has_a_case() -> None:
    assert sorted({str(case.fields(Path("/none"))["kind"]) for case in SENDING.values()} | set(CASES)) == sink_kinds()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("kind", CASES)
def test_a_sink_keeps_the_rule(kind: str, rule: Callable[[SinkCase, Path], None], tmp_path: Path) -> None:
    rule(CASES[kind], tmp_path)
