"""What a conversation's attributes may be after those said before, and the compiled choice of one.

Rules: what the codec cannot decode is never said; no conversation starts so late that those after it in the slice have
no room; the service and the responder are of the initiator's IP family; nobody talks to itself, unless the chunk shows
that; a port is spelt out only where the service does not name it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.encoding import hosts_by_family, services_by_family
from nsstream.encode.schema import ATTRIBUTE_INDEX, HOST_SLOTS, RARE_PORT, SERVICE_SLOTS
from nsstream.model.frozen_attributes import FrozenAttributes
from nsstream.model.networks import FORBIDDEN
from nsstream.model.recurrent import Matrix
from nsstream.model.soften import exponentiate, pick

_GAP, _INITIATOR, _SERVICE, _RESPONDER, _PORT_HIGH, _PORT_LOW = (
    ATTRIBUTE_INDEX[name]
    for name in (
        "start_gap", "initiator_host", "service", "responder_host", "responder_port_high", "responder_port_low",
    )
)  # fmt: skip
_FORBIDDEN = np.float32(FORBIDDEN)


class AttributeRules(NamedTuple):
    """What a codec knows of attributes.

    Attributes:
        gap_least: edge of each gap that may be drawn, nanoseconds; gap_inside: (gaps, QUANTILES).
        host_is_ipv6: of each host token; initiator_*: of those that may be drawn, likewise service and responder.
        is_rare_port: of each service token, whether its port is spelt out.
        talks_to_itself: whether an address is both ends.
        slice_ns: length of a slice; usual_gap_ns: between two starts.
    """

    gap_least: NDArray[np.float64]
    gap_inside: NDArray[np.float64]
    host_is_ipv6: NDArray[np.bool_]
    host_families: NDArray[np.bool_]
    service_families: NDArray[np.bool_]
    is_rare_port: NDArray[np.bool_]
    talks_to_itself: bool
    slice_ns: int
    usual_gap_ns: float


def attribute_rules(codec: Codec, frozen: FrozenAttributes) -> AttributeRules:
    """What the codec knows, for the tokens of a frozen network."""
    gaps, hosts, services = frozen.tokens[_GAP], hosts_by_family(codec), services_by_family(codec)
    port = codec.service.table()[:, 3]
    return AttributeRules(
        gap_least=codec.start_gap.grid.edges[gaps],
        gap_inside=codec.start_gap.quantiles[gaps],
        host_is_ipv6=hosts[1],
        host_families=np.ascontiguousarray(hosts[:, frozen.tokens[_RESPONDER]]),
        service_families=np.ascontiguousarray(services[:, frozen.tokens[_SERVICE]]),
        is_rare_port=port[:SERVICE_SLOTS] == RARE_PORT,
        talks_to_itself=codec.talks_to_itself,
        slice_ns=int(codec.slice_ns),
        usual_gap_ns=float(codec.start_gap.sample(1)[0]),
    )


@njit(cache=True)
def is_spelt_out(rules: AttributeRules, a: int, said: NDArray[np.int64]) -> bool:
    """Whether attribute a is said at all, and not 0, after the tokens (a,) before it."""
    return a not in (_PORT_HIGH, _PORT_LOW) or bool(rules.is_rare_port[said[_SERVICE]])


@njit(cache=True)
def choose_attribute(
    rules: AttributeRules,
    tokens: NDArray[np.int64],
    a: int,
    logits: Matrix,
    said: NDArray[np.int64],
    room_ns: float,
    at: float,
    power: NDArray[np.int32],
) -> int:
    """A token of attribute a.

    Args:
        rules: of the codec.
        tokens: (t,) that may be drawn.
        a: which attribute.
        logits: (t,); destroyed.
        said: (attributes,) of which those before a are read.
        room_ns: that the conversation leaves to those after it.
        at: where in [0, 1) of the cumulated weights.
        power: work space of `exponentiate`.
    """
    family = 1 if rules.host_is_ipv6[said[_INITIATOR]] else 0
    if a == _GAP:
        _keep_in_time(logits, rules.gap_least, room_ns)
    elif a == _SERVICE:
        _keep(logits, rules.service_families[family], tokens, -1)
    elif a == _RESPONDER:
        itself = -1 if rules.talks_to_itself or said[_INITIATOR] >= HOST_SLOTS else said[_INITIATOR]
        _keep(logits, rules.host_families[family], tokens, itself)
    exponentiate(logits, len(logits), power)
    return int(tokens[max(pick(logits, len(logits), at), 0)])


@njit(cache=True)
def _keep(logits: Matrix, fits: NDArray[np.bool_], tokens: NDArray[np.int64], but: int) -> None:
    """Forbid tokens (t,) that do not fit, and one more, unless that leaves none.

    It is given the one array that it reads: with all rules at hand each token would cost a tenth of a microsecond.
    """
    is_any = False
    for j in range(len(logits)):
        is_any |= fits[j] and tokens[j] != but
    if is_any:
        for j in range(len(logits)):
            if not fits[j] or tokens[j] == but:
                logits[j] = _FORBIDDEN


@njit(cache=True)
def _keep_in_time(logits: Matrix, least_ns: NDArray[np.float64], room_ns: float) -> None:
    """Forbid gaps (t,) that are longer than the room in time; no gap at all always fits."""
    is_any = False
    for j in range(len(logits)):
        is_any |= least_ns[j] < room_ns or least_ns[j] == 0
    if is_any:
        for j in range(len(logits)):
            if least_ns[j] >= room_ns and least_ns[j] != 0:
                logits[j] = _FORBIDDEN
