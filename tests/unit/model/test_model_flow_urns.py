"""What a flow codec counted comes out when flows are drawn, whatever the networks say."""

import dataclasses

import numpy as np
import pytest
import torch
from made_flows import START_NS, made_flows

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import count_urns, encode_flows, moment_of
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, FIELD_INDEX, MOMENTS
from nsstream.model.flow_checkpoint import new_flow_networks, show_chunk
from nsstream.model.flow_sample import Wanted, draw_conversations, draw_records, full_urns
from nsstream.model.flow_urns import draw_from, full_urn, rows_of

END_NS = START_NS + 700 * 10**9


@pytest.fixture(scope="module")
def flows():
    return group_flows(made_flows(count=600))


@pytest.fixture(scope="module")
def codec(flows):
    fitted = FlowCodec.fit(flows, START_NS, END_NS)
    return dataclasses.replace(fitted, urns=count_urns(encode_flows(flows, fitted), flows, fitted))


@pytest.fixture(scope="module")
def networks(codec):
    torch.manual_seed(3)
    made = new_flow_networks()
    show_chunk(made, codec)
    return made.eval()


def test_an_urn_gives_what_it_holds_and_no_more():
    urn = full_urn(np.array([[7, 2, 5], [7, 4, 3], [7, 9, 2], [8, 9, 1]]), np.array([0, 2, 4, 9]))
    np.testing.assert_array_equal(rows_of(urn, np.array([7, 8, 6])), [0, 1, -1])
    np.testing.assert_array_equal(rows_of(urn, np.array([6, 6]), np.array([8, 5])), [1, -1])
    none = full_urn(np.zeros((0, 3), np.int64), np.arange(4))
    nowhere = np.full(10, -1)
    weights = np.tile(np.array([0.0, 0.3, 0.3, 0.4], np.float32), (10, 1))
    chance = np.random.default_rng(1).random(10)
    found = draw_from(weights, urn, np.zeros(10, np.int64), none, nowhere, chance)
    np.testing.assert_array_equal(np.bincount(found, minlength=4), [0, 5, 3, 2])
    assert not urn.left[0].any()
    assert urn.rest.tolist() == [0, 1]
    after = draw_from(weights, urn, np.zeros(10, np.int64), none, nowhere, chance)  # empty: the weights alone decide
    np.testing.assert_array_equal(after, draw_from(weights, none, nowhere, none, nowhere, chance))


def test_a_token_of_no_weight_is_not_drawn_though_it_was_counted():
    urn = full_urn(np.array([[0, 0, 100], [0, 1, 1]]), np.arange(2))
    none = full_urn(np.zeros((0, 3), np.int64), np.arange(2))
    weights = np.tile(np.array([0.0, 1.0], np.float32), (20, 1))
    found = draw_from(weights, urn, np.zeros(20, np.int64), none, np.full(20, -1), np.linspace(0, 0.99, 20))
    assert found.all()


def test_drawn_flows_have_the_counts_of_the_chunk(flows, codec, networks):
    tokens = encode_flows(flows, codec)
    rows = np.arange(len(tokens))
    start_ns, counts = flows.records.flow_start_ns[flows.first], flows.record_count

    def draw(urns):
        generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
        attributes = draw_conversations(networks["conversations"], codec, Wanted(rows), generator, urns=urns)
        records = draw_records(networks["records"], codec, attributes, start_ns, counts, rng, generator, urns=urns)
        return attributes, records.fields

    attributes, fields = draw(full_urns(networks["conversations"], networks["records"], codec))
    free_attributes, free_fields = draw(None)
    moment = moment_of(rows, len(tokens))

    def missed(measured, drawn):
        """How many of the drawn have no measured one of the same tokens."""
        _, which = np.unique(np.concatenate([measured, drawn]), axis=0, return_inverse=True)
        which = which.reshape(-1)
        counted = [np.bincount(part, minlength=which.max() + 1) for part in np.split(which, [len(measured)])]
        return int(np.maximum(counted[1] - counted[0], 0).sum())

    for name in ("service", "client"):
        by_moment = [np.stack([moment, a[:, ATTRIBUTE_INDEX[name]]], axis=1) for a in (tokens.attributes, attributes)]
        free = np.stack([moment, free_attributes[:, ATTRIBUTE_INDEX[name]]], axis=1)
        assert missed(*by_moment) < 0.5 * missed(by_moment[0], free), name
    label = ATTRIBUTE_INDEX["label"]
    for name in ("service", "client", "service_first"):
        by_label = [a[:, [label, ATTRIBUTE_INDEX[name]]] for a in (tokens.attributes, attributes, free_attributes)]
        assert missed(*by_label[:2]) < 0.5 * missed(by_label[0], by_label[2]), name
    owner = np.repeat(np.arange(len(tokens)), counts)
    for name in ("flags", "packets"):
        by_label = [
            np.stack([a[owner, label], f[:, FIELD_INDEX[name]]], axis=1)
            for a, f in ((tokens.attributes, tokens.fields), (attributes, fields), (free_attributes, free_fields))
        ]
        assert missed(*by_label[:2]) < 0.5 * missed(by_label[0], by_label[2]), name
    for name in ("packets", "flags"):
        column = FIELD_INDEX[name]
        told = [f[:, [column]] for f in (tokens.fields, fields, free_fields)]
        assert missed(*told[:2]) < 0.5 * missed(told[0], told[2]), name
    assert moment.max() == MOMENTS - 1


def test_the_same_seed_draws_the_same_from_urns(codec, networks):
    drawn = []
    for seed in (1, 1, 2):
        urns = full_urns(networks["conversations"], networks["records"], codec)
        wanted = Wanted(np.arange(codec.conversation_count))
        generator = torch.Generator().manual_seed(seed)
        drawn.append(draw_conversations(networks["conversations"], codec, wanted, generator, urns))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_no_record_starts_later_than_the_chunks_last_one(flows, codec, networks):
    tokens = encode_flows(flows, codec)
    counts = np.full(len(tokens), 5)
    drawn = draw_records(
        networks["records"], codec, tokens.attributes, flows.records.flow_start_ns[flows.first], counts,
        np.random.default_rng(1), torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert drawn.start_ns.max() <= flows.records.flow_start_ns.max()
