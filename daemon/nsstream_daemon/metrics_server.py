"""The daemon's pages: /metrics for Prometheus, /healthz and /readyz.

The figures are those of `status`, asked for at each scrape: nothing is counted twice. Names follow
``nsstream_<component>_<what>_<unit>[_total]``. /healthz is 200 as long as no component has died and the capture loop
goes on; /readyz once the source is being read, or has ended well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from nsstream.pipeline.child import Failure
from nsstream.pipeline.private_training import ALL_REFUSALS
from nsstream.pipeline.training_queue import BEHIND, DAMAGED, EXPIRED, TOO_SMALL
from nsstream_daemon.page_server import Pages
from nsstream_daemon.status import Status, snapshot_or_none

_KINDS: Final = ("malformed", "unsupported", "dropped")
# There from the start, at 0: Prometheus sees no increase in a series that begins with the first of what it counts.
_FATES: Final = ("held", "queued", *(f"skipped_{reason}" for reason in (BEHIND, TOO_SMALL, EXPIRED, DAMAGED)))


def daemon_pages(status: Status) -> Pages:
    """What a daemon serves."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    return lambda path: _page(path, status, registry)


def _page(path: str, status: Status, registry: CollectorRegistry) -> tuple[int, str, bytes]:
    if path == "/metrics":
        return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
    if path in ("/healthz", "/readyz"):
        facts = status.health()
        is_well = facts["healthy"] if path == "/healthz" else facts["ready"]
        return (200 if is_well else 503), "application/json", json.dumps(facts).encode() + b"\n"
    return 404, "text/plain", b"there are /metrics, /healthz and /readyz\n"


