"""What a private fit does to its chunk, as an accountant needs to know it beforehand; no torch here."""

from __future__ import annotations

import math
from typing import Final

from nsstream.privacy import DiscreteGaussian, SampledGaussian, noise_multiplier_for
from nsstream.train.config import PrivateConfig

_NOISE_GRAIN: Final = 1024  # noise multipliers of counts are whole multiples of its inverse: exact fractions stay small


def mechanisms_of(config: PrivateConfig) -> tuple[DiscreteGaussian, SampledGaussian]:
    """The mechanisms of a fit, the counts' and the gradients', which together keep to its (epsilon, delta).

    Raises InputError where no noise does.
    """
    whole = noise_multiplier_for(config.epsilon, config.delta, 1.0, 1)
    counts = DiscreteGaussian(math.ceil(whole / math.sqrt(config.counts_share) * _NOISE_GRAIN) / _NOISE_GRAIN)
    noise = noise_multiplier_for(config.epsilon, config.delta, config.sample_rate, config.steps, (counts,))
    return counts, SampledGaussian(noise, config.sample_rate, config.steps)
