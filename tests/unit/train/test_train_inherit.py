"""Inherit: slots that changed start from the mean of those in use; all else stays as it was."""

import copy

import pytest
import torch

from nsstream.encode.codec import VOCABULARIES
from nsstream.encode.schema import ATTRIBUTE_INDEX
from nsstream.model.layout import LAYOUT
from nsstream.train.inherit import inherit

ATTRIBUTES_OF = {
    "host": ["initiator_host", "responder_host"],
    "service": ["service"],
    "port": ["initiator_port"],
    "ttl": ["ttl"],
    "marking": ["marking"],
    "kind": [],
    "size": [],
}


def tables_of(name, weights):
    """Names of all weights with a row a slot: the embeddings and heads that are about this vocabulary."""
    places = [ATTRIBUTE_INDEX[attribute] for attribute in ATTRIBUTES_OF[name]]
    starts = [f"{half}.{i}." for i in places for half in ("attributes.said", "attributes.head", "packets.attribute")]
    starts += [f"critic.attribute.{i}." for i in places]
    starts += [f"attributes.narrow_said.{k}." for k, i in enumerate(LAYOUT.narrow_knows) if i in places]
    if not places:
        starts = [f"packets.{name}.", f"packets.{name}_head.", f"critic.{name}."]
    return [key for key in weights if key.startswith(tuple(starts))]


def fresh_slots(parent, child, name):
    pairs = zip(getattr(parent, name).slots, getattr(child, name).slots, strict=True)
    return [i for i, (old, new) in enumerate(pairs) if new is not None and old != new]


def test_exactly_the_changed_slots_are_reset(networks, codec, later_codec):
    before = copy.deepcopy(networks.state_dict())
    count = inherit(networks, codec, later_codec)
    after = networks.state_dict()
    fresh = {name: fresh_slots(codec, later_codec, name) for name in VOCABULARIES}
    assert count == sum(map(len, fresh.values())) > 0
    stays = {key: torch.ones(weight.shape[:1], dtype=torch.bool) for key, weight in after.items()}
    for name, slots in fresh.items():
        used = [i for i, n in enumerate(getattr(codec, name).counts) if n]
        for key in tables_of(name, before):
            stays[key][slots] = False
            torch.testing.assert_close(after[key][slots], before[key][used].mean(dim=0).expand_as(after[key][slots]))
    for key, rows in stays.items():
        torch.testing.assert_close(after[key][rows], before[key][rows], rtol=0, atol=0)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_vocabulary_has_tables_with_a_row_a_slot(networks, codec, name):
    weights = networks.state_dict()
    assert len(tables_of(name, weights)) >= 4
    assert all(len(weights[key]) >= len(getattr(codec, name)) for key in tables_of(name, weights))


def test_a_child_of_the_same_chunk_inherits_everything(networks, codec):
    before = copy.deepcopy(networks.state_dict())
    assert inherit(networks, codec, codec) == 0
    for key, weight in networks.state_dict().items():
        torch.testing.assert_close(weight, before[key], rtol=0, atol=0)