class StatusCollector(Collector):
    """A status as metrics."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        snapshot = snapshot_or_none(self._status)
        yield GaugeMetricFamily("nsstream_up", "Whether the figures could be had.", value=float(snapshot is not None))
        if snapshot is not None:
            yield GaugeMetricFamily("nsstream_healthy", "Whether nothing is wrong.", value=float(snapshot["healthy"]))
            yield GaugeMetricFamily("nsstream_memory_bytes", "Resident memory.", value=snapshot["memory_octets"])
            for name, octets in snapshot["disk"].items():
                told = name.removesuffix("_octets")
                yield GaugeMetricFamily(f"nsstream_disk_{told}_bytes", f"Of the state: {told}.", value=octets)
            yield from _of_capture(snapshot["capture"])
            yield from _of_training(snapshot["training"])
            yield from _of_privacy(snapshot["training"]["privacy"])


def _of_capture(capture: dict[str, Any]) -> Iterator[Metric]:
    yield from _of_tally("records", capture["tally"])
    if behind := capture["tally"].get("behind"):
        yield from _of_tally("packets", behind)
    for name, what in (("chunks", "Chunks stored."), ("expired", "Chunks expired."), ("restarts", "Source restarts.")):
        yield CounterMetricFamily(f"nsstream_capture_{name}", what, value=capture[name])
    for name in ("open_rows", "waiting_rows", "unprotected_rows"):
        yield GaugeMetricFamily(f"nsstream_capture_{name}", f"{name.replace('_', ' ')} now.", value=capture[name])
    if capture["lag_s"] is not None:
        yield GaugeMetricFamily(
            "nsstream_capture_lag_seconds", "The clock less the latest row's time.", value=capture["lag_s"]
        )
    states = GaugeMetricFamily("nsstream_capture_state", "1 for the state it is in.", labels=["state"])
    for state in ("starting", "running", "waiting", "ended", "failed", "stopped"):
        states.add_metric([state], float(capture["state"] == state))
    yield states


def _of_tally(what: str, tally: dict[str, Any]) -> Iterator[Metric]:
    yield CounterMetricFamily(f"nsstream_capture_{what}_offered", "Offered in all.", value=tally["offered"])
    fates = CounterMetricFamily(
        f"nsstream_capture_{what}_fate", "What became of them: adds up to what was offered.", labels=["fate", "reason"]
    )
    for fate in ("kept", "late", "future", "parked", "sampled_out"):
        fates.add_metric([fate, ""], tally[fate])
    for fate in _KINDS:
        for reason, count in tally[fate].items():
            fates.add_metric([fate, reason], count)
    yield fates


def _of_training(training: dict[str, Any]) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("nsstream_training_jobs", "Jobs in the ledger.", labels=["state"])
    for state, count in training["jobs"].items():
        jobs.add_metric([state], count)
    yield jobs
    chunks = GaugeMetricFamily("nsstream_training_chunks", "Chunks in the ledger.", labels=["fate"])
    for fate, count in (dict.fromkeys(_FATES, 0) | training["chunks"]).items():
        chunks.add_metric([fate], count)
    yield chunks
    failures = CounterMetricFamily("nsstream_training_failures", "Workers that failed.", labels=["kind"])
    for kind, count in (dict.fromkeys(map(str, Failure), 0) | training["failures"]).items():
        failures.add_metric([str(kind)], count)
    yield failures
    yield CounterMetricFamily("nsstream_training_seconds", "Time spent training.", value=training["training_s"])
    is_paused = training["paused"] or not training["enabled"]
    yield GaugeMetricFamily("nsstream_training_paused", "1 if no job is claimed.", value=float(is_paused))
    busy = sum(worker["state"] != "idle" for worker in training["workers"])
    yield GaugeMetricFamily("nsstream_training_busy_workers", "Workers that train or judge.", value=busy)
    models = CounterMetricFamily("nsstream_model_count", "Models by the gate's verdict.", labels=["verdict"])
    for verdict in ("passed", "refused"):
        models.add_metric([verdict], training["models"][verdict])
    yield models
    yield CounterMetricFamily("nsstream_model_promotions", "Promotions.", value=training["models"]["promotions"])
    if training["promoted"] is not None:
        yield GaugeMetricFamily(
            "nsstream_model_promoted_chunk_end_seconds",
            "End of the chunk that the promoted model learned, since the Unix epoch.",
            value=training["promoted"]["end_ns"] * 1e-9,
        )
    newest = training["newest"]
    for name in ("loss", "ratio", "drift"):
        if newest is not None and newest["figures"].get(name) is not None:
            yield GaugeMetricFamily(
                f"nsstream_model_{name}", f"{name.capitalize()} of the newest model.", value=newest["figures"][name]
            )


def _of_privacy(privacy: dict[str, Any]) -> Iterator[Metric]:
    modes = GaugeMetricFamily("nsstream_privacy_mode", "1 for the mode it is in.", labels=["mode"])
    for mode in ("open", "remapped", "private"):
        modes.add_metric([mode], float(privacy["mode"] == mode))
    yield modes
    spent = GaugeMetricFamily("nsstream_privacy_spent_epsilon", "Epsilon that is spent.", labels=["over"])
    for over, name in (("day", "spent_day"), ("horizon", "spent"), ("ever", "spent_for_ever")):
        spent.add_metric([over], privacy[name])
    yield spent
    budget = GaugeMetricFamily("nsstream_privacy_budget_epsilon", "Epsilon that may be spent.", labels=["over"])
    for over, name in (("horizon", "epsilon"), ("ever", "epsilon_for_ever")):
        if privacy[name] is not None:
            budget.add_metric([over], privacy[name])
    yield budget
    yield GaugeMetricFamily(
        "nsstream_privacy_unknown", "1 if what was spent before is not known.", value=float(privacy["unknown"])
    )
    yield CounterMetricFamily("nsstream_privacy_reserved", "Jobs that reserved spending.", value=privacy["jobs"])
    refused = CounterMetricFamily("nsstream_privacy_refused", "Jobs that were refused.", labels=["reason"])
    counts = dict.fromkeys(ALL_REFUSALS if privacy["mode"] == "private" else (), 0) | privacy["refused"]
    for reason, count in counts.items():
        refused.add_metric([reason], count)
    yield refused
