"""The daemon as a process: kills, faults of workers, signals, commands; each chunk is learned once, none is lost."""

import json
import os
import re
import signal
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service_nest import Nest, is_gone, wait_until

from nsstream.chunk import ChunkStore
from nsstream.model.promotion import read_promoted


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    made = Nest(tmp_path)
    yield made
    made.close()


def trained(nest: Nest) -> list[str]:
    path = nest.quick / "trained"
    return path.read_text().split() if path.exists() else []


def jobs(nest: Nest) -> dict[str, int]:
    return {state: count for state, count in nest.ask("status")["training"]["jobs"].items() if count}


def test_chunks_become_promoted_models(nest: Nest):
    nest.put(5)
    nest.start()
    wait_until(lambda: nest.done() == 4)
    promoted = wait_until(lambda: read_promoted(nest.state / "models"))
    manifest = json.loads((promoted / "manifest.json").read_text())
    assert manifest["gate"] == {
        "passed": True, "complaints": [],
        "figures": {
            "loss": 10.0, "parent_loss": 10.0 / 0.9, "ratio": 0.9, "drift": 1.1, "drawn": 10, "frames": 100,
            "faults": 0, "copied": 0.0, "copied_floor": 0.0,
        },
    }  # fmt: skip
    assert manifest["chunk"] == max(nest.stored())  # of the newest chunk
    status = nest.ask("status")
    assert status["healthy"]
    assert status["training"]["promoted"]["id"] == promoted.name
    assert status["training"]["models"]["passed"] == 4
    assert len(trained(nest)) == 4
    assert nest.stop() == 0
    assert not list((nest.state / "work").iterdir())


def test_descriptors_threads_and_children_do_not_grow_with_the_jobs(nest: Nest):
    def held() -> tuple[int, int, int]:
        assert nest.daemon is not None
        place = Path(f"/proc/{nest.daemon.pid}")
        tasks = list((place / "task").iterdir())
        children = [name for task in tasks for name in (task / "children").read_text().split()]
        return len(list((place / "fd").iterdir())), len(tasks), len(children)

    def settled(done: int) -> tuple[int, int, int]:
        def at_rest() -> bool:
            return nest.done() == done and nest.ask("status")["training"]["workers"][0]["state"] == "idle"

        wait_until(at_rest)
        seen = [held()]

        def is_steady() -> bool:  # the connection that we asked by is gone
            seen.append(held())
            return len(seen) > 20 and len(set(seen[-20:])) == 1

        wait_until(is_steady)
        return seen[-1]

    nest.put(3)
    nest.start()
    before = settled(2)
    nest.put(5)
    assert settled(7) == before
    assert before[2] == 0


def test_a_candidate_that_is_worse_than_its_parent_is_not_promoted(nest: Nest):
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    seed = wait_until(lambda: read_promoted(nest.state / "models"))
    (nest.quick / "ratio").write_text("1.5")
    nest.put()
    wait_until(lambda: nest.done() == 2)
    told = nest.ask("models")
    assert [model["passed"] for model in told] == [False, True]
    assert told[0]["complaints"] == ["its held-out loss of 10.000 nats is 1.500 times its parent's 6.667, more than 1"]
    assert read_promoted(nest.state / "models") == seed
    assert nest.ask("promote", model=told[0]["id"])["id"] == told[0]["id"]
    assert read_promoted(nest.state / "models").name == told[0]["id"]
    (nest.quick / "ratio").unlink()
    nest.put()
    wait_until(lambda: nest.done() == 3)
    assert nest.ask("status")["training"]["held"]
    assert read_promoted(nest.state / "models").name == told[0]["id"]
    assert nest.ask("promote", model=None)["id"] == nest.ask("models")[0]["id"]


@pytest.mark.parametrize("gate", [{"reseed_drift": 1.5}, {"reseed_after": 3}])
def test_a_new_seed_is_trained_where_drift_or_the_gate_says_so(tmp_path: Path, gate: dict[str, Any]):
    nest = Nest(tmp_path, gate=gate)
    try:
        (nest.quick / ("drift" if "reseed_drift" in gate else "ratio")).write_text("1.6")
        nest.put(2)
        nest.start()
        for done in range(1, 6):  # one at a time: what is asked is what the newest said
            wait_until(lambda done=done: nest.done() == done)
            nest.put(1)
        parents = [row[0] for row in nest.rows("SELECT parent FROM model ORDER BY trained_ns LIMIT 5")]
        assert [parent is None for parent in parents] == [True, False, False, False, True]
        newest = nest.rows("SELECT id FROM model WHERE parent IS NULL ORDER BY trained_ns DESC LIMIT 1")[0][0]
        wait_until(lambda: nest.done() == 6)
        assert nest.rows("SELECT parent FROM model ORDER BY trained_ns DESC LIMIT 1") == [(newest,)]
    finally:
        nest.close()


