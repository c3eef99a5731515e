"""The dashboard and the alert rules: they name what the daemon exports, and the docs name all of that."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_status import status
from nsstream_daemon.metrics_server import StatusCollector
from nsstream_daemon.replay_metrics import ReplayCollector
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

ROOT = Path(__file__).parents[3]
RULES = ROOT / "systemd" / "monitoring" / "nsstream-rules.yml"
DASHBOARD = ROOT / "systemd" / "monitoring" / "nsstream-grafana.json"
NAME = re.compile(r"\bnsstream_\w+")


def lines_of(told: dict[str, Any]) -> list[str]:
    """What is exported of a status, without the comments."""
    return lines_by(StatusCollector(SimpleNamespace(snapshot=lambda: told)))


def lines_of_replay() -> list[str]:
    """What a replay server exports that has sent something."""
    collector = ReplayCollector()
    collector.status = SimpleNamespace(
        state="running", run=1, packets_written=2, octets_written=3, chunk=1, twin_time_s=0.5, late_s=0.0,
        packets_drawn_ahead=4, subscribers=[], twin_now_ns=10**18,
    )  # fmt: skip
    return lines_by(collector)


def lines_by(collector: Collector) -> list[str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_a_replay_server_that_has_said_nothing_yet_has_no_metrics():
    assert lines_by(ReplayCollector()) == []
    assert 'nsstream_replay_state{state="running"} 1.0' in lines_of_replay()
    assert "nsstream_replay_twin_seconds 1e+09" in lines_of_replay()


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """What a daemon exports where nothing is lacking: it reads flows, a worker failed, a fine-tune was promoted."""
    told = status()
    told["capture"]["tally"]["behind"] = dict(told["capture"]["tally"])
    told["training"]["promoted"] = told["training"]["newest"]
    return {re.split(r"[{ ]", line)[0] for line in lines_of(told) + lines_of_replay()}


def test_what_an_alert_waits_for_is_there_at_zero_before_it_happens():
    told = status()
    told["training"] |= {"chunks": {"skipped_behind": 3}, "failures": {}}
    lines = lines_of(told)
    assert 'nsstream_training_chunks{fate="skipped_damaged"} 0.0' in lines
    assert 'nsstream_training_chunks{fate="skipped_behind"} 3.0' in lines
    assert 'nsstream_training_failures_total{kind="died"} 0.0' in lines


@pytest.mark.parametrize(("enabled", "paused", "told"), [(True, False, 0.0), (True, True, 1.0), (False, False, 1.0)])
def test_training_that_claims_nothing_is_told_as_paused_so_that_no_model_is_called_old(enabled, paused, told):
    now = status()
    now["training"] |= {"enabled": enabled, "paused": paused}
    assert f"nsstream_training_paused {told}" in lines_of(now)


def test_the_docs_name_every_metric_and_no_other(exported: set[str]):
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(nsstream_\w+?)(?:\{[^`]*)?`", text)) == exported


@pytest.mark.parametrize("path", [RULES, DASHBOARD])
def test_every_metric_that_is_named_is_exported(exported: set[str], path: Path):
    named = set(NAME.findall(path.read_text(encoding="utf-8")))
    assert len(named) > 10
    assert named <= exported


def test_the_dashboard_shows_every_metric(exported: set[str]):
    assert exported == set(NAME.findall(DASHBOARD.read_text(encoding="utf-8")))


def test_the_dashboard_is_one_that_grafana_takes():
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels: list[dict[str, Any]] = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert target["expr"].count("(") == target["expr"].count(")")
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "instance"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's prometheus")
def test_promtool_takes_the_rules_and_they_fire_when_they_should(tmp_path: Path):
    test = tmp_path / "test.yml"
    text = Path(__file__).with_name("nsstream-rules.test.yml").read_text(encoding="utf-8")
    test.write_text(text.replace("[RULES]", f"[{RULES}]"))
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(test)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's prometheus")
def test_promtool_takes_every_query_of_the_dashboard(tmp_path: Path):
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    rules = [{"record": f"query{at}", "expr": query} for at, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
