"""What a checkpoint's id is: the hash of its content. Made here where one is written, and checked here. No torch.

The gate's verdict comes into the manifest later (`pipeline.promoter`), and is not part of the content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nsstream.errors import StateError

# What stands in a manifest beside the facts that are hashed: it follows from the rest, or comes later.
_BESIDE: Final = frozenset(
    {"id", "format", "nsstream", "gate", "schema", "start_ns", "end_ns", "conversations", "packets", "records"}
)


def identity_of(weights: bytes, meaning: bytes, facts: Mapping[str, Any]) -> str:
    """The id of a checkpoint of these files, and of what its manifest says of how it came about."""
    said = json.dumps(facts, sort_keys=True).encode()
    parts = hashlib.sha256(weights).digest() + hashlib.sha256(meaning).digest() + said
    return hashlib.sha256(parts).hexdigest()[:16]


def check_content(directory: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose content is what was written; raises StateError where it is not."""
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        weights, meaning = (directory / "weights.safetensors").read_bytes(), (directory / "codec.json").read_bytes()
    except (OSError, ValueError, RecursionError) as err:
        raise StateError(f"{directory} is not a whole checkpoint: {err}") from err
    if not isinstance(manifest, dict) or manifest.get("id") != directory.name:
        raise StateError(f"{directory} is not a whole checkpoint: its manifest does not name it")
    found = identity_of(weights, meaning, {name: fact for name, fact in manifest.items() if name not in _BESIDE})
    if found != directory.name:
        raise StateError(f"{directory} is a damaged checkpoint: its content is that of {found}")
    return manifest
