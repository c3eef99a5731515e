"""Flow records to tokens and back: what is told exactly comes back exactly, what is made up is lawful."""

import dataclasses
import json

import numpy as np
import pytest
from made_flows import START_NS, made_flows

from nsstream.capture.placeholders import placeholder_of_as
from nsstream.encode.as_map import FIRST, LAST, map_systems
from nsstream.encode.flow_codec import FlowCodec, least_octets
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_decoding import decode_records, decode_starts, lawful_octets
from nsstream.encode.flow_encoding import allowed_attributes, allowed_fields, count_urns, encode_flows
from nsstream.encode.flow_features import FEATURES, attribute_features, field_features
from nsstream.encode.flow_schema import (
    ATTRIBUTE_INDEX,
    ATTRIBUTES,
    FIELD_INDEX,
    FIELDS,
    MOMENTS,
    PACKETS_GRID,
    RATIO_GRID,
)
from nsstream.encode.flow_urns import LATER_BY_CLASS, SAID, FlowUrns
from nsstream.encode.flow_values import Counts
from nsstream.errors import TrainError
from nsstream.trace import FlowTable

END_NS = START_NS + 700 * 10**9


@pytest.fixture(scope="module")
def table():
    return made_flows(count=600)


@pytest.fixture(scope="module")
def flows(table):
    return group_flows(table)


@pytest.fixture(scope="module")
def codec(flows):
    return FlowCodec.fit(flows, START_NS, END_NS)


@pytest.fixture(scope="module")
def tokens(flows, codec):
    return encode_flows(flows, codec)


def test_a_question_and_its_answer_are_one_conversation(table, flows):
    keys = {
        frozenset([(s.tobytes(), int(p)), (d.tobytes(), int(q))]) | {int(r)}
        for s, p, d, q, r in zip(
            table.source_address,
            table.source_transport_port,
            table.destination_address,
            table.destination_transport_port,
            table.protocol_identifier,
            strict=True,
        )
    }
    assert len(flows) == len(keys)
    assert flows.record_count.sum() == len(table)
    assert (np.diff(flows.records.flow_start_ns[flows.first]) >= 0).all()


def test_the_service_is_the_side_of_the_frequent_port(flows):
    assert set(flows.service_port[flows.records.protocol_identifier[flows.first] == 17].tolist()) == {53}
    assert set(flows.service_port.tolist()) >= {443}
    assert (
        flows.client_port >= 32_768
    ).mean() > 0.95  # a port that is scanned once is no more frequent than its asker's


def test_records_of_another_label_are_another_conversation(table):
    label = table.label.copy()
    label[::2] = 2
    other = FlowTable.from_columns(table.columns() | {"label": label}, table.label_names)
    split = group_flows(other)
    for first, last in zip(split.offset[:-1], split.offset[1:], strict=True):
        assert len(set(split.records.label[first:last].tolist())) == 1


def test_every_token_is_one_that_may_be_said(tokens, codec):
    for sizes, told, allowed in (
        (ATTRIBUTES, tokens.attributes, allowed_attributes(codec)),
        (FIELDS, tokens.fields, allowed_fields(codec)),
    ):
        for i, (name, size) in enumerate(sizes.items()):
            assert allowed[name].shape == (size,)
            assert allowed[name][told[:, i]].all(), name


def test_tokens_come_back_as_the_flows_that_they_were(table, flows, codec, tokens):
    rng = np.random.default_rng(0)
    start_ns = flows.records.flow_start_ns
    found = decode_records(tokens.attributes, tokens.offset, tokens.fields, start_ns, codec, rng)
    for name in ("protocol_identifier", "tcp_control_bits", "ingress_interface", "egress_interface", "label"):
        np.testing.assert_array_equal(getattr(found, name), getattr(flows.records, name), err_msg=name)
    np.testing.assert_array_equal(found.flow_start_ns, start_ns)
    is_small = flows.records.packet_delta_count <= 48
    np.testing.assert_array_equal(found.packet_delta_count[is_small], flows.records.packet_delta_count[is_small])
    for name in ("source_transport_port", "destination_transport_port"):
        measured, drawn = getattr(flows.records, name), getattr(found, name)
        np.testing.assert_array_equal(drawn[measured < 1024], measured[measured < 1024])
    assert len(np.unique(found.source_address, axis=0)) == pytest.approx(
        len(np.unique(table.source_address, axis=0)), abs=3
    )


