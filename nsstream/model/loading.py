"""Any checkpoint, loaded by what its schema asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nsstream.encode.flow_schema import FLOW_SCHEMA_ID
from nsstream.encode.schema import SCHEMA_ID
from nsstream.encode.series_codec import SERIES_SCHEMA_ID
from nsstream.errors import StateError
from nsstream.model.checkpoint import load_checkpoint, schema_of
from nsstream.model.doppelganger_checkpoint import load_series_checkpoint
from nsstream.model.flow_checkpoint import load_flow_checkpoint

_LOADERS: Final[dict[object, Callable[[Path], Any]]] = {
    SCHEMA_ID: load_checkpoint,
    FLOW_SCHEMA_ID: load_flow_checkpoint,
    SERIES_SCHEMA_ID: load_series_checkpoint,
}


def load_any(directory: Path) -> Any:
    """A checkpoint of packets, of flows or of series; raises StateError where it is none that can be loaded."""
    schema = schema_of(directory)
    if schema not in _LOADERS:
        known = ", ".join(map(str, _LOADERS))
        raise StateError(f"{directory} is a checkpoint of schema {schema}; this nsstream loads {known}")
    return _LOADERS[schema](directory)
