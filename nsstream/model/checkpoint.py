"""Checkpoints: a directory of `weights.safetensors`, `codec.json` and `manifest.json`; no pickle, written atomically.

A checkpoint's id is the hash of its content (`identity`). The directory is filled under a temporary name and renamed,
so that it is there whole or not at all. Loading always goes to the CPU, in evaluation mode, and refuses another format
or schema by name.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from nsstream import __version__
from nsstream.encode.codec import Codec
from nsstream.encode.schema import SCHEMA_ID
from nsstream.errors import OutputError, StateError
from nsstream.model.critic import Critic
from nsstream.model.identity import identity_of
from nsstream.model.layout import LAYOUT
from nsstream.model.networks import AttributeNetwork, PacketNetwork
from nsstream.model.portrait import FEATURES
from nsstream.model.schemas import FORMAT, check_schema
from nsstream.model.trees import Trees

_TREES: Final = "trees."


@dataclass(frozen=True)
class Model:
    """What a checkpoint holds: the generator's halves, both critics, the codec and the manifest."""

    attributes: AttributeNetwork
    packets: PacketNetwork
    critic: Critic
    trees: Trees
    codec: Codec
    manifest: dict[str, Any]


def new_networks() -> nn.ModuleDict:
    """Fresh networks of the one layout, initialised from torch's global generator (seed it first)."""
    return nn.ModuleDict(
        {"attributes": AttributeNetwork(LAYOUT), "packets": PacketNetwork(LAYOUT), "critic": Critic(LAYOUT)}
    )


def save_checkpoint(models: Path, networks: nn.ModuleDict, trees: Trees, codec: Codec, facts: dict[str, Any]) -> Path:
    """Write a checkpoint under `models` and give its directory.

    Args:
        models: the directory of all checkpoints; made if need be.
        networks: as of `new_networks`.
        trees: by which draws are chosen.
        codec: of the chunk.
        facts: what else the manifest says (parent, seed, steps, ...), as JSON.

    Raises:
        OutputError: no space, no permission.
    """
    told = {
        "schema": SCHEMA_ID,
        "start_ns": codec.start_ns,
        "end_ns": codec.end_ns,
        "conversations": int(codec.profile.sum()),
        "packets": codec.packet_count,
    }
    arrays = {_TREES + k: torch.from_numpy(v) for k, v in trees.as_arrays().items()}
    return write_checkpoint(models, networks.state_dict() | arrays, codec.as_json(), told, facts)


def write_checkpoint(
    models: Path, tensors: dict[str, Tensor], codec: dict[str, Any], told: dict[str, Any], facts: dict[str, Any]
) -> Path:
    """Write a checkpoint of any schema under `models` and give its directory.

    Args:
        models: the directory of all checkpoints; made if need be.
        tensors: what is to be kept, of any device; it is kept as the processor's.
        codec: what the tokens or numbers mean, as JSON.
        told: of the manifest, what follows from the codec: schema, start_ns, end_ns, conversations, packets.
        facts: what else the manifest says, as JSON.

    Raises:
        OutputError: no space, no permission.
    """
    weights = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    meaning = json.dumps(codec, separators=(",", ":")).encode()
    identity = identity_of(weights, meaning, facts)
    manifest = {"id": identity, "format": FORMAT, **told, "nsstream": __version__, **facts}
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


def schema_of(directory: Path) -> object:
    """What schema a checkpoint's manifest names; raises StateError if it cannot be read."""
    with reading_checkpoint(directory):
        return json.loads((directory / "manifest.json").read_bytes()).get("schema")


def read_checkpoint(directory: Path, schema: str) -> tuple[dict[str, Any], Any, dict[str, Tensor]]:
    """Manifest, codec as JSON and weights of a checkpoint; raises StateError if it is of another format or schema."""
    with reading_checkpoint(directory):
        manifest = json.loads((directory / "manifest.json").read_bytes())
        check_schema(directory, manifest, schema)
        codec = json.loads((directory / "codec.json").read_bytes())
        return manifest, codec, load((directory / "weights.safetensors").read_bytes())


@contextmanager
def reading_checkpoint(directory: Path) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint is read into a StateError that names it."""
    try:
        yield
    except OSError as err:
        raise StateError(f"cannot read the checkpoint {directory}: {err.strerror}") from err
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, SafetensorError) as err:
        raise StateError(f"{directory} is not a whole checkpoint: {err}") from err


def load_checkpoint(directory: Path) -> Model:
    """Read a checkpoint; raises StateError if it is not one, or of another format or schema."""
    with reading_checkpoint(directory):
        manifest, meaning, weights = read_checkpoint(directory, SCHEMA_ID)
        codec = Codec.from_json(meaning)
        networks = new_networks()
        trees = Trees(**{k.removeprefix(_TREES): weights.pop(k).numpy() for k in list(weights) if k.startswith(_TREES)})
        trees.check(FEATURES)
        networks.load_state_dict(weights)
        networks.eval()
    return Model(
        cast(AttributeNetwork, networks["attributes"]),
        cast(PacketNetwork, networks["packets"]),
        cast(Critic, networks["critic"]),
        trees,
        codec,
        manifest,
    )
