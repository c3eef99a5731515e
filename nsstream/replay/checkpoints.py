"""What replay needs to know of a checkpoint before it is loaded: its name and its chunk's interval. No torch."""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nsstream.encode.flow_schema import FLOW_SCHEMA_ID
from nsstream.errors import InputError

MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_MODEL_ID_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint directory whose manifest could be read; draws conversations of [start_ns, end_ns)."""

    directory: Path
    id: str
    start_ns: int
    end_ns: int
    packet_count: int = 0  # of the chunk, 0 where the manifest does not say
    is_of_flows: bool = False  # draws records of flows, not packets


def read_checkpoints(directories: Sequence[str]) -> list[CheckpointInfo]:
    """Read the manifests of checkpoints that are to be played one after another.

    Raises InputError if one cannot be read, or if their chunks do not follow one another in time.
    """
    checkpoints = [read_checkpoint(Path(directory)) for directory in directories]
    for before, after in itertools.pairwise(checkpoints):
        if after.start_ns < before.end_ns:
            raise InputError(
                f"{after.directory}: its chunk starts before that of {before.directory} ends, "
                "but models are played in the order of their chunks"
            )
        if after.is_of_flows != before.is_of_flows:
            raise InputError(f"{after.directory}: models of packets and of flows are not played in one line")
    return checkpoints


def read_checkpoint(directory: Path) -> CheckpointInfo:
    """Read the manifest of one checkpoint; raises InputError."""
    path = directory / "manifest.json"
    manifest = read_manifest(directory)
    name, start_ns, end_ns = manifest.get("id"), manifest.get("start_ns"), manifest.get("end_ns")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_MODEL_ID_LENGTH or not name.isprintable():
        raise InputError(f"{path}: id must be 1 to {MAX_MODEL_ID_LENGTH} printable characters, got {name!r:.80}")
    if type(start_ns) is not int or type(end_ns) is not int or not 0 <= start_ns < end_ns < 1 << 63:
        raise InputError(
            f"{path}: start_ns and end_ns must be integers, the first before the second, "
            f"got {start_ns!r:.40} and {end_ns!r:.40}"
        )
    packet_count = manifest.get("packets", 0)
    if type(packet_count) is not int or not 0 <= packet_count < 1 << 63:
        raise InputError(f"{path}: packets must be an integer that is not negative, got {packet_count!r:.40}")
    is_of_flows = manifest.get("schema") == FLOW_SCHEMA_ID
    return CheckpointInfo(directory, name, start_ns, end_ns, packet_count, is_of_flows)


def read_manifest(directory: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, of `MAX_MANIFEST_BYTES` at most; raises InputError."""
    path = directory / "manifest.json"
    try:
        # Not blocking, so that a FIFO of that name stalls nobody.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{path}: is not a regular file")
            octets = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as err:
        raise InputError(f"{path}: {(err.strerror or str(err)).lower()}; a model is a checkpoint's directory") from err
    if len(octets) > MAX_MANIFEST_BYTES:
        raise InputError(f"{path}: has more than {MAX_MANIFEST_BYTES} octets, too many for a manifest")
    try:
        manifest = json.loads(octets)
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path}: is not JSON") from err
    if not isinstance(manifest, dict):
        raise InputError(f"{path}: is not a JSON object")
    return manifest