def test_kill_minus_nine_at_any_moment_loses_no_chunk_and_does_no_job_twice(nest: Nest):
    chance = np.random.default_rng(7)
    for _ in range(6):
        nest.start(ready=False)
        nest.put(4)
        target = nest.done() + int(chance.integers(0, 4))
        wait_until(lambda target=target: nest.done() >= target and (nest.quick / "pid").exists())
        nest.kill()
    worker = int((nest.quick / "pid").read_text())
    wait_until(lambda: is_gone(worker))
    nest.put(1)
    nest.start()
    wait_until(lambda: nest.done() == nest.spooled - 1)
    assert nest.ask("pause") is None
    assert nest.stop() == 0
    kept = sum(info.row_count for info in ChunkStore(nest.state / "chunks").list())
    assert kept == 100 * nest.spooled  # the last one is a partial chunk
    assert {row[0] for row in nest.rows("SELECT id FROM chunk")} >= set(sorted(nest.stored())[:-1])
    assert nest.count("job WHERE state = 'done'") == nest.count("model") == nest.spooled - 1
    assert nest.count("job WHERE state NOT IN ('done', 'pending')") == 0
    models = [path.name for path in (nest.state / "models").iterdir() if not path.is_symlink()]
    assert sorted(models) == sorted(row[0] for row in nest.rows("SELECT id FROM model WHERE is_stored"))


def test_a_checkpoint_that_was_trained_before_a_kill_is_not_trained_again(nest: Nest):
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    nest.stop()
    model = nest.rows("SELECT id FROM model")[0][0]
    # The state as a kill leaves it between the training and its being settled.
    connection = sqlite3.connect(nest.state / "ledger.sqlite")
    with connection:
        connection.execute("DELETE FROM promotion")
        connection.execute("DELETE FROM model")
        connection.execute("UPDATE job SET state = 'running', candidate = ?", (model,))
    connection.close()
    (nest.state / "models" / "promoted").unlink()
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert len(trained(nest)) == 1
    assert wait_until(lambda: read_promoted(nest.state / "models")).name == model


@pytest.mark.parametrize(
    ("how", "kind", "settings"),
    [
        ("stuck", "stuck", {"silence_s": 12, "attempts": 9}),
        ("leak", "memory", {"memory_octets": 256 << 20}),
        ("crash", "died", {}),
        ("error", "error", {}),
        ("gpu_full", "gpu_memory", {}),
        ("slow", "time", {"time_limit_s": 12, "attempts": 9}),
    ],
)
def test_a_worker_that_fails_is_killed_counted_and_tried_again(
    tmp_path: Path, how: str, kind: str, settings: dict[str, Any]
):
    nest = Nest(tmp_path, training=settings)
    try:
        (nest.quick / how).touch()
        nest.put(2)
        nest.start()
        wait_until(lambda: nest.ask("status")["training"]["failures"].get(kind))
        (nest.quick / "slow").unlink(missing_ok=True)
        wait_until(lambda: nest.done() == 1)
        status = nest.ask("status")
        assert status["healthy"]
        assert status["capture"]["state"] == "running"
        assert nest.rows("SELECT attempts FROM job")[0][0] >= 1
        assert trained(nest) == sorted(nest.stored())[:1]
        assert "job_failed" in nest.log.read_text()
    finally:
        nest.close()


def test_a_worker_that_is_killed_costs_its_job_an_attempt(nest: Nest):
    (nest.quick / "slow").touch()
    nest.put(2)
    nest.start()
    os.kill(nest.worker_pid(), signal.SIGKILL)
    wait_until(lambda: nest.ask("status")["training"]["failures"] == {"died": 1})
    (nest.quick / "slow").unlink()
    wait_until(lambda: nest.done() == 1)
    assert nest.rows("SELECT attempts, state FROM job") == [(1, "done")]
    assert "it was killed by SIGKILL" in nest.log.read_text()


