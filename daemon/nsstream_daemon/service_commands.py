"""daemon, validate: the service in the foreground, and a check of its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The TOML file; docs/configuration.md has its keys.")]


def validate(config: ConfigFile) -> None:
    """Check a configuration file: its keys, their values, and that the source it names is known."""
    from nsstream.clock import SystemClock
    from nsstream.errors import InputError
    from nsstream.pipeline.ingest_plan import IngestPlan
    from nsstream_daemon.config_file import load_config

    loaded = load_config(config)
    try:
        IngestPlan(loaded.source, loaded.chunks).new_source(SystemClock())
    except InputError as err:
        raise InputError(f"{config}: source.input = {loaded.source.input!r}: {err}") from err
    print(f"{config}: is valid; state {loaded.state}, source {loaded.source.input}")
