"""What a codec counted, as urns that the loop draws attributes from: a draw without replacement keeps the counts.

Of a service's lengths there is none: a session of hundreds of packets among a hundred attempts of three would be one
ball, which nobody takes, or at the end whoever comes. `settle_lengths` sees to those.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nsstream.encode.codec import Codec
from nsstream.encode.schema import ATTRIBUTE_INDEX, HOST_SLOTS, MOMENTS
from nsstream.encode.urns import ASKED, CLASSES
from nsstream.model.frozen_attributes import FrozenAttributes
from nsstream.model.recurrent import Matrix

_SAID: Final = {
    "hosts": ATTRIBUTE_INDEX["initiator_host"],
    "services": ATTRIBUTE_INDEX["service"],
    "peers": ATTRIBUTE_INDEX["responder_host"],
    "servers": ATTRIBUTE_INDEX["responder_host"],
    "ttls": ATTRIBUTE_INDEX["ttl"],
    "answers": ATTRIBUTE_INDEX["ttl"],
    "volumes": ATTRIBUTE_INDEX["packet_count"],
}
_NAMES: Final = tuple(_SAID)
SAID: Final = tuple(_SAID.values())  # which attribute each urn is of
IS_SOFT: Final = tuple(name in ("servers", "answers", "volumes") for name in _NAMES)
FORBIDS: Final = tuple(name == "answers" for name in _NAMES)  # who never answered, or otherwise, does not begin to
_PEERS, _TTLS, _ANSWERS = (_NAMES.index(name) for name in ("peers", "ttls", "answers"))  # the others go by moment
_HOST, _SERVICE, _PEER = (ATTRIBUTE_INDEX[name] for name in ("initiator_host", "service", "responder_host"))
_NONE, _ONE = np.float32(0.0), np.float32(1.0)
_SOFTEST = np.float32(-3.0)  # of two urns of an attribute, the second has less of a say
_LEFT_OVER = np.float32(1e-5)  # of a conversation: what is used up is unlikely, not impossible
_NEVER = np.float32(1e-9)  # what was not counted comes where nothing else may


class AttributeUrns(NamedTuple):
    """The urns of one drawing, in the order of `SAID`.

    Attributes:
        wanted, wanting: of each urn (givens, t), conversations that say each token which may be drawn, in all and still
            to come.
        row_of_service: (SERVICE_SLOTS,) a service's row of TTLs.
        class_of_service: (SERVICE_SLOTS,) its class.
        asked: rising, what each row of peers is given.
    """

    wanted: tuple[Matrix, ...]
    wanting: tuple[Matrix, ...]
    row_of_service: NDArray[np.int64]
    class_of_service: NDArray[np.int64]
    asked: NDArray[np.int64]


def attribute_urns(codec: Codec, frozen: FrozenAttributes) -> AttributeUrns:
    """Full urns of a chunk's counts."""
    class_of_service = codec.service_classes()
    classes, asked = np.unique(class_of_service), np.unique(codec.urns.peers[:, 0])
    tables = []
    for name in _NAMES:
        tokens = frozen.tokens[_SAID[name]]
        given, said, count = getattr(codec.urns, name).T
        if name == "ttls":
            at = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
            givens, is_there = len(classes), classes[at] == given
        else:
            at = np.searchsorted(asked, given) if name == "peers" else given
            givens = {"peers": len(asked), "answers": HOST_SLOTS + 2}.get(name, MOMENTS)
            is_there = np.ones(len(given), bool)
        column = np.minimum(np.searchsorted(tokens, said), len(tokens) - 1)
        is_there &= tokens[column] == said
        table = np.zeros((givens, len(tokens)), np.float32)
        table[at[is_there], column[is_there]] = count[is_there]
        tables.append(table)
    return AttributeUrns(
        wanted=tuple(tables),
        wanting=tuple(t.copy() for t in tables),
        row_of_service=np.searchsorted(classes, class_of_service),
        class_of_service=class_of_service,
        asked=asked,
    )


@njit(cache=True)
def row_of(urns: AttributeUrns, urn: int, moment: int, said: NDArray[np.int64]) -> int:
    """Which row of an urn a token is drawn from, after the tokens said (a,); -1 if it has none."""
    if urn == _PEERS:
        for class_ in (urns.class_of_service[said[_SERVICE]], CLASSES):
            given = said[_HOST] * ASKED + class_
            row = np.searchsorted(urns.asked, given)
            if row < len(urns.asked) and urns.asked[row] == given:
                return int(row)
        return -1
    if urn == _TTLS:
        return int(urns.row_of_service[said[_SERVICE]])
    if urn == _ANSWERS:
        return int(said[_PEER])
    return moment


@njit(cache=True)
def weigh(urns: AttributeUrns, urn: int, row: int, logits: Matrix) -> None:
    """Make tokens (t,) less likely as the counts of one urn's row are used up, and what was not counted unlikely."""
    wanted, wanting = urns.wanted[urn][row], urns.wanting[urn][row]
    least = _SOFTEST if IS_SOFT[urn] else -np.float32(np.inf)
    counted, left = _NONE, _NONE
    for j in range(len(logits)):
        counted += wanted[j]
        left += max(wanting[j], _NONE)
    for j in range(len(logits)):
        if FORBIDS[urn] and counted > _NONE and wanted[j] <= _NONE:
            logits[j] += np.log(_NEVER)
        elif left > _NONE:
            left_over = _LEFT_OVER if wanted[j] > _NONE else _NEVER
            logits[j] += max(np.log((max(wanting[j], _NONE) + left_over) / (wanted[j] + _ONE)), least)
