"""Which checkpoints this nsstream reads: those of its own format and schemas. No torch.

One of an older nsstream is whole, and of no use: nothing can be drawn of it, or learned on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nsstream.encode.flow_schema import FLOW_SCHEMA_ID
from nsstream.encode.schema import SCHEMA_ID
from nsstream.encode.series_codec import SERIES_SCHEMA_ID
from nsstream.errors import StateError

FORMAT: Final = 2
SCHEMAS: Final = (SCHEMA_ID, FLOW_SCHEMA_ID, SERIES_SCHEMA_ID)


def check_schema(directory: Path, manifest: Mapping[str, Any], *schemas: str) -> None:
    """Raise StateError where a checkpoint's manifest is not of our format and of one of these schemas, or of any."""
    wanted = schemas or SCHEMAS
    if manifest.get("format") != FORMAT or manifest.get("schema") not in wanted:
        raise StateError(
            f"{directory} is a checkpoint of format {manifest.get('format')}, schema {manifest.get('schema')}; "
            f"this nsstream reads format {FORMAT}, schema {' or '.join(wanted)}: train it anew"
        )