def test_a_job_whose_chunk_expires_as_it_is_learned_is_skipped_and_no_failure(nest: Nest):
    (nest.quick / "slow").touch()
    nest.put(2)
    nest.start()
    worker = nest.worker_pid()
    for path in (nest.state / "chunks").glob("*.arrow"):
        path.unlink()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: jobs(nest) == {"skipped": 1})
    status = nest.ask("status")["training"]
    assert (status["failures"], status["chunks"]) == ({}, status["chunks"] | {"skipped_expired": 1})
    assert "job_skipped job=1 chunk=" in nest.log.read_text()


def test_a_job_that_always_fails_is_given_up_and_the_next_goes_on(tmp_path: Path):
    nest = Nest(tmp_path, training={"attempts": 2})
    try:
        (nest.quick / "error").touch()
        nest.put(2)
        nest.start()
        wait_until(lambda: nest.ask("status")["training"]["failures"] == {"error": 1})
        (nest.quick / "error").touch()
        wait_until(lambda: jobs(nest) == {"poisoned": 1} or nest.done())
        if not nest.done():  # else the second try was over before it was told to fail
            nest.put(1)
            wait_until(lambda: nest.done() == 1)
            told = nest.ask("chunks")
            assert [chunk["job_state"] for chunk in told] == ["done", "poisoned"]
            assert told[1]["job_reason"] == "the loss is nan"
    finally:
        nest.close()


def test_sigterm_stops_in_order_and_gives_the_job_back(nest: Nest, tmp_path: Path):
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(60)
    (nest.quick / "slow").touch()
    nest.put(2)
    nest.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="2000000")
    worker = nest.worker_pid()
    told = [heard.recv(4096).decode()]
    while "WATCHDOG=1" not in told or not any(line.startswith("STATUS=") and "chunks" in line for line in told):
        told.append(heard.recv(4096).decode())
    assert nest.stop() == 0
    assert is_gone(worker)
    heard.setblocking(False)
    while True:
        try:
            told.append(heard.recv(4096).decode())
        except BlockingIOError:
            break
    heard.close()
    states = [line for line in told if line in ("READY=1", "STOPPING=1")]
    assert states == ["READY=1", "STOPPING=1"]
    assert set(nest.rows("SELECT state, attempts FROM job")) == {("pending", 0)}
    partial = [info.is_partial for info in ChunkStore(nest.state / "chunks").list()]
    assert partial == [False, True]
    assert not (nest.state / "control.sock").exists()
    (nest.quick / "slow").unlink()
    nest.put(1)
    nest.start()
    wait_until(lambda: nest.done() >= 2)


def test_a_second_signal_ends_it_at_once_and_the_worker_with_it(nest: Nest):
    (nest.quick / "slow").touch()
    nest.put(2)
    daemon = nest.start()
    worker = nest.worker_pid()
    os.kill(worker, signal.SIGSTOP)  # it does not end when it is asked to, so that the stop takes its time
    daemon.send_signal(signal.SIGTERM)
    wait_until(lambda: "daemon_stops" in nest.log.read_text())
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(300) == -signal.SIGTERM
    wait_until(lambda: is_gone(worker))
    assert nest.rows("SELECT state FROM job") == [("running",)]
    (nest.quick / "slow").unlink()
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert len(trained(nest)) == 1


def test_a_second_daemon_is_refused_with_the_number_of_the_first(nest: Nest):
    first = nest.start()
    second = nest.start(ready=False)
    assert second.wait(300) == 1
    assert f"is held by another daemon, pid {first.pid}; stop it, or use another state" in nest.log.read_text()
    nest.daemon = first
    assert nest.ask("status")["pid"] == first.pid
    nest.kill()
    nest.start()
    assert nest.ask("status")["healthy"]


def test_what_is_behind_is_skipped_by_name_and_small_chunks_are_learned_together(tmp_path: Path):
    nest = Nest(tmp_path, training={"most_waiting": 2})
    try:
        nest.put(3, packets=20)
        nest.put(1)
        (nest.quick / "slow").touch()
        nest.start()
        nest.worker_pid()
        nest.put(6)
        wait_until(lambda: nest.ask("status")["training"]["chunks"].get("skipped_behind"))
        wait_until(lambda: len(nest.ask("chunks")) == 9)
        (nest.quick / "slow").unlink()
        wait_until(lambda: not {"pending", "running", "claimed"} & set(jobs(nest)))
        told = nest.ask("chunks")
        assert sum(chunk["fate"] == "queued" for chunk in told) >= 3
        together = nest.rows("SELECT COUNT(*) FROM chunk WHERE row_count = 20 GROUP BY job HAVING COUNT(*) > 1")
        assert together == [(3,)]
        assert nest.count("job WHERE state IN ('done', 'skipped')") == nest.count("job")
    finally:
        nest.close()


