"""Any checkpoint, loaded by what its schema asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nsstream.encode.flow_schema import FLOW_SCHEMA_ID
from nsstream.encode.schema import SCHEMA_ID
from nsstream.encode.series_codec import SERIES_SCHEMA_ID
from nsstream.model.checkpoint import load_checkpoint, reading_checkpoint
from nsstream.model.doppelganger_checkpoint import load_series_checkpoint
from nsstream.model.flow_checkpoint import load_flow_checkpoint
from nsstream.model.schemas import check_schema

_LOADERS: Final[dict[object, Callable[[Path], Any]]] = {
    SCHEMA_ID: load_checkpoint,
    FLOW_SCHEMA_ID: load_flow_checkpoint,
    SERIES_SCHEMA_ID: load_series_checkpoint,
}


def load_any(directory: Path) -> Any:
    """A checkpoint of packets, of flows or of series; raises StateError where it is none that can be loaded."""
    with reading_checkpoint(directory):
        manifest = json.loads((directory / "manifest.json").read_bytes())
        check_schema(directory, manifest)
    return _LOADERS[manifest["schema"]](directory)
