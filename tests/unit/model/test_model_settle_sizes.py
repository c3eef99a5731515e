"""Settled sizes: a large record that was counted and never drawn comes still, with octets and duration of its size."""

import dataclasses

import numpy as np
import pytest
import torch
from made_flows import START_NS, made_flows

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import count_urns, encode_flows, octave_of
from nsstream.encode.flow_schema import FIELD_INDEX
from nsstream.model.flow_checkpoint import new_flow_networks, show_chunk
from nsstream.model.flow_sample import Wanted, draw_conversations, draw_records, full_urns
from nsstream.model.settle_sizes import settle_sizes

GIANT = 100  # the record
FIELDS = ("packets", "octets", "duration")


@pytest.fixture(scope="module")
def flows():
    table = made_flows(count=600)
    columns = {name: column.copy() for name, column in table.columns().items()}
    columns["packet_delta_count"][GIANT], columns["octet_delta_count"][GIANT] = 1_234_567, 1_111_110_300
    columns["flow_end_ns"][GIANT] = columns["flow_start_ns"][GIANT] + 600 * 10**9
    return group_flows(dataclasses.replace(table, **columns))


@pytest.fixture(scope="module")
def codec(flows):
    fitted = FlowCodec.fit(flows, START_NS, START_NS + 1400 * 10**9)
    return dataclasses.replace(fitted, urns=count_urns(encode_flows(flows, fitted), flows, fitted))


@pytest.fixture(scope="module")
def tokens(flows, codec):
    return encode_flows(flows, codec)


@pytest.fixture
def drawn(flows, codec, tokens):
    """Fields, attributes and times of the records as they were, and urns that hold none of them any more."""
    networks = new_flow_networks()
    show_chunk(networks, codec)
    urns = full_urns(networks["conversations"], networks["records"], codec)
    owner = np.repeat(np.arange(len(tokens)), np.diff(tokens.offset))
    fields, attributes = tokens.fields.copy(), tokens.attributes[owner]
    before_ns = np.append(0, flows.records.flow_start_ns[:-1])
    before_ns[flows.first] = flows.records.flow_start_ns[flows.first]
    take(urns, codec, fields, attributes, before_ns, np.arange(len(fields)), -1)
    return fields, attributes, before_ns, urns


def take(urns, codec, fields, attributes, before_ns, rows, by):
    """Take what these records say out of the urns of sizes, or put it back."""
    octave = octave_of(fields, codec)
    for name, field in (
        ("packets", "packets"), ("reverse_packets", "reverse_packets"), ("volumes", "packets"), ("octets", "octets"),
        ("reverse_octets", "reverse_octets"), ("durations", "duration"),
    ):  # fmt: skip
        if name == "volumes":
            row = urns.rows_of_cell(before_ns)
        else:
            row = urns.rows_of_kind(name, fields, attributes, None if name.endswith("packets") else octave)
        urn, column = urns.urn(name), np.searchsorted(urns.shown(name), fields[:, FIELD_INDEX[field]])
        np.add.at(urn.left, (row[rows], column[rows]), by)
        np.add.at(urn.rest, row[rows], by)


def giant(codec, fields):
    octave = octave_of(fields, codec)
    return np.flatnonzero(octave == octave.max())


def test_what_the_urns_hold_of_a_large_record_is_given_to_one_of_its_kind(codec, tokens, drawn):
    fields, attributes, before_ns, urns = drawn
    (at,) = giant(codec, fields)
    take(urns, codec, fields, attributes, before_ns, np.array([at]), 1)
    kind = urns.rows_of_kind("packets", fields, attributes)
    others = np.setdiff1d(np.flatnonzero(kind == kind[at]), at)
    fields[at] = fields[others[np.argmin(octave_of(fields[others], codec))]]  # said once more in its place
    measured, before = tokens.fields[at], fields.copy()
    settle_sizes(fields, attributes, before_ns, codec, urns, np.random.default_rng(1))
    (now,) = giant(codec, fields)
    assert kind[now] == kind[at]
    for name in FIELDS:
        assert fields[now, FIELD_INDEX[name]] == measured[FIELD_INDEX[name]], name
    changed = np.flatnonzero((fields != before).any(axis=1))
    assert changed.tolist() == [now]
    unsettled = [i for name, i in FIELD_INDEX.items() if name not in (*FIELDS, "reverse_octets")]
    np.testing.assert_array_equal(fields[now, unsettled], before[now, unsettled])


def test_where_nothing_is_left_nothing_changes(codec, drawn):
    fields, attributes, before_ns, urns = drawn
    before = fields.copy()
    settle_sizes(fields, attributes, before_ns, codec, urns, np.random.default_rng(1))
    np.testing.assert_array_equal(fields, before)


def test_what_is_left_of_another_kind_is_not_given(codec, drawn):
    fields, attributes, before_ns, urns = drawn
    (at,) = giant(codec, fields)
    take(urns, codec, fields, attributes, before_ns, np.array([at]), 1)
    kind = urns.rows_of_kind("packets", fields, attributes)
    none_of_it = kind != kind[at]
    some = fields[none_of_it].copy()
    settle_sizes(some, attributes[none_of_it], before_ns[none_of_it], codec, urns, np.random.default_rng(1))
    np.testing.assert_array_equal(some, fields[none_of_it])


def test_a_drawing_of_a_whole_chunk_has_its_largest_record(flows, codec):
    torch.manual_seed(3)
    networks = new_flow_networks()
    show_chunk(networks, codec)
    networks.eval()
    for seed in range(3):
        urns = full_urns(networks["conversations"], networks["records"], codec)
        generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        wanted = Wanted(np.arange(codec.conversation_count))
        attributes = draw_conversations(networks["conversations"], codec, wanted, generator, urns)
        start_ns = flows.records.flow_start_ns[flows.first]
        counts = flows.record_count
        records = draw_records(networks["records"], codec, attributes, start_ns, counts, rng, generator, urns=urns)
        packets = codec.packets.draw(records.fields[:, FIELD_INDEX["packets"]], rng)
        assert packets.max() > 1_000_000
