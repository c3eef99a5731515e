"""A chunk's conversations from a `doppelganger` checkpoint: as many as the chunk had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nsstream.encode.series import DecodedSeries, decode_series
from nsstream.encode.series_codec import SeriesCodec
from nsstream.model.doppelganger import draw_series
from nsstream.model.doppelganger_checkpoint import load_series_checkpoint


def draw_doppelganger(
    checkpoint: Path, rng: np.random.Generator, generator: torch.Generator
) -> tuple[DecodedSeries, SeriesCodec]:
    """Draw the chunk that a checkpoint was trained on, and the codec that knows its kinds; raises StateError."""
    model = load_series_checkpoint(checkpoint)
    parts = [
        decode_series(attributes.numpy(), features.numpy(), model.codec, rng)
        for attributes, features in draw_series(model.generator, model.codec.conversation_count, generator)
    ]
    return DecodedSeries.concatenate(parts), model.codec
