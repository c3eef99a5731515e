"""RunModels: which models a run draws, and so what its twin promises.

The models that a command names count from the first frame on, whether they are drawn or not; those of a directory that
is followed as they are drawn. Their manifests are read then, since a model may be gone when the run ends. Called by
the playing thread alone.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from nsstream.errors import InputError
from nsstream.replay.checkpoints import read_manifest
from nsstream.replay.scenario import FollowSpec, MixSpec, ModelSpec, ModelsSpec, Scenario, StreamSpec

MOST_MODELS: Final = 10_000  # that are remembered
_TOLD: Final = ("id", "chunk", "parent", "privacy")  # of a manifest

_log = logging.getLogger(__name__)


class RunModels:
    """The models of one run."""

    def __init__(self, stream: StreamSpec, scenario: Scenario) -> None:
        self._followed = Path(stream.directory) if isinstance(stream, FollowSpec) else None
        self._named = _named(stream, scenario)
        self._manifests: dict[Path, dict[str, Any]] = {}
        self._promise: dict[str, Any] | None = None
        self._is_known = True  # else it is made anew

    def drawn(self, model_id: str) -> None:
        """Take in that frames of a model are about to be written."""
        for path in self._named:
            self._take(path)
        self._named = []
        if self._followed is not None and model_id:
            self._take(self._followed / model_id)

    def promise(self) -> dict[str, Any] | None:
        """What all of them promise together, None where none is private; the same object while nothing is new."""
        if not self._is_known:
            from nsstream.privacy.promise import promise_of  # an accountant, for private models alone

            self._promise, self._is_known = promise_of(list(self._manifests.values())), True
        return self._promise

    def _take(self, path: Path) -> None:
        if path in self._manifests or len(self._manifests) > MOST_MODELS:
            return
        if len(self._manifests) == MOST_MODELS:
            _log.warning("promise_given_up models=%d", MOST_MODELS)
            self._manifests[path] = {}
            self._promise, self._is_known = None, True  # of more than these nothing is said
            return
        try:
            manifest = read_manifest(path)
        except InputError as err:
            _log.warning("promise_lacks model=%s reason=%s", path.name, err)
            manifest = {"id": path.name}
        self._manifests[path] = {name: manifest[name] for name in _TOLD if name in manifest}
        self._is_known = False


def _named(stream: StreamSpec, scenario: Scenario) -> list[Path]:
    named: list[str] = []
    if isinstance(stream, ModelsSpec):
        named = list(stream.models)
    elif isinstance(stream, ModelSpec):
        named = [stream.model]
    elif isinstance(stream, MixSpec):
        named = [part.model for part in stream.parts]
    if scenario.attack is not None:
        named.append(scenario.attack.model)
    return [Path(path) for path in named]
