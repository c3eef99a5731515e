"""The one layout: the encoding's sizes as the networks know them."""

from __future__ import annotations

from typing import Final

from nsstream.encode.schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    COUNTDOWNS,
    GAPS,
    KINDS,
    MOMENTS,
    POSITIONS,
    SIZES,
    START_FEATURES,
    TIMES_LEFT,
)
from nsstream.model.networks import Layout

LAYOUT: Final = Layout(
    attributes=tuple(ATTRIBUTES.values()),
    narrow=ATTRIBUTE_INDEX["initiator_port"],
    narrow_knows=(ATTRIBUTE_INDEX["initiator_host"], ATTRIBUTE_INDEX["service"]),
    start_features=START_FEATURES,
    moments=MOMENTS,
    kinds=KINDS,
    sizes=SIZES,
    gaps=GAPS,
    countdowns=COUNTDOWNS,
    positions=POSITIONS,
    times_left=TIMES_LEFT,
)
