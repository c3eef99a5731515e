"""Inherit: slots that changed start from the mean of those in use, or as told; all else stays as it was."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from nsstream.encode.codec import VOCABULARIES
from nsstream.encode.ip2vec import service_shares
from nsstream.encode.public_codec import public_codec
from nsstream.encode.schema import ATTRIBUTE_INDEX, SERVICE_SLOTS
from nsstream.encode.vocabulary import Vocabulary
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


def with_services(codec, *values):
    slots = (*values, *(None,) * (SERVICE_SLOTS - len(values)))
    return replace(codec, service=Vocabulary(slots, tuple(0 if value is None else 1 for value in slots)))


def test_told_so_a_new_service_starts_as_those_like_it_and_an_unknown_one_from_the_mean(networks, codec):
    known = [(6, 4, 0, 80), (6, 4, 0, 22), (17, 4, 0, 53)]
    parent, child = with_services(codec, *known), with_services(codec, *known, (17, 4, 0, 5353), (132, 4, 0, 80))
    for key in tables_of("service", weights := networks.state_dict()):
        weights[key][:3] = torch.arange(3.0).view(-1, *(1,) * (weights[key].dim() - 1))
    assert inherit(networks, parent, child, service_shares) == 2
    for key in tables_of("service", weights):
        assert (weights[key][3] > 1.9).all()
        torch.testing.assert_close(weights[key][4], torch.ones_like(weights[key][4]))
    assert inherit(networks, parent, child) == 2
    for key in tables_of("service", weights):
        torch.testing.assert_close(weights[key][3], torch.ones_like(weights[key][3]))


def test_told_so_public_services_of_a_private_codec_start_as_those_like_them(networks, codec):
    before = copy.deepcopy(networks.state_dict())
    public = public_codec(codec, codec.start_ns, codec.end_ns)
    inherit(networks, codec, public, service_shares)
    fresh = fresh_slots(codec, public, "service")
    used = np.flatnonzero(codec.service.is_active())
    shares = torch.from_numpy(service_shares(public.service.table()[fresh], codec.service.table()[used]))
    assert len(fresh) > 200
    assert shares.max(dim=1).values.median() > 2 / len(used)
    key = f"packets.attribute.{ATTRIBUTE_INDEX['service']}.weight"
    torch.testing.assert_close(networks.state_dict()[key][fresh], shares @ before[key][used])


def test_a_child_of_the_same_chunk_inherits_everything(networks, codec):
    before = copy.deepcopy(networks.state_dict())
    assert inherit(networks, codec, codec) == 0
    for key, weight in networks.state_dict().items():
        torch.testing.assert_close(weight, before[key], rtol=0, atol=0)
