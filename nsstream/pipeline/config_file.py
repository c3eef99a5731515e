"""The daemon's configuration file: TOML in, a `ServiceConfig` or every complaint about it out."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from nsstream.errors import InputError
from nsstream.pipeline.service_config import ServiceConfig, complaints

MOST_OCTETS: Final = 1 << 20


def load_config(path: Path) -> ServiceConfig:
    """Read a file; raises InputError, one line a complaint: the key's path, its value and what is allowed."""
    try:
        with path.open("rb") as file:
            octets = file.read(MOST_OCTETS + 1)
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}") from err
    if len(octets) > MOST_OCTETS:
        raise InputError(f"{path}: has more than {MOST_OCTETS} octets, which no configuration has")
    try:
        values = tomllib.loads(octets.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as err:
        raise InputError(f"{path}: is not TOML: {err}") from err
    try:
        return ServiceConfig.model_validate_json(json.dumps(values, default=str))
    except ValidationError as err:
        raise InputError("\n".join(f"{path}: {line}" for line in complaints(err))) from err
