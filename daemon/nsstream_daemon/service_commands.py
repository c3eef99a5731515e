"""daemon, validate: the service in the foreground, and a check of its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nsstream.pipeline.service_config import ServiceConfig

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The TOML file; docs/configuration.md has its keys.")]


def validate(config: ConfigFile) -> None:
    """Check a configuration file: its keys, their values, and that what it names is on this machine."""
    loaded = _load(config, has_sockets=False)
    print(f"{config}: is valid; state {loaded.state}, source {loaded.source.input}")


def daemon(config: ConfigFile) -> None:
    """Run the service in the foreground: capture, chunks, training in the background, promoted models."""
    import logging
    import os

    from nsstream.clock import SystemClock
    from nsstream_daemon.journal import log_handler
    from nsstream_daemon.sd_notify import Notifier
    from nsstream_daemon.supervisor import Supervisor, set_log_level

    loaded = _load(config, has_sockets=True)
    logging.getLogger().addHandler(log_handler(os.environ))
    set_log_level(loaded)
    raise typer.Exit(Supervisor(config.absolute(), loaded, SystemClock(), Notifier()).run())


def _load(config: Path, *, has_sockets: bool) -> ServiceConfig:
    """The configuration, if this machine has what it names: source, processors, seed model.

    A socket that the service manager passes in (``netflow:@``) is there for the service alone (`has_sockets`).
    """
    import importlib.util
    import os

    from nsstream.clock import SystemClock
    from nsstream.errors import InputError
    from nsstream.pipeline.config_file import load_config
    from nsstream.pipeline.ingest_plan import IngestPlan

    loaded = load_config(config)
    is_passed = loaded.source.input.partition(":")[2].startswith("@")
    try:
        if has_sockets or not is_passed:
            IngestPlan(loaded.source, loaded.chunks).new_source(SystemClock())
    except InputError as err:
        raise InputError(f"{config}: source.input = {loaded.source.input!r}: {err}") from err
    if loaded.training.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise InputError(f"{config}: training.engine = 'ray': Ray is not installed; pip install 'nsstream[ray]'")
    there = os.sched_getaffinity(0)
    for at, worker in enumerate(loaded.training.workers):
        if missing := sorted(set(worker.cores) - there):
            has = ", ".join(map(str, sorted(there)))
            raise InputError(f"{config}: training.workers[{at}].cores: {missing[0]} is not there; there are {has}")
    _check_address_key(config, loaded, is_service=has_sockets)
    seed_model = loaded.training.seed_model
    if seed_model is not None and not (seed_model / "manifest.json").is_file():
        raise InputError(f"{config}: training.seed_model = {str(seed_model)!r}: is no directory of a checkpoint")
    for capture in loaded.training.seed_captures:
        if not capture.is_file():
            raise InputError(f"{config}: training.seed_captures has {str(capture)!r}: there is no such file")
    _check_privacy(config, loaded)
    return loaded


def _check_privacy(config: Path, loaded: ServiceConfig) -> None:
    """In private mode: what would have every job refused is told before anything runs."""
    from nsstream.errors import InputError
    from nsstream.pipeline.privacy_ledger import SpendingRefusedError
    from nsstream.pipeline.private_training import plan

    training, privacy = loaded.training, loaded.privacy
    if privacy.mode != "private" or not training.enabled:
        return
    try:
        plan(privacy, training, training.seed_model is None and not training.seed_captures)
    except SpendingRefusedError as err:
        raise InputError(f"{config}: privacy.mode = 'private': {err}") from err


def _check_address_key(config: Path, loaded: ServiceConfig, *, is_service: bool) -> None:
    """A key of one's own can be read; a credential is there for the service alone."""
    import os

    from nsstream.errors import InputError, NsstreamError
    from nsstream.pipeline.address_keys import own_key
    from nsstream.secret_files import DIRECTORY, SCHEME, find_secret

    named = loaded.training.address_key
    if named is None or (named.startswith(SCHEME) and DIRECTORY not in os.environ and not is_service):
        return
    try:
        own_key(find_secret(named, os.environ), loaded.state / "models")
    except NsstreamError as err:
        raise InputError(f"{config}: training.address_key = {named!r}: {err}") from err
