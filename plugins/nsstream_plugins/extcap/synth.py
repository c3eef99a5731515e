"""Synth: what nsstream-synth shows: a run of the replay module, in this process."""

from __future__ import annotations

import threading
from argparse import Namespace
from collections.abc import Callable
from importlib.resources import as_file
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from nsstream.clock import SystemClock
from nsstream.errors import InputError, OutputError
from nsstream.replay.faults import first_fault
from nsstream.replay.framing import Framing
from nsstream.replay.player import Player
from nsstream.replay.rate import parse_rate
from nsstream.replay.scenario import FollowSpec, ModelSpec, RecordedSpec, Scenario, StreamSpec
from nsstream.replay.stream import open_stream
from nsstream_plugins.extcap import grammar
from nsstream_plugins.extcap.controls import INITIALIZED as INITIAL
from nsstream_plugins.extcap.controls import SET, Message
from nsstream_plugins.extcap.frame_filter import FrameFilter
from nsstream_plugins.extcap.live_sink import LiveSink
from nsstream_plugins.lab import LAB

LONGEST_DATAGRAM: Final = 65_535  # a recording is shown as it is; nothing is sent, so no MTU limits it


class Synth:
    """A feed (`capture.Feed`); raises InputError where options cannot be."""

    def __init__(self, asked: Namespace) -> None:
        self._filter = FrameFilter(asked.extcap_capture_filter)
        self._rate = parse_rate(asked.rate)
        self._seed = asked.seed
        if not 0 <= asked.seed <= grammar.MAX_SEED:
            raise InputError(f"--seed must be 0 to {grammar.MAX_SEED}, got {asked.seed}")
        self._scenario = _scenario(asked.services, asked.hosts)
        self._asked = asked
        self._player: Player | None = None
        self._is_paused = False
        self._lock = threading.Lock()

    def run(self, descriptor: int, show: Callable[[str], None]) -> None:
        """Play until the stream ends or fails; a stream without end ends with the process."""
        clock, ended = SystemClock(), threading.Event()
        with as_file(LAB) as lab:
            spec = _stream(self._asked, lab)
            is_recorded = isinstance(spec, RecordedSpec)
            if not is_recorded:
                show("nsstream: the model is loaded, and its first packets are drawn")
            framing = Framing(mtu=LONGEST_DATAGRAM if is_recorded else 1500)
            # A pipe or a FIFO can be read once; everything else that is recorded is played again and again.
            loop = None if not isinstance(spec, RecordedSpec) or Path(spec.path).is_file() else 1
            player = Player(
                lambda: open_stream(
                    spec, self._scenario, self._seed, framing, loop=loop, clock=clock, starts_soon=True
                ),
                lambda is_stopped: LiveSink(
                    descriptor, self._filter, clock, is_stopped, lambda: None if is_recorded else show("")
                ),
                self._rate,
                clock,
                ended.set,
            )
            with self._lock:
                self._player = player
                player.set_rate(self._rate)
                if self._is_paused:
                    player.pause()
            player.start()
            ended.wait()
        if player.progress.error is not None:
            raise OutputError(player.progress.error)

    def control(self, message: Message) -> None:
        """Take a rate, or a pause, of the toolbar."""
        if message.command not in (INITIAL, SET):
            return
        with self._lock:
            if message.control == grammar.RATE_CONTROL and message.command == SET:
                self._rate = parse_rate(message.text.strip())
                if self._player is not None:
                    self._player.set_rate(self._rate)
            elif message.control == grammar.PAUSE_CONTROL:
                self._is_paused = grammar.is_true(message.text)
                if self._player is not None:
                    self._player.pause() if self._is_paused else self._player.resume()


def _stream(asked: Namespace, lab: Path) -> StreamSpec:
    if asked.trace:
        return RecordedSpec(path=str(Path(asked.trace).absolute()))
    if asked.model == grammar.LAB:
        return RecordedSpec(path=str(lab))
    if asked.model.startswith(grammar.FOLLOW):
        return FollowSpec(directory=str(Path(asked.model.removeprefix(grammar.FOLLOW)).absolute()))
    return ModelSpec(model=str(Path(asked.model).absolute()))


def _scenario(services: str, hosts: str) -> Scenario:
    fields = {"services": _listed(services), "hosts": _listed(hosts)}
    try:
        return Scenario.model_validate(fields)
    except ValidationError as err:
        raise InputError(f"--{first_fault(err, frozenset(fields), 'services or --hosts')}") from err


def _listed(text: str) -> list[str] | None:
    return [part for part in text.replace(",", " ").split() if part] or None
