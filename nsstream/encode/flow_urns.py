"""Urns of flow tables: how often a chunk's conversations and records say one thing given another.

A network's small errors add up in what a table is summed by: bytes a minute, packets of a service, how long flows of a
size last. What the chunk counted of such pairs is drawn without replacement (`model.flow_urns`).

A conversation's class is its label and its service, or, where these are rare together, its protocol's layer in place of
the service; its way is whether the service's side begins; a record's kind is its conversation's class and which side
sent it. What is given of octets and of durations is the kind and how many packets there are, by powers of two; of
packets the kind, and the cell of the chunk in which the record before started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from nsstream.encode.flow_schema import ATTRIBUTES, CELLS, FIELDS, LABELS, MOMENTS, SERVICE_SLOTS, SLICES
from nsstream.encode.vocabulary import distinct_rows

OFTEN: Final = 16  # conversations of a class, or records of a kind or of a kind and size, that has counts of its own
LAYERS: Final = 3
OF_LABEL: Final = SERVICE_SLOTS + LAYERS  # classes
CLASSES: Final = LABELS * OF_LABEL
KINDS: Final = 2 * CLASSES
OCTAVES: Final = 24  # of packets

# What each urn is given, and which token is drawn from it.
BY_MOMENT: Final = {"labels": "label", "services": "service", "clients": "client"}
BY_LABEL: Final = {"labelled": "service"}
BY_CLIENT: Final = {"peers": "server"}
BY_CLASS: Final = {"ways": "service_first", "lengths": "record_count"}
BY_CLASS_AND_WAY: Final = {"askers": "client", "servers": "server"}
LATER_BY_CLASS: Final = {"turns": "is_reverse"}  # of records behind the first
BY_KIND: Final = {"flags": "flags", "packets": "packets", "reverse_packets": "reverse_packets"}
BY_KIND_AND_SIZE: Final = {"octets": "octets", "reverse_octets": "reverse_octets", "durations": "duration"}
BY_CELL: Final = {"volumes": "packets"}
SAID: Final = (
    BY_MOMENT
    | BY_LABEL
    | BY_CLIENT
    | BY_CLASS
    | BY_CLASS_AND_WAY
    | LATER_BY_CLASS
    | BY_KIND
    | BY_KIND_AND_SIZE
    | BY_CELL
)
_GIVENS: Final = (
    dict.fromkeys(BY_MOMENT, MOMENTS)
    | dict.fromkeys(BY_LABEL, LABELS)
    | dict.fromkeys(BY_CLIENT, ATTRIBUTES["client"])
    | dict.fromkeys((*BY_CLASS, *LATER_BY_CLASS), CLASSES)
    | dict.fromkeys((*BY_CLASS_AND_WAY, *BY_KIND), KINDS)
    | dict.fromkeys(BY_KIND_AND_SIZE, KINDS * OCTAVES)
    | dict.fromkeys(BY_CELL, CELLS + SLICES)
)

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class FlowUrns:
    """Counted pairs by name, one of `SAID`: (k, 3) each: given, said, how often; rising by the first two."""

    pairs: dict[str, Pairs]

    @classmethod
    def empty(cls) -> Self:
        """Nothing counted: the networks alone decide."""
        return cls({name: np.zeros((0, 3), np.int64) for name in SAID})

    @classmethod
    def fit(
        cls,
        attributes: dict[str, NDArray[np.int64]],
        fields: dict[str, NDArray[np.int64]],
        moment: NDArray[np.int64],
        cell: NDArray[np.int64],
        givens: Givens,
        owner: NDArray[np.int64],
        is_from_service: NDArray[np.bool_],
        octave: NDArray[np.int64],
    ) -> Self:
        """Count a chunk.

        Args:
            attributes: tokens (n,) of conversations by name.
            fields: tokens (m,) of records by name.
            moment: (n,) of each conversation.
            cell: (m,) in which the record before each starts, or its conversation.
            givens: of the chunk's services.
            owner: (m,) each record's conversation.
            is_from_service: (m,) whether the service's side sent it.
            octave: (m,) how many packets it has, by powers of two.
        """
        label, service = attributes["label"], attributes["service"]
        class_ = _often_or(*givens.of_class(label, service))
        is_later = np.append(False, owner[1:] == owner[:-1])
        of_kind = givens.of_kind(label[owner], service[owner], is_from_service)
        of_way = givens.of_kind(label, service, attributes["service_first"] == 1)
        given = (
            dict.fromkeys(BY_MOMENT, moment)
            | dict.fromkeys(BY_LABEL, label)
            | dict.fromkeys(BY_CLIENT, attributes["client"])
            | dict.fromkeys(BY_CLASS, class_)
            | dict.fromkeys(BY_CLASS_AND_WAY, _often_or(*of_way))
            | dict.fromkeys(LATER_BY_CLASS, np.where(is_later, class_[owner], -1))
            | dict.fromkeys(BY_KIND, _often_or(*of_kind))
            | dict.fromkeys(BY_KIND_AND_SIZE, _often_or(*(kind * OCTAVES + octave for kind in of_kind)))
            | dict.fromkeys(BY_CELL, cell)
        )
        return cls({name: _count(given[name], (attributes | fields)[said]) for name, said in SAID.items()})

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {name: pairs.tolist() for name, pairs in self.pairs.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `as_json`; raises LookupError, TypeError or ValueError on anything else."""
        found = {name: np.array(data[name], np.int64).reshape(-1, 3) for name in SAID}
        for name, rows in found.items():
            sizes = ATTRIBUTES if SAID[name] in ATTRIBUTES else FIELDS
            if not (
                (rows >= 0).all() and (rows[:, 0] < _GIVENS[name]).all() and (rows[:, 1] < sizes[SAID[name]]).all()
            ):
                raise ValueError(f"the counts of {name} name what there is not")
        return cls(found)


@dataclass(frozen=True)
class Givens:
    """What urns are given of conversations: of a label's service, and of all of the label's rarer ones of its layer.

    Attributes:
        layer: (SERVICE_SLOTS,) of each service: 0 TCP, 1 UDP, 2 any other.
    """

    layer: NDArray[np.int64]

    def of_class(
        self, label: NDArray[np.int64], service: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The class of each label's service (tokens, (k,)), and that of its layer."""
        return OF_LABEL * label + service, OF_LABEL * label + SERVICE_SLOTS + self.layer[service]

    def of_kind(
        self, label: NDArray[np.int64], service: NDArray[np.int64], is_from_service: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The kind of records (k,) of these, and that of the layer."""
        own, general = self.of_class(label, service)
        return 2 * own + is_from_service, 2 * general + is_from_service


def _often_or(own: NDArray[np.int64], general: NDArray[np.int64]) -> NDArray[np.int64]:
    """Its own given where that comes often, else the general one: (k,)."""
    _, where, times = np.unique(own, return_inverse=True, return_counts=True)
    return np.where(times[where.reshape(-1)] >= OFTEN, own, general)


def _count(given: NDArray[np.int64], said: NDArray[np.int64]) -> Pairs:
    """Pairs of those that are given anything (not -1)."""
    pairs, _, times = distinct_rows(np.stack([given, said], axis=1)[given >= 0])
    return np.concatenate([pairs, times[:, None]], axis=1).reshape(-1, 3)
