"""What a configuration names and this machine lacks: told by name before anything runs.

`load_checked` is asked by ``nsstream validate`` and by the start. A reload asks `check_privacy` alone: what the rest is
about does not change while the daemon runs.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from nsstream.capture.interface import InterfaceQuery
from nsstream.capture.live import ANY
from nsstream.clock import SystemClock
from nsstream.errors import InputError, NsstreamError
from nsstream.model.schemas import check_schema
from nsstream.pipeline.address_keys import own_key
from nsstream.pipeline.config_file import load_config
from nsstream.pipeline.ingest_plan import IngestPlan
from nsstream.pipeline.privacy_ledger import SpendingRefusedError
from nsstream.pipeline.private_training import Planner, plan
from nsstream.pipeline.service_config import ServiceConfig
from nsstream.replay.checkpoints import read_manifest
from nsstream.secret_files import DIRECTORY, SCHEME, find_secret

_OF_INTERFACES: Final = ("live", "tcpdump", "dumpcap")
_HINTS: Final = {
    errno.ENOENT: "there is no such file",
    errno.EACCES: "this user may not read it; the unit's is nsstream, who sees nothing below /home and /root",
}


def load_checked(path: Path, *, is_service: bool) -> ServiceConfig:
    """The configuration in a file, if this machine has what it names: source, processors, keys, seed.

    Sockets (``netflow:@``) and credentials that the service manager passes in are there for the service alone
    (`is_service`). Raises InputError that begins with the file's path.
    """
    config = load_config(path)
    for check in (_check_source, _check_places, _check_address_key, _check_seed):
        try:
            check(config, is_service)
        except InputError as err:
            raise InputError(f"{path}: {err}") from err
    check_privacy(path, config)
    return config


def notes_on(config: ServiceConfig) -> list[str]:
    """What is not there now, and may come: the daemon waits for it, and an operator may have meant another one."""
    kind, _, name = config.source.input.partition(":")
    if kind not in _OF_INTERFACES or name == ANY:
        return []
    with closing(InterfaceQuery()) as query:
        if query.by_name(name) is not None:
            return []
    return [
        f"source.input: there is no interface {name} now, and the daemon waits for it; `ip link` lists what there is"
    ]


def check_privacy(path: Path, config: ServiceConfig, planner: Planner = plan) -> None:
    """Raise InputError where private mode would have every job refused."""
    training, privacy = config.training, config.privacy
    if privacy.mode != "private" or not training.enabled:
        return
    try:
        planner(privacy, training, training.seed_model is None and not training.seed_captures)
    except SpendingRefusedError as err:
        raise InputError(f"{path}: privacy.mode = 'private': {err}") from err


def _check_source(config: ServiceConfig, is_service: bool) -> None:
    is_passed = config.source.input.partition(":")[2].startswith("@")
    try:
        if is_service or not is_passed:
            IngestPlan(config.source, config.chunks).new_source(SystemClock())
    except InputError as err:
        raise InputError(f"source.input = {config.source.input!r}: {err}") from err


def _check_places(config: ServiceConfig, is_service: bool) -> None:
    if config.training.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise InputError("training.engine = 'ray': Ray is not installed; pip install 'nsstream[ray]'")
    there = os.sched_getaffinity(0)
    for at, worker in enumerate(config.training.workers):
        if missing := sorted(set(worker.cores) - there):
            has = ", ".join(map(str, sorted(there)))
            raise InputError(f"training.workers[{at}].cores: {missing[0]} is not there; there are {has}")


def _check_address_key(config: ServiceConfig, is_service: bool) -> None:
    named = config.training.address_key
    if named is None or (named.startswith(SCHEME) and DIRECTORY not in os.environ and not is_service):
        return
    try:
        own_key(find_secret(named, os.environ), config.state / "models")
    except NsstreamError as err:
        raise InputError(f"training.address_key = {named!r}: {err}") from err


def _check_seed(config: ServiceConfig, is_service: bool) -> None:
    seed_model = config.training.seed_model
    if seed_model is not None and (reason := _why_unread(seed_model / "manifest.json")):
        raise InputError(f"training.seed_model = {str(seed_model)!r}: is no directory of a checkpoint: {reason}")
    if seed_model is not None:
        try:
            check_schema(seed_model, read_manifest(seed_model))
        except NsstreamError as err:
            raise InputError(f"training.seed_model = {str(seed_model)!r}: {err}") from err
    for capture in config.training.seed_captures:
        if reason := _why_unread(capture):
            raise InputError(f"training.seed_captures has {str(capture)!r}: {reason}")


def _why_unread(path: Path) -> str | None:
    """Why a file cannot be read by who we are; None where it can."""
    try:
        mode = path.stat().st_mode
    except OSError as err:
        return _HINTS.get(err.errno or 0, str(err.strerror).lower())
    if not stat.S_ISREG(mode):
        return "is no regular file"
    return None if os.access(path, os.R_OK) else _HINTS[errno.EACCES]
