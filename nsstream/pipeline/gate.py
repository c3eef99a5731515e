"""The gate: what was measured of a candidate, against what is asked for; pure.

A candidate that learned from nothing has no parent to be better than: it passes by what is drawn of it alone. So does
one that was learned privately, of which nothing was measured on its chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nsstream.pipeline.service_config import GateSection


def complaints_about(figures: Mapping[str, Any], config: GateSection) -> tuple[str, ...]:
    """Why a candidate is not to be promoted, a phrase each; empty if it may be. Figures are the judge's."""
    said: list[str] = []
    loss, ratio = figures["loss"], figures["ratio"]
    if loss is not None and not math.isfinite(loss):
        said.append(f"its held-out loss is {loss}")
    elif ratio is not None and not ratio <= config.worst_ratio:
        said.append(
            f"its held-out loss of {loss:.3f} nats is {ratio:.3f} times its parent's {figures['parent_loss']:.3f}, "
            f"more than {config.worst_ratio:g}"
        )
    if figures["frames"] == 0:
        said.append("nothing could be drawn of it")
    if (faults := figures["faults"]) is not None and faults > config.most_faults:
        said.append(f"{faults} of {figures['frames']} frames drawn of it are unlawful, more than {config.most_faults}")
    copied, floor = figures["copied"], figures["copied_floor"] or 0.0
    if copied is not None and copied > floor + config.most_copied:
        said.append(
            f"{copied:.1%} of the flows drawn of it stand in the chunk, where halves of the chunk share {floor:.1%}: "
            f"more than {config.most_copied:.1%} beyond that"
        )
    return tuple(said)
