"""NetflowSink: frames, or flows, to a collector as NetFlow v5, v9 or IPFIX over UDP.

Frames are metered as a router's would be (`frame_meter`) and exported as their flows end (`wire.netflow.export`).
Promises: every flow is in `counters`; a collector that is not there does not end the run, but is counted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from nsstream.replay.datagram_sender import DatagramSender
from nsstream.replay.frame_meter import FrameMeter
from nsstream.replay.sink import SinkContext, SinkSpec
from nsstream.trace.flows import FlowTable
from nsstream.wire.netflow.export import Datagrams, FlowExporter
from nsstream.wire.netflow.export_layouts import TimeUnit

if TYPE_CHECKING:
    from nsstream.assemble.frames import Frames

HOLD_NS: Final = 1_000_000_000  # how long a flow waits for its datagram to fill, by the twin's clock
_SECOND_NS: Final = 1_000_000_000
_UDP_HEADERS: Final = {4: 28, 6: 48}
_MOST_V5: Final = {"observation_domain_id": 0xFFFF, "sampling_interval": 0x3FFF}


def _ip_address(text: str) -> str:
    ipaddress.ip_address(text)  # ValueError says what is wrong
    if "%" in text:
        raise ValueError("must be an address without a zone")
    return text


IpAddress = Annotated[str, Field(max_length=45), AfterValidator(_ip_address)]
Timeout = Annotated[float, Field(ge=0.001, le=1e6, allow_inf_nan=False)]


class NetflowSinkSpec(SinkSpec):
    """A collector, and how an exporter in front of it is set up."""

    kind: Literal["netflow"] = "netflow"
    address: IpAddress
    port: Annotated[int, Field(ge=1, le=0xFFFF)]
    version: Literal[5, 9, 10] = 10
    source: IpAddress | None = None
    observation_domain_id: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    mtu: Annotated[int, Field(ge=576, le=9216)] = 1500
    active_timeout_s: Timeout = 60.0
    idle_timeout_s: Timeout = 15.0
    sampling_interval: Annotated[int, Field(ge=1, le=0xFFFFFFFF)] = 1
    template_refresh_s: Timeout = 600.0
    template_refresh_packets: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    time_unit: TimeUnit = "milliseconds"
    times: Literal["twin", "now"] = "twin"
    uptime_s: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 86400.0
    datagrams_per_s: Annotated[float, Field(ge=1, le=1e7, allow_inf_nan=False)] = 10_000.0

    @model_validator(mode="after")
    def _fits_version(self) -> Self:
        if self.version == 5:
            for name, most in _MOST_V5.items():
                if getattr(self, name) > most:
                    raise ValueError(f"{name} of version 5 must be at most {most}")
        if self.idle_timeout_s > self.active_timeout_s:
            raise ValueError("idle_timeout_s must be at most active_timeout_s")
        if self.source is not None and _version_of(self.source) != _version_of(self.address):
            raise ValueError("source must be of the IP version of address")
        return self


class NetflowSink:
    """One exporter with one observation domain."""

    spec_type: ClassVar[type[SinkSpec]] = NetflowSinkSpec

    def __init__(self, spec: NetflowSinkSpec, context: SinkContext) -> None:
        self._spec = spec
        self._clock = context.clock
        self._meter = FrameMeter(
            active_timeout_s=spec.active_timeout_s,
            idle_timeout_s=spec.idle_timeout_s,
            sampling_interval=spec.sampling_interval,
        )
        self._sender = DatagramSender(
            spec.address, spec.port, spec.source, spec.datagrams_per_s, context.is_stopped, context.clock
        )
        self._exporter: FlowExporter | None = None
        self._shift_ns = 0
        self._now_ns = 0  # of the exporter's clock: the latest time that was given
        self._flushed_ns = 0
        self._flows_undone = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """Frames, flows (records of one direction) and datagrams by fate."""
        exporter, sender = self._exporter, self._sender
        given = 0 if exporter is None else exporter.record_count
        unsupported = 0 if exporter is None else exporter.unsupported_count
        return self._meter.counters | {
            "flows": given + unsupported,
            "flows_sent": sender.flow_count,
            "flows_unsupported": unsupported,
            "flows_waiting": given - sender.flow_count - sender.failed_flow_count - self._flows_undone,
            "flows_undone": self._flows_undone,
            "flows_failed": sender.failed_flow_count,
            "datagrams": sender.sent_count + sender.failed_count,
            "datagrams_sent": sender.sent_count,
            "datagrams_failed": sender.failed_count,
            "refusals": sender.refused_count,
            "octets": sender.octet_count,
        }

    def open(self) -> None:
        """Make the socket."""
        self._sender.open()

    def write(self, frames: Frames) -> None:
        """Meter frames, and export the flows that ended."""
        if len(frames):
            self._begin(int(frames.observation_time_ns[0]))
            self._export(self._meter.push(frames), int(frames.observation_time_ns[-1]))

    def tick(self, twin_now_ns: int) -> None:
        """Export the flows whose timeout has passed, and those that have waited for their datagram for long."""
        if self._exporter is not None:
            self._export(self._meter.advance_to(twin_now_ns), twin_now_ns)

    def write_flows(self, table: FlowTable) -> None:
        """Export flows that were metered elsewhere."""
        if len(table):
            self._begin(int(table.flow_start_ns.min()))
            self._export(table, int(table.flow_end_ns.max()))

    def close(self) -> None:
        """End all flows, export them, and let go of the socket."""
        if self._exporter is not None:
            self._export(self._meter.flush(), self._now_ns - self._shift_ns)
            self._send(self._exporter.flush(self._now_ns))
        self._sender.close()

    def abort(self) -> None:
        """Let go of the socket; what was sent cannot be undone."""
        self._flows_undone += self.counters["flows_waiting"]
        with suppress(OSError):
            self._sender.close()

    def _begin(self, first_ns: int) -> None:
        """Start the exporter's system, as if it had been up for a while when the first flow began."""
        if self._exporter is not None:
            return
        spec = self._spec
        self._shift_ns = self._clock.wall_ns() - first_ns if spec.times == "now" else 0
        self._flushed_ns = self._now_ns = first_ns + self._shift_ns
        self._exporter = FlowExporter(
            spec.version,
            self._now_ns - round(spec.uptime_s * _SECOND_NS),
            observation_domain_id=spec.observation_domain_id,
            max_datagram_bytes=spec.mtu - _UDP_HEADERS[_version_of(spec.address)],
            template_refresh_s=spec.template_refresh_s,
            template_refresh_packets=spec.template_refresh_packets,
            sampling_interval=spec.sampling_interval,
            time_unit=spec.time_unit,
        )

    def _export(self, table: FlowTable, now_ns: int) -> None:
        exporter = self._exporter
        if exporter is None:
            raise ValueError("a sink is written to between open and close")
        if self._shift_ns and len(table):
            times = {name: getattr(table, name) + self._shift_ns for name in ("flow_start_ns", "flow_end_ns")}
            table = FlowTable.from_columns(table.columns() | times, table.label_names)
        self._now_ns = max(self._now_ns, now_ns + self._shift_ns)
        if not exporter.waiting_count:
            self._flushed_ns = self._now_ns
        self._send(exporter.export(table, self._now_ns))
        if self._now_ns - self._flushed_ns >= HOLD_NS:
            self._send(exporter.flush(self._now_ns))
            self._flushed_ns = self._now_ns

    def _send(self, datagrams: Datagrams) -> None:
        self._sender.send(datagrams)


def _version_of(address: str) -> int:
    return ipaddress.ip_address(address).version