def test_the_commands(nest: Nest):
    nest.put(3)
    nest.start()
    wait_until(lambda: nest.done() == 2)
    shown = nest.ctl("status")
    assert shown.returncode == 0, shown.stderr
    for words in ("healthy", "capture", "running", "300 kept", "2 done", "2 passed", "promoted", "train-0", "idle"):
        assert words in shown.stdout, shown.stdout
    assert json.loads(nest.ctl("status", "--json").stdout)["training"]["jobs"]["done"] == 2
    assert nest.ctl("chunks").stdout.count("passed") == 2
    models = nest.ctl("models").stdout.splitlines()
    assert [line.startswith("*") for line in models[1:]] == [True, False]
    older = json.loads(nest.ctl("models", "--json").stdout)[1]["id"]
    assert nest.ctl("promote", older).stdout == f"{older} is promoted\n"
    assert read_promoted(nest.state / "models").name == older
    assert "there is no stored model 'nonsense'" in nest.ctl("promote", "nonsense").stderr
    assert nest.ctl("promote").returncode == 1

    assert nest.ctl("pause").returncode == 0
    assert nest.ctl("flush").returncode == 0
    assert len(nest.stored()) == 3
    wait_until(lambda: jobs(nest).get("pending") == 1)
    nest.kill()
    nest.start()
    assert nest.ask("status")["training"]["paused"]
    assert nest.ctl("resume").returncode == 0
    wait_until(lambda: nest.done() == 3)


def test_a_reload_changes_what_is_live_and_refuses_the_rest_by_name(nest: Nest):
    nest.start()
    assert nest.ctl("reload").stdout == "nothing changed\n"
    nest.settings["training"] |= {"budget_s": 7.5, "attempts": 9}
    nest.settings["chunks"]["keep_for_s"] = "7d"
    nest.write_config()
    assert nest.ctl("reload").stdout.splitlines() == [
        "chunks.keep_for_s = 604800.0", "training.budget_s = 7.5", "training.attempts = 9"
    ]  # fmt: skip
    nest.settings["chunks"]["length_s"] = 20
    nest.settings["training"]["attempts"] = 2
    nest.write_config()
    refused = nest.ctl("reload")
    assert refused.returncode == 1
    assert refused.stderr == (
        "nsstream: chunks.length_s: cannot change while the daemon runs; "
        "restart it, once `nsstream validate` finds no fault\n"
    )
    nest.settings["chunks"]["length_s"] = 0
    nest.write_config()
    assert "chunks.length_s = 0: input should be greater than or equal to 1" in nest.ctl("reload").stderr
    nest.settings["chunks"]["length_s"] = 10
    nest.write_config()
    assert nest.daemon is not None
    nest.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded changes=training.attempts" in nest.log.read_text())


@pytest.mark.parametrize(
    "octets",
    [b"nonsense\n", b"[]\n", b'{"command": 3}\n', b'{"command": "nonsense"}\n', b"[" * 60_000 + b"\n",
     b'{"command": "promote", "model": 3}\n', b'{"command": "chunks", "limit": -1}\n'],
)  # fmt: skip
def test_a_request_that_is_none_is_refused(started: Nest, octets: bytes):
    reply = started.exchange(octets)
    assert reply["ok"] is False
    assert reply["error"]
    assert started.ask("status")["healthy"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nest]:
    made = Nest(tmp_path_factory.mktemp("n"), control={"metrics_port": free_port()})
    made.put(2)
    made.start()
    wait_until(lambda: made.done() == 1)
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])


def test_clients_that_hang_or_shout_hold_nobody_up(started: Nest):
    ends = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for end in ends:
        end.connect(str(started.state / "control.sock"))
        end.sendall(b'{"command"')
    shouting = socket.socket(socket.AF_UNIX)
    shouting.connect(str(started.state / "control.sock"))
    shouting.settimeout(60)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        shouting.sendall(b"x" * (64 << 20))
    assert started.ask("status")["healthy"]
    for end in [*ends, shouting]:
        end.close()
    assert (started.state / "control.sock").stat().st_mode & 0o777 == 0o660


