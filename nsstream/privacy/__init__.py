"""What a private release costs: mechanisms, an accountant of our own, noise from the system's randomness.

No torch and no opacus here: `train` says what it did in `mechanisms`, and the pipeline's ledger adds it up.
"""

from nsstream.privacy.accountant import epsilon, noise_multiplier_for
from nsstream.privacy.mechanisms import (
    DiscreteGaussian,
    Gaussian,
    Mechanism,
    PureEpsilon,
    SampledGaussian,
    as_dicts,
    from_dicts,
    is_part,
    merged,
)
from nsstream.privacy.noise import choose, laplace_counts, noisy_counts

__all__ = [
    "DiscreteGaussian",
    "Gaussian",
    "Mechanism",
    "PureEpsilon",
    "SampledGaussian",
    "as_dicts",
    "choose",
    "epsilon",
    "from_dicts",
    "is_part",
    "laplace_counts",
    "merged",
    "noise_multiplier_for",
    "noisy_counts",
]
