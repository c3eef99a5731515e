"""Checkpoints of `doppelganger`: the same directory of safetensors and JSON as any, under its own schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from nsstream.encode.series_codec import SERIES_SCHEMA_ID, SeriesCodec
from nsstream.model.checkpoint import read_checkpoint, reading_checkpoint, write_checkpoint
from nsstream.model.doppelganger import SeriesGenerator, SeriesLayout, new_series_networks


@dataclass(frozen=True)
class SeriesModel:
    """What a checkpoint holds."""

    networks: nn.ModuleDict
    codec: SeriesCodec
    manifest: dict[str, Any]

    @property
    def generator(self) -> SeriesGenerator:
        """The generator, in evaluation mode."""
        return cast(SeriesGenerator, self.networks["generator"])


def save_series_checkpoint(models: Path, networks: nn.ModuleDict, codec: SeriesCodec, facts: dict[str, Any]) -> Path:
    """Write a checkpoint under `models` and give its directory; raises OutputError."""
    layout = cast(SeriesGenerator, networks["generator"]).layout
    told = {
        "schema": SERIES_SCHEMA_ID,
        "start_ns": codec.start_ns,
        "end_ns": codec.end_ns,
        "conversations": codec.conversation_count,
        "packets": codec.packet_count,
    }
    meaning = codec.as_json() | {"length": layout.length, "pack": layout.pack}
    return write_checkpoint(models, networks.state_dict(), meaning, told, facts)


def load_series_checkpoint(directory: Path) -> SeriesModel:
    """Read a checkpoint; raises StateError if it is not one, or of another format or schema."""
    with reading_checkpoint(directory):
        manifest, meaning, weights = read_checkpoint(directory, SERIES_SCHEMA_ID)
        codec = SeriesCodec.from_json(meaning)
        networks = new_series_networks(SeriesLayout(int(meaning["length"]), int(meaning["pack"])))
        networks.load_state_dict(weights)
        networks.eval()
    return SeriesModel(networks, codec, manifest)
