"""daemon, validate: the service in the foreground, and a check of its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The TOML file; docs/configuration.md has its keys.")]


def validate(config: ConfigFile) -> None:
    """Check a configuration file: its keys, their values, and that what it names is on this machine."""
    from nsstream_daemon.config_check import load_checked, notes_on

    loaded = load_checked(config, is_service=False)
    print(f"{config}: is valid; state {loaded.state}, source {loaded.source.input}")
    for note in notes_on(loaded):
        print(f"{config}: {note}")


def daemon(config: ConfigFile) -> None:
    """Run the service in the foreground: capture, chunks, training in the background, promoted models."""
    import logging
    import os

    from nsstream.clock import SystemClock
    from nsstream_daemon.config_check import load_checked
    from nsstream_daemon.journal import log_handler
    from nsstream_daemon.sd_notify import Notifier
    from nsstream_daemon.supervisor import Supervisor, set_log_level

    loaded = load_checked(config, is_service=True)
    logging.getLogger().addHandler(log_handler(os.environ))
    set_log_level(loaded)
    raise typer.Exit(Supervisor(config.absolute(), loaded, SystemClock(), Notifier()).run())