def page(nest: Nest, path: str) -> tuple[int, str]:
    port = nest.settings["control"]["metrics_port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=300) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode()


def test_the_metrics_are_the_accounts(started: Nest):
    code, text = page(started, "/metrics")
    assert code == 200
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures["nsstream_capture_records_offered_total"]) == 200
    fates = [float(value) for name, value in figures.items() if name.startswith("nsstream_capture_records_fate_total")]
    assert sum(fates) == 200
    assert float(figures['nsstream_training_jobs{state="done"}']) == 1
    assert float(figures['nsstream_model_count_total{verdict="passed"}']) == 1
    assert float(figures["nsstream_model_loss"]) == 10.0
    told = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(nsstream_\w+?)(?:\{[^`]*)?`", told))
    served = {name.partition("{")[0] for name in figures}
    assert served <= documented
    assert documented - served <= {
        *(f"nsstream_capture_packets_{name}_total" for name in ("offered", "fate")),  # of flows
        *(f"nsstream_model_{name}" for name in ("ratio", "drift")),  # of a fine-tune
        "nsstream_privacy_refused_total",  # of private mode
        *(name for name in documented if name.startswith("nsstream_replay_")),  # of another process
    }


def test_health_and_readiness(started: Nest):
    for path in ("/healthz", "/readyz"):
        code, text = page(started, path)
        assert code == 200
        assert json.loads(text)["problems"] == []
    assert page(started, "/nonsense")[0] == 404


def test_a_live_source_that_fails_is_tried_again_and_seen(tmp_path: Path):
    nest = Nest(tmp_path, source={"input": "live:nosuch0"})
    try:
        nest.start()
        wait_until(lambda: nest.ask("status")["capture"]["restarts"] >= 1)
        status = nest.ask("status")
        assert status["capture"]["state"] in ("waiting", "running")
        assert "nosuch0" in status["capture"]["error"]
        assert status["healthy"]
        assert not status["ready"]
        assert "source_restarts" in nest.log.read_text()
        assert nest.stop() == 0
    finally:
        nest.close()


def test_a_source_that_cannot_be_used_is_seen(tmp_path: Path):
    nest = Nest(tmp_path, source={"input": str(tmp_path / "x.pcap"), "at_end": "stay"})
    try:
        (tmp_path / "x.pcap").write_bytes(b"this is no capture" * 10)
        nest.start()
        wait_until(lambda: nest.ask("status")["capture"]["state"] == "failed")
        status = nest.ask("status")
        assert not status["healthy"]
        assert status["problems"] == ["the source failed"]
        assert "x.pcap" in status["capture"]["error"]
        assert nest.ctl("status").returncode == 1
        assert nest.stop() == 1
    finally:
        nest.close()


def test_a_ledger_that_somebody_locks_stops_training_for_as_long_and_nothing_else(nest: Nest):
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    other = sqlite3.connect(nest.state / "ledger.sqlite", isolation_level=None, timeout=300)
    other.execute("BEGIN IMMEDIATE")
    nest.put(2)
    wait_until(lambda: len(nest.stored()) == 3)
    wait_until(lambda: "database is locked" in nest.log.read_text())
    other.execute("COMMIT")
    other.close()
    wait_until(lambda: nest.done() == 3)
    assert nest.ask("status")["healthy"]
    assert nest.stop() == 0


def test_a_damaged_chunk_is_left_out_by_name(nest: Nest):
    (nest.state / "chunks").mkdir(parents=True)
    (nest.state / "chunks" / "20200101T000000Z-10s.arrow").write_bytes(b"no chunk at all")
    nest.put(2)
    nest.start()
    wait_until(lambda: nest.done() == 1)
    assert nest.ask("status")["training"]["chunks"] == {"queued": 1, "skipped_damaged": 1}
    assert "chunk_left_out id=20200101T000000Z-10s" in nest.log.read_text()


def test_a_daemon_that_is_not_there_is_told(nest: Nest):
    told = nest.ctl("status")
    assert told.returncode == 1
    assert "no daemon answers at" in told.stderr
    assert "is it running?" in told.stderr