def test_a_conversation_without_ports_that_goes_on_stays_with_its_hosts():
    """Three hosts whose long conversations go on as others, and thirty pairs that spoke once."""
    long = [(1, 2)] * 600 + [(1, 3)] * 500 + [(2, 3)] * 400
    pairs = np.array(long + [(10 + i, 60 + i % 7) for i in range(30)])
    one = made_flows(count=2).columns()
    columns = {name: np.repeat(column[:1], len(pairs), axis=0) for name, column in one.items()}
    for name, host in (("source_address", pairs[:, 0]), ("destination_address", pairs[:, 1])):
        columns[name][:, 15] = host
        columns[name][:, 14] = 9
    columns["protocol_identifier"][:] = 47
    columns["tcp_control_bits"][:] = 0
    for name in ("source_transport_port", "destination_transport_port"):
        columns[name][:] = 0
    columns["flow_start_ns"] = START_NS + np.arange(len(pairs)) * 10**8
    columns["flow_end_ns"] = columns["flow_start_ns"]
    flows = group_flows(FlowTable.from_columns(columns, ("benign", "scan")))
    codec = FlowCodec.fit(flows, START_NS, END_NS)
    tokens = encode_flows(flows, codec)
    starts = flows.records.flow_start_ns
    back = group_flows(
        decode_records(tokens.attributes, flows.offset, tokens.fields, starts, codec, np.random.default_rng(1))
    )
    many = sorted(len(told) for told in _records_by_pair(back))[-4:]
    assert many[0] <= 2
    assert many[1:] == [400, 500, 600]


