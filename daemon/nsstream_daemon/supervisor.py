"""Supervisor: the daemon's components, started in order, watched, and stopped in the order of docs/design.md.

    lock -> ledger -> control socket -> scheduler -> metrics -> capture -> its source is open -> READY
    capture (source, drain, open chunks closed as partial, store) -> scheduler (workers ended, jobs given back)
            -> metrics -> control socket -> ledger -> lock

Policy of deaths: a source that ends or fails is opened again, or not, as the configuration says; a worker that dies
costs its job an attempt. A thread of ours that dies by a defect is none of that: the daemon stops in order, and ends
with status 1, so that the service manager starts it afresh. The first SIGTERM or SIGINT asks for an orderly stop, the
second one ends the daemon at once: what was open is in the journal, and workers die with it. SIGHUP is a reload.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from nsstream.clock import Clock
from nsstream.encode.address_map import AddressMap
from nsstream.errors import InputError, NsstreamError, StateError
from nsstream.pipeline.address_keys import key_beside, own_key
from nsstream.pipeline.config_file import load_config
from nsstream.pipeline.ingest_plan import IngestPlan
from nsstream.pipeline.job_runner import JUDGE
from nsstream.pipeline.ledger import FILE, Ledger
from nsstream.pipeline.private_training import Planner, plan
from nsstream.pipeline.promoter import model_as_dict
from nsstream.pipeline.ray_engine import RayEngine
from nsstream.pipeline.scheduler import Scheduler
from nsstream.pipeline.service_config import ServiceConfig
from nsstream.pipeline.training import WORKER
from nsstream.secret_files import find_secret
from nsstream_daemon.capture_part import CapturePart
from nsstream_daemon.config_check import check_privacy
from nsstream_daemon.control_server import ControlServer
from nsstream_daemon.metrics_server import daemon_pages
from nsstream_daemon.page_server import PageServer
from nsstream_daemon.reload import changes_of, refused_changes
from nsstream_daemon.sd_notify import Notifier
from nsstream_daemon.state_lock import StateLock
from nsstream_daemon.status import Status, status_line

_log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
TELL_EVERY_NS: Final = 5 * 10**9
FLUSH_TIMEOUT_S: Final = 20.0
OPEN_S: Final = 120.0  # that a source may take to be open, as numba compiles, before we are ready without it
OPEN_LOOK_S: Final = 0.02
HUNG_S: Final = 15.0  # that the capture loop may be silent


class Supervisor:
    """The daemon; inert until `run`.

    Args:
        path: of the configuration, read again by a reload.
        config: what it held.
        clock: everybody's.
        notifier: to the service manager.
        worker, judge: the programs that train and judge.
        planner: says what a job in private mode does.
    """

    def __init__(
        self,
        path: Path,
        config: ServiceConfig,
        clock: Clock,
        notifier: Notifier,
        *,
        worker: tuple[str, ...] = WORKER,
        judge: tuple[str, ...] = JUDGE,
        planner: Planner = plan,
    ) -> None:
        self._path, self._config, self._clock, self._notifier = path, config, clock, notifier
        self._programs, self._planner = (worker, judge), planner
        self._wake: SimpleQueue[None] = SimpleQueue()  # an Event has a lock, which a signal handler may not wait for
        self._asked: list[int] = []  # signals that ask for an end
        self._is_hung_up = False
        self._dead: list[str] = []  # threads of ours
        self._phase = "starting"
        self._began_ns = clock.monotonic_ns()
        self._told_ns = 0
        self._reload_lock = threading.Lock()
        self._stop_limit = threading.Timer(config.control.stop_timeout_s, self._end_at_once)
        self._stop_limit.name, self._stop_limit.daemon = "stop-limit", True

    def run(self) -> int:
        """Serve until told to end, or until everything is learned where that is asked for; gives the exit status.

        Raises StateError or OutputError where it cannot start.
        """
        with ExitStack() as stack:
            stack.callback(self._stop_limit.cancel)
            self._install_signals(stack)
            self._start(stack)
            self._await_source()
            self._phase = "running"
            self._notifier.ready()
            _log.info(
                "daemon_ready state=%s source=%s pid=%d", self._config.state, self._config.source.input, os.getpid()
            )
            reason = self._watch()
            self._phase = "stopping"
            _log.info("daemon_stops reason=%s", reason)
            self._notifier.stopping()
            self._notifier.status(f"stopping: {reason}")
            self._stop_limit.start()
        is_failed = bool(self._dead) or (self.capture.phase == "failed")
        _log.info("daemon_stopped status=%d", is_failed)
        return int(is_failed)

    def answer(self, request: dict[str, Any]) -> Any:
        """Do what a request on the control socket asks for; raises NsstreamError to refuse it."""
        command = request["command"]
        commands: dict[str, Callable[[dict[str, Any]], Any]] = {
            "status": lambda request: self.status.snapshot(),
            "reload": lambda request: self.reload(),
            "pause": lambda request: self.scheduler.pause(is_paused=True),
            "resume": lambda request: self.scheduler.pause(is_paused=False),
            "chunks": lambda request: self.status.chunks(_limit(request)),
            "models": lambda request: [model_as_dict(m) for m in self.scheduler.models.newest(_limit(request))],
            "promote": self._promote,
            "forget": self._forget,
            "privacy": lambda request: {
                **self.scheduler.private.status(),
                "newest": self.scheduler.private.ledger.newest(_limit(request)),
            },
            "flush": lambda request: self._flush(),
        }
        if command not in commands:
            raise InputError(f"there is no command {command!r:.40}; there are {', '.join(commands)}")
        return commands[command](request)

    def reload(self) -> dict[str, Any]:
        """Read the configuration again, and go by it; raises InputError, with nothing changed, where that cannot be.

        Gives what changed, by key.
        """
        with self._reload_lock:
            self._notifier.reloading()
            try:
                config = load_config(self._path)
                check_privacy(self._path, config, self._planner)
                if refused := refused_changes(self._config, config):
                    raise InputError(
                        f"{', '.join(refused)}: cannot change while the daemon runs; "
                        "restart it, once `nsstream validate` finds no fault"
                    )
                changes = changes_of(self._config, config)
                self._config = config
                set_log_level(config)
                self.scheduler.reconfigure(config.training, config.gate)
                self.capture.retain(IngestPlan(config.source, config.chunks).retention)
            except NsstreamError as err:
                _log.warning("reload_refused error=%s", str(err).replace("\n", "; "))
                raise
            finally:
                self._notifier.ready()
            _log.info("reloaded changes=%s", ", ".join(changes) or "none")
            return changes

    def _start(self, stack: ExitStack) -> None:
        """Start the components; each is stopped, in the opposite order, when the stack is left."""
        config = self._config
        lock = StateLock(config.state)
        stack.callback(lock.release)
        ledger = Ledger(config.state / FILE)
        stack.callback(ledger.close)
        address_map = AddressMap(_address_key(config), config.training.ipv4_range, config.training.ipv6_range)
        self.scheduler = Scheduler(
            config.state, ledger, config.training, config.gate, address_map, self._clock,
            on_death=self._on_death, worker=self._programs[0], judge=self._programs[1],
            engine=RayEngine(config.ray) if config.training.engine == "ray" else None, privacy=config.privacy,
            planner=self._planner,
        )  # fmt: skip
        self.capture = CapturePart(
            IngestPlan(config.source, config.chunks), config.state, self._clock,
            on_chunk=self.scheduler.wake, beat=self._notifier.beat, on_death=self._on_death,
        )  # fmt: skip
        self.status = Status(config.state, self.capture, self.scheduler, self._facts, self._clock)
        control = ControlServer(config.socket, self._answer_when_started, self._on_death)
        control.start()
        stack.callback(control.stop)
        self.scheduler.start()
        metrics = PageServer(
            config.control.metrics_port, "control.metrics_port", daemon_pages(self.status), self._on_death
        )
        stack.callback(metrics.stop)
        stack.callback(self.scheduler.stop)
        metrics.listen()
        metrics.start()
        stack.callback(self.capture.stop)
        self.capture.start()

    def _await_source(self) -> None:
        """Wait until the source is open or refused, so that who waited for us misses nothing of what happens next."""
        until_ns = self._clock.monotonic_ns() + round(OPEN_S * 1e9)
        while self.capture.phase == "starting" and not self._asked and not self._dead:
            if self._clock.monotonic_ns() > until_ns:
                _log.warning("source_opens_slowly seconds=%g", OPEN_S)
                return
            self._pause(OPEN_LOOK_S)  # a death or a signal wakes us; what it set is looked at again by `_watch`

    def _answer_when_started(self, request: dict[str, Any]) -> Any:
        if self._phase == "starting":
            raise StateError("the daemon is just starting; ask again")
        return self.answer(request)

    def _watch(self) -> str:
        """Wait until the daemon is to stop; gives the reason."""
        while True:
            self._pause(LOOK_S)
            if self._asked:
                return signal.Signals(self._asked[0]).name
            if self._dead:
                return f"{self._dead[0]} died"
            if self._is_hung_up:
                self._is_hung_up = False
                try:
                    self.reload()
                except NsstreamError:
                    continue  # it is in the log
            if self.capture.is_over:
                self._notifier.beat()  # nothing is captured any more; the loop that goes on is this one
                if self._config.source.at_end == "drain" and self._is_drained():
                    return "the source has ended and everything is learned"
            now_ns = self._clock.monotonic_ns()
            if now_ns - self._told_ns >= TELL_EVERY_NS:
                self._told_ns = now_ns
                try:
                    self._notifier.status(status_line(self.status.snapshot()))
                except NsstreamError:
                    continue  # the ledger is locked: another time

    def _pause(self, seconds: float) -> None:
        with suppress(Empty):
            self._wake.get(timeout=seconds)

    def _is_drained(self) -> bool:
        try:
            return not self._config.training.enabled or self.scheduler.is_drained()
        except NsstreamError:
            return False

    def _facts(self) -> dict[str, Any]:
        """What the status says of the daemon itself."""
        problems = [f"{name} died" for name in self._dead]
        if self.capture.phase == "failed":
            problems.append("the source failed")
        if self.capture.silent_s > HUNG_S:
            problems.append(f"the capture loop is silent for {self.capture.silent_s:.0f} s")
        if self.capture.unprotected_rows:
            problems.append("the disk refuses what is captured")
        return {
            "pid": os.getpid(),
            "state": self._phase,
            "state_directory": str(self._config.state),
            "uptime_s": (self._clock.monotonic_ns() - self._began_ns) * 1e-9,
            "healthy": not problems,
            "ready": self._phase == "running" and self.capture.phase in ("running", "ended"),
            "problems": problems,
        }

    def _promote(self, request: dict[str, Any]) -> Any:
        model = request.get("model")
        if model is not None and not isinstance(model, str):
            raise InputError("the model to promote is a text")
        promoted = self.scheduler.promote(model)
        _log.info("promoted_by_operator model=%s", model or "the newest good one")
        return None if promoted is None else model_as_dict(promoted)

    def _forget(self, request: dict[str, Any]) -> Any:
        chunk, before_ns, forgetting = request.get("chunk"), request.get("before_ns"), self.scheduler.forgetting
        if isinstance(chunk, str) and before_ns is None:
            return forgetting.forget(chunk).as_dict()
        if chunk is None and isinstance(before_ns, int) and not isinstance(before_ns, bool) and 0 < before_ns < 1 << 63:
            return forgetting.forget_before(before_ns).as_dict()
        raise InputError("forget a chunk, a text, or what was before_ns, a number of nanoseconds since the Unix epoch")

    def _flush(self) -> Any:
        if not self.capture.flush(FLUSH_TIMEOUT_S):
            raise StateError("nothing could be flushed: the source is not being read")
        self.scheduler.wake()
        return None

    def _on_death(self, name: str, error: BaseException) -> None:
        self._dead.append(name)
        self._wake.put(None)

    def _install_signals(self, stack: ExitStack) -> None:
        def on_end(number: int, frame: FrameType | None) -> None:
            if self._asked:
                _log.warning("daemon_ends_at_once signal=%s", signal.Signals(number).name)
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self._asked.append(number)
            self._wake.put(None)

        def on_hangup(number: int, frame: FrameType | None) -> None:
            self._is_hung_up = True
            self._wake.put(None)

        for number, handler in ((signal.SIGTERM, on_end), (signal.SIGINT, on_end), (signal.SIGHUP, on_hangup)):
            stack.callback(signal.signal, number, signal.signal(number, handler))

    def _end_at_once(self) -> None:
        """The orderly stop takes too long: what is open is in the journal, workers die with us."""
        _log.error("stop_took_too_long seconds=%g", self._config.control.stop_timeout_s)
        os._exit(1)


def set_log_level(config: ServiceConfig) -> None:
    """Log as the configuration says."""
    logging.getLogger("nsstream").setLevel(config.control.log_level.upper())
    logging.getLogger("nsstream_daemon").setLevel(config.control.log_level.upper())


def _address_key(config: ServiceConfig) -> bytes:
    """The key of the address map, wherever it is kept."""
    models, named = config.state / "models", config.training.address_key
    return (
        key_beside(models, secrets.token_bytes(32))
        if named is None
        else own_key(find_secret(named, os.environ), models)
    )


def _limit(request: dict[str, Any]) -> int:
    limit = request.get("limit", 20)
    if not isinstance(limit, int) or not 1 <= limit <= 1000:
        raise InputError(f"limit is a number from 1 to 1000, got {limit!r:.40}")
    return limit
