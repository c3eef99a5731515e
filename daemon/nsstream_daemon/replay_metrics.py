"""Metrics of a replay server: where it is in the twin, how much it has sent, and how late it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from nsstream.replay.messages import State
from nsstream_daemon.page_server import PageServer

if TYPE_CHECKING:
    from nsstream.replay.messages import Status


class ReplayCollector(Collector):
    """The newest status that a server published, as metrics."""

    def __init__(self) -> None:
        self.status: Status | None = None

    def collect(self) -> Iterator[Metric]:
        """All metrics; none before the first status."""
        status = self.status
        if status is None:
            return
        states = GaugeMetricFamily("nsstream_replay_state", "1 for the state it is in.", labels=["state"])
        for state in get_args(State):
            states.add_metric([state], float(status.state == state))
        yield states
        for name, what, count in (
            ("runs", "Runs that were begun.", status.run),
            ("packets", "Packets of the newest run.", status.packets_written),
            ("bytes", "Octets of their frames.", status.octets_written),
        ):
            yield CounterMetricFamily(f"nsstream_replay_{name}", what, value=count)
        for name, what, value in (
            ("chunk", "Which chunk of the run is sent, from 1.", status.chunk),
            ("offset_seconds", "How far it is in the twin's time.", status.twin_time_s),
            ("late_seconds", "How long the next frame has been due.", status.late_s),
            ("drawn_ahead_packets", "Packets that are drawn and not yet sent.", status.packets_drawn_ahead),
            ("subscribers", "Who reads packets.", len(status.subscribers)),
        ):
            yield GaugeMetricFamily(f"nsstream_replay_{name}", what, value=value)
        if status.twin_now_ns is not None:
            yield GaugeMetricFamily(
                "nsstream_replay_twin_seconds",
                "Time of the newest frame in the twin, since the Unix epoch.",
                value=status.twin_now_ns / 1e9,
            )


class ReplayMetrics:
    """Serves them at a port of 127.0.0.1, from the first status on; port 0: not at all. Raises as `PageServer`."""

    def __init__(self, port: int) -> None:
        self._collector, registry = ReplayCollector(), CollectorRegistry(auto_describe=False)
        registry.register(self._collector)

        def page(path: str) -> tuple[int, str, bytes]:
            if path == "/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
            return 404, "text/plain", b"there is /metrics\n"

        self._server = PageServer(port, "--metrics-port", page, lambda name, error: None)
        self._server.listen()

    def hear(self, status: Status) -> None:
        """Take a status that was published."""
        self._collector.status = status
        self._server.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()