@pytest.fixture(scope="module")
def of_many_systems():
    """A busy server that 400 clients asked once each: as many AS, in networks of three octets that go with them."""
    one, n = made_flows(count=2).columns(), 400
    columns = {name: np.repeat(column[:1], n, axis=0) for name, column in one.items()}
    columns["source_address"][:, 13] = np.arange(n) % 100
    columns["source_address"][:, 14:] = np.stack([np.arange(n) // 100, np.full(n, 7)], axis=1)
    columns["bgp_source_as_number"][:] = 1000 + np.arange(n)
    columns["source_transport_port"][:] = 40_000 + np.arange(n)
    columns["flow_start_ns"] = START_NS + np.arange(n) * 10**8
    columns["flow_end_ns"] = columns["flow_start_ns"]
    return group_flows(FlowTable.from_columns(columns, ("benign", "scan")))


def test_rare_hosts_are_in_as_many_systems_and_in_the_network_of_each(of_many_systems):
    flows = of_many_systems
    codec = FlowCodec.fit(flows, START_NS, END_NS)
    tokens = encode_flows(flows, codec)
    starts = flows.records.flow_start_ns
    found = decode_records(tokens.attributes, flows.offset, tokens.fields, starts, codec, np.random.default_rng(1))
    systems = found.bgp_source_as_number
    np.testing.assert_array_equal(np.sort(systems), 1000 + np.arange(400))
    np.testing.assert_array_equal(found.source_address[:, 13], (systems - 1000) % 100)
    assert len(np.unique(found.source_address, axis=0)) == 400


def test_rare_hosts_without_an_as_each_are_refused(codec):
    data = codec.as_json()
    with pytest.raises(ValueError, match="AS each"):
        FlowCodec.from_json(data | {"rare_as": [*data["rare_as"], 7]})


def _records_by_pair(flows):
    ends = np.concatenate([flows.records.source_address, flows.records.destination_address], axis=1)
    which = np.unique(ends, axis=0, return_inverse=True)[1].ravel()
    return [np.flatnonzero(which == pair) for pair in np.unique(which)]


def test_starts_lie_in_the_cells_in_which_they_were(flows, codec, tokens):
    rows = np.arange(len(flows))
    found = decode_starts(tokens.attributes, rows, codec, np.random.default_rng(0))
    assert found.min() >= codec.edges[0]
    assert found.max() <= codec.edges[-1]
    measured = flows.records.flow_start_ns[flows.first]
    assert np.abs(found - measured).mean() < 20e9
    assert found[0] == measured[0]
    assert codec.cells.sum() == len(flows)
    assert codec.cells.min() >= 8
    assert (np.diff(codec.edges) >= 0).all()
    assert not (found % codec.tick_ns).any()


def test_a_codec_comes_back_from_json(codec, flows):
    again = FlowCodec.from_json(json.loads(json.dumps(codec.as_json())))
    assert again.as_json() == codec.as_json()
    np.testing.assert_array_equal(encode_flows(flows, again).fields, encode_flows(flows, codec).fields)


def test_urns_count_every_conversation_and_record_and_come_back_from_json(codec, flows, tokens):
    urns = count_urns(tokens, flows, codec)
    later = len(flows.records) - len(flows)
    for name, said in SAID.items():
        wanted = later if name in LATER_BY_CLASS else len(flows if said in ATTRIBUTES else flows.records)
        assert urns.pairs[name][:, 2].sum() == wanted, name
    services = urns.pairs["services"]
    first = tokens.attributes[: len(flows) // MOMENTS, ATTRIBUTE_INDEX["service"]]
    counted = {int(said): int(times) for given, said, times in services if given == 0}
    assert sum(counted[token] for token in set(first.tolist())) >= len(first)
    kept = dataclasses.replace(codec, urns=urns)
    again = FlowCodec.from_json(json.loads(json.dumps(kept.as_json())))
    for name in SAID:
        np.testing.assert_array_equal(again.urns.pairs[name], urns.pairs[name])


def test_counts_of_what_there_is_not_are_refused(codec):
    data = codec.urns.as_json()
    for name, said in SAID.items():
        sizes = ATTRIBUTES if said in ATTRIBUTES else FIELDS
        for row in ([0, sizes[said], 1], [1 << 40, 0, 1], [-1, 0, 1]):
            with pytest.raises(ValueError, match=f"counts of {name}"):
                FlowUrns.from_json(data | {name: [row]})
    with pytest.raises(KeyError):
        FlowUrns.from_json({})


def test_a_child_codec_keeps_its_parents_slots(codec):
    child = FlowCodec.fit(group_flows(made_flows(seed=2, count=400)), START_NS, END_NS, codec)
    for name in ("service", "flags"):
        old, new = getattr(codec, name), getattr(child, name)
        kept = [(a, b) for a, b, n in zip(old.slots, new.slots, new.counts, strict=True) if a is not None and n]
        assert kept
        assert all(a == b for a, b in kept)
    assert child.label_names[: len(codec.label_names)] == codec.label_names


def test_too_many_labels_are_refused(table):
    names = tuple(f"label {i}" for i in range(300))
    many = FlowTable.from_columns(table.columns() | {"label": np.arange(len(table)).astype(np.uint16) % 300 + 1}, names)
    with pytest.raises(TrainError, match="labels are too many"):
        FlowCodec.fit(group_flows(many), START_NS, END_NS)


def test_a_codec_holds_no_rare_host(codec, flows):
    text = json.dumps(codec.as_json())
    hosts = np.concatenate([flows.client_address, flows.server_address])
    distinct, counts = np.unique(hosts, axis=0, return_counts=True)
    rare = distinct[counts < 4]
    slots = {tuple(value[1:]) for value in codec.host.slots if value is not None}
    assert not slots & {tuple(host.tolist()) for host in rare}
    assert all(str(host.tolist())[1:-1] not in text for host in rare)


def test_counts_keep_frequent_values_and_rates_exactly():
    rng = np.random.default_rng(4)
    packets = rng.integers(1, 60, 5000)
    octets = np.where(rng.random(5000) < 0.5, 52 * packets, rng.integers(40, 1500, 5000) * packets + 7)
    counts = Counts.fit(RATIO_GRID, (64, 64), octets, packets, None)
    found = counts.draw(counts.tokens(octets, packets), rng, packets)
    is_rate = octets == 52 * packets
    np.testing.assert_array_equal(found[is_rate], octets[is_rate])
    assert np.abs(np.log(np.maximum(found, 1) / octets)).max() < 0.25
    assert found.max() <= octets.max()


def test_values_of_a_sampler_stay_multiples():
    packets = 3000 * np.random.default_rng(5).integers(1, 500, 2000)
    counts = Counts.fit(PACKETS_GRID, (0, 32), packets, None, None)
    found = counts.draw(counts.tokens(packets), np.random.default_rng(6))
    assert counts.quantum == 3000
    assert not (found % 3000).any()


def test_octets_are_what_the_packets_can_have(table):
    columns = table.columns() | {"octet_delta_count": np.zeros(len(table), np.uint64)}
    lawful = lawful_octets(FlowTable.from_columns(columns, table.label_names), has_headers=True)
    assert (lawful.octet_delta_count == lawful.packet_delta_count * least_octets(lawful).astype(np.uint64)).all()
    columns["octet_delta_count"] = np.full(len(table), 2**40, np.uint64)
    lawful = lawful_octets(FlowTable.from_columns(columns, table.label_names), has_headers=False)
    assert (lawful.octet_delta_count == lawful.packet_delta_count * np.uint64(65_535)).all()


def test_features_are_finite_and_of_the_schemas_size(codec):
    for made, sizes in ((attribute_features(codec), ATTRIBUTES), (field_features(codec), FIELDS)):
        for name, values in made.items():
            assert values.shape == (sizes[name], FEATURES)
            assert np.isfinite(values).all()


def test_as_numbers_become_those_of_nobody():
    numbers = np.array([0, 786, 786, 15169, 23456], np.uint32)
    mapped = map_systems(numbers, bytes(32))
    assert mapped[0] == 0
    assert mapped[4] == 23456
    assert mapped[1] == mapped[2] != mapped[3]
    assert ((mapped[1:4] >= FIRST) & (mapped[1:4] <= LAST)).all()
    assert placeholder_of_as(LAST) < 255 << 24
    assert (map_systems(numbers, bytes(31) + b"\1") != mapped).any()


def test_the_first_record_says_the_direction(tokens):
    first = tokens.fields[tokens.offset[:-1]]
    assert not first[:, FIELD_INDEX["is_reverse"]].any()
    assert set(tokens.attributes[:, ATTRIBUTE_INDEX["service_first"]].tolist()) <= {0, 1}
