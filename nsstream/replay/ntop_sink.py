"""NtopSink: flows published over ZeroMQ as nProbe publishes them, for ntopng to collect.

Frames are metered first (`frame_meter`). Promises: every flow is in `counters`: sent (handed to ZeroMQ for every
subscriber), failed (a subscriber did not read for long), or unheard (nobody had subscribed). Messages are numbered, so
that a collector knows what it missed.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from nsstream.errors import OutputError
from nsstream.replay.frame_meter import FrameMeter
from nsstream.replay.netflow_sink import Timeout
from nsstream.replay.ntop_publisher import STALL_S, NtopPublisher
from nsstream.replay.ntop_records import ntop_records
from nsstream.replay.sink import SinkContext, SinkSpec
from nsstream.trace.flows import FlowTable
from nsstream.wire.ntop_message import write_header
from nsstream.wire.ntop_tlv import START, write_tlv

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

_ENDPOINT: Final = re.compile(r"tcp://(\*|[0-9.]+|\[[0-9a-fA-F:.]+\]):(\d{1,5}|\*)|ipc:///[^\0]+")
_IDS: Final = 1 << 32
_FLAGGED: Final = 36  # the header that says itself whether the payload is compressed


def _endpoint(text: str) -> str:
    if not _ENDPOINT.fullmatch(text):
        raise ValueError("must be tcp://ADDRESS:PORT, the address numeric or *, or ipc:///PATH")
    return text


class NtopSinkSpec(SinkSpec):
    """Where subscribers connect to, and the form that they read."""

    kind: Literal["ntop"] = "ntop"
    endpoint: Annotated[str, Field(max_length=108), AfterValidator(_endpoint)]
    encoding: Literal["json", "tlv"] = "json"
    compress: bool = False
    header_octets: Literal[24, 28, 36] = 36
    source_id: Annotated[int, Field(ge=0, le=0xFF)] = 1
    flows_per_message: Annotated[int, Field(ge=1, le=50)] = 1
    wait: bool = True
    active_timeout_s: Timeout = 60.0
    idle_timeout_s: Timeout = 15.0
    times: Literal["twin", "now"] = "twin"


class NtopSink:
    """One publisher."""

    spec_type: ClassVar[type[SinkSpec]] = NtopSinkSpec

    def __init__(self, spec: NtopSinkSpec, context: SinkContext) -> None:
        self._spec = spec
        self._clock = context.clock
        self._meter = FrameMeter(active_timeout_s=spec.active_timeout_s, idle_timeout_s=spec.idle_timeout_s)
        self._publisher = NtopPublisher(spec.endpoint, context.is_stopped, context.clock)
        self._shift_ns: int | None = None
        self._message_id = 0
        self._flows = {"flows": 0, "flows_sent": 0, "flows_unheard": 0, "flows_failed": 0, "flows_undone": 0}
        self._messages = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames, and flows by fate; messages and octets that were sent."""
        return self._meter.counters | self._flows | {"messages": self._messages, "octets": self._publisher.octet_count}

    def open(self) -> None:
        """Bind the endpoint."""
        self._publisher.open()

    def write(self, frames: Frames) -> None:
        """Meter frames, and publish the flows that ended."""
        if len(frames):
            self._publish(self._meter.push(frames), int(frames.observation_time_ns[0]))

    def tick(self, twin_now_ns: int) -> None:
        """Publish the flows whose timeout has passed."""
        self._publish(self._meter.advance_to(twin_now_ns), twin_now_ns)

    def write_flows(self, table: FlowTable) -> None:
        """Publish flows that were metered elsewhere."""
        if len(table):
            self._publish(table, int(table.flow_start_ns.min()))

    def close(self) -> None:
        """End all flows, publish them, and give them a while to leave."""
        self._publish(self._meter.flush(), 0)
        self._publisher.close(STALL_S)

    def abort(self) -> None:
        """Let go of the socket; what was sent cannot be undone."""
        with suppress(OSError):
            self._publisher.close(0)

    def _publish(self, table: FlowTable, first_ns: int) -> None:
        if not len(table):
            return
        if self._shift_ns is None:
            if self._spec.wait:
                self._wait(len(table))
            self._shift_ns = self._clock.wall_ns() - first_ns if self._spec.times == "now" else 0
        records = list(ntop_records(table, self._shift_ns))
        self._flows["flows"] += len(records)
        self._flows["flows_undone"] += len(records)  # until they are published
        step = self._spec.flows_per_message
        for start in range(0, len(records), step):
            self._send(records[start : start + step])

    def _wait(self, flow_count: int) -> None:
        try:
            self._publisher.wait_for_subscriber()
        except OutputError:
            self._flows["flows"] += flow_count
            self._flows["flows_undone"] += flow_count
            raise

    def _send(self, records: list[dict[int, int | str]]) -> None:
        is_tlv = self._spec.encoding == "tlv"
        if is_tlv:
            payload = START + b"".join(write_tlv(record).removeprefix(START) for record in records)
        else:
            payload = json.dumps(records if len(records) > 1 else records[0], separators=(",", ":")).encode()
        unpacked_bytes = len(payload)
        is_zlib = self._spec.compress and not is_tlv
        if is_zlib:
            mark = b"" if self._spec.header_octets == _FLAGGED else b"\0"
            payload = mark + zlib.compress(payload)
        self._message_id = self._message_id % (_IDS - 1) + 1
        header = write_header(
            self._spec.header_octets,
            self._spec.source_id,
            self._message_id,
            payload,
            is_tlv=is_tlv,
            is_zlib=is_zlib,
            unpacked_bytes=unpacked_bytes,
        )
        is_sent = self._publisher.send([header, payload])
        fate = {True: "flows_sent", False: "flows_failed", None: "flows_unheard"}[is_sent]
        self._flows[fate] += len(records)
        self._flows["flows_undone"] -= len(records)
        self._messages += is_sent is True
