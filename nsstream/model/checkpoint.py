"""Checkpoints: a directory of `weights.safetensors`, `codec.json` and `manifest.json`; no pickle, written atomically.

A checkpoint's id is the hash of its content. The directory is filled under a temporary name and renamed, so that it is
there whole or not at all. Loading always goes to the CPU, in evaluation mode, and refuses another format or schema by
name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from nsstream import __version__
from nsstream.encode.codec import Codec
from nsstream.encode.schema import SCHEMA_ID
from nsstream.errors import OutputError, StateError
from nsstream.model.critic import Critic
from nsstream.model.layout import LAYOUT
from nsstream.model.networks import AttributeNetwork, PacketNetwork

FORMAT: Final = 1
AnyCodec = TypeVar("AnyCodec")


@dataclass(frozen=True)
class Model:
    """What a checkpoint holds: the generator's halves, the critic, the codec and the manifest."""

    attributes: AttributeNetwork
    packets: PacketNetwork
    critic: Critic
    codec: Codec
    manifest: dict[str, Any]


def new_networks() -> nn.ModuleDict:
    """Fresh networks of the one layout, initialised from torch's global generator (seed it first)."""
    return nn.ModuleDict(
        {"attributes": AttributeNetwork(LAYOUT), "packets": PacketNetwork(LAYOUT), "critic": Critic(LAYOUT)}
    )


def save_checkpoint(models: Path, networks: nn.ModuleDict, codec: Codec, facts: dict[str, Any]) -> Path:
    """Write a checkpoint under `models` and give its directory.

    Args:
        models: the directory of all checkpoints; made if need be.
        networks: as of `new_networks`.
        codec: of the chunk.
        facts: what else the manifest says (parent, seed, steps, ...), as JSON.

    Raises:
        OutputError: no space, no permission.
    """
    told = {
        "format": FORMAT,
        "schema": SCHEMA_ID,
        "start_ns": codec.start_ns,
        "end_ns": codec.end_ns,
        "conversations": int(codec.profile.sum()),
        "packets": codec.packet_count,
    }
    return write_checkpoint(models, networks, codec.as_json(), facts, told)


def write_checkpoint(
    models: Path, networks: nn.ModuleDict, codec: dict[str, Any], facts: dict[str, Any], told: dict[str, Any]
) -> Path:
    """Write a checkpoint of any networks; `told` of the manifest follows from the codec, `facts` are its own."""
    weights = save({k: v.detach().contiguous() for k, v in networks.state_dict().items()})
    meaning = json.dumps(codec, separators=(",", ":")).encode()
    said = json.dumps(facts, sort_keys=True).encode()
    identity = hashlib.sha256(hashlib.sha256(weights).digest() + hashlib.sha256(meaning).digest() + said).hexdigest()[
        :16
    ]
    manifest = {
        "id": identity,
        **told,
        "nsstream": __version__,
        **facts,
    }
    target = models / identity
    if target.exists():
        return target
    work = None
    try:
        models.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=models))
        files = (
            ("weights.safetensors", weights),
            ("codec.json", meaning),
            ("manifest.json", json.dumps(manifest, indent=1).encode()),
        )
        for name, octets in files:
            with (work / name).open("wb") as f:
                f.write(octets)
                f.flush()
                os.fsync(f.fileno())
        work.chmod(0o755)
        work.rename(target)
    except OSError as err:
        if work:
            shutil.rmtree(work, ignore_errors=True)
        raise OutputError(f"cannot write a checkpoint to {models}: {err.strerror}") from err
    return target


def load_checkpoint(directory: Path) -> Model:
    """Read a checkpoint; raises StateError if it is not one, or of another format or schema."""
    networks = new_networks()
    codec, manifest = read_checkpoint(directory, networks, FORMAT, SCHEMA_ID, Codec.from_json)
    return Model(
        cast(AttributeNetwork, networks["attributes"]),
        cast(PacketNetwork, networks["packets"]),
        cast(Critic, networks["critic"]),
        codec,
        manifest,
    )


def read_checkpoint(
    directory: Path,
    networks: nn.ModuleDict,
    format: int,  # noqa: A002 - the word of the manifest
    schema: str,
    read_codec: Callable[[dict[str, Any]], AnyCodec],
) -> tuple[AnyCodec, dict[str, Any]]:
    """Load fresh networks with a checkpoint's weights, in evaluation mode, and give its codec and manifest.

    Raises StateError if it is not a checkpoint, or of another format or schema.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        if manifest.get("format") != format or manifest.get("schema") != schema:
            raise StateError(
                f"{directory} is a checkpoint of format {manifest.get('format')}, schema {manifest.get('schema')}; "
                f"this nsstream reads format {format}, schema {schema}"
            )
        codec = read_codec(json.loads((directory / "codec.json").read_bytes()))
        networks.load_state_dict(load((directory / "weights.safetensors").read_bytes()))
        networks.eval()
    except OSError as err:
        raise StateError(f"cannot read the checkpoint {directory}: {err.strerror}") from err
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as err:
        raise StateError(f"{directory} is not a whole checkpoint: {err}") from err
    return codec, manifest
