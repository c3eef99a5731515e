"""Ports that noisy counts find, and hosts that they find in both roles: what of it stands in the codec."""

import numpy as np
import pytest
from made_flows import START_NS, made_flows

from nsstream.encode.flow_clients import group_by_client
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_decoding import decode_records
from nsstream.encode.flow_schema import ATTRIBUTE_INDEX, ATTRIBUTES, FIELDS, PEERS, PORT_SLOTS, RARE_PORT
from nsstream.encode.public_flow_codec import SERVERS, encode_flows_privately, public_flow_codec
from nsstream.trace import FlowTable
from nsstream.trace.fields import FLOW_FIELDS, TCP
from nsstream.train.private_chance import Chance
from nsstream.train.private_flow_counts import SIZES, count_flows
from nsstream.train.private_flow_job import codec_of
from nsstream.train.private_flow_ports import find_ports
from nsstream.train.private_flow_told import hidden, read_counts
from nsstream.train.private_units import units_by

INTERVAL = (START_NS, START_NS + 700 * 10**9)
CUSTOM, CLIENTS = 7741, 63_968


@pytest.fixture(scope="module")
def codec():
    seed = FlowCodec.fit(group_flows(made_flows(count=300, labelled=False)), *INTERVAL)
    return public_flow_codec(seed, *INTERVAL, lambda addresses: addresses)


def custom_flows(count=400):
    """Conversations of one service that nobody knows, half of them from one port."""
    rng = np.random.default_rng(4)
    start = START_NS + np.sort(rng.integers(0, 600 * 10**9, count))
    source = np.zeros((count, 16), np.uint8)
    source[:, 10:14] = (255, 255, 198, 51)
    target = source.copy()
    source[:, 14:] = rng.integers(0, 256, (count, 2))
    target[:, 14:] = (200, 9)
    columns = {
        "flow_start_ns": start, "flow_end_ns": start, "ip_version": np.full(count, 4, np.uint8),
        "protocol_identifier": np.full(count, TCP, np.uint8), "source_address": source, "destination_address": target,
        "source_transport_port": np.where(rng.random(count) < 0.5, CLIENTS, rng.integers(1024, 60_000, count)),
        "destination_transport_port": np.full(count, CUSTOM), "packet_delta_count": np.full(count, 2),
        "octet_delta_count": np.full(count, 120),
    }  # fmt: skip
    made = {name: np.asarray(column, FLOW_FIELDS[name][0]) for name, column in columns.items()}
    return group_by_client(FlowTable.from_columns(made))


def counts_of(flows, codec, noise=1e-6):
    units = units_by(np.arange(len(flows))[:, None].view(np.uint8), 1, Chance())
    tokens = encode_flows_privately(flows, codec, "flow")
    vector = count_flows(flows, tokens, units, np.ones(len(flows), np.int64), codec, "flow", 1)
    assert len(vector) == sum(SIZES.values())
    return read_counts(vector, noise, "flow", 1)


def test_a_port_that_comes_often_gets_a_token_and_takes_its_count_along(codec):
    flows = custom_flows()
    assert codec.service.tokens(np.array([[TCP, 4, CUSTOM]])) == [-1]
    found, counts = find_ports(codec, counts_of(flows, codec))
    (service,) = found.service.tokens(np.array([[TCP, 4, CUSTOM]]))
    assert counts.blocks["service"][service] == pytest.approx(len(flows))
    spelt = codec.service.tokens(np.array([[TCP, 4, RARE_PORT]]))
    assert counts.blocks["service"][spelt] == pytest.approx(0)
    (port,) = found.port.tokens(np.array([[CLIENTS]]))
    assert port in counts.found
    often = (flows.client_port == CLIENTS).sum()
    assert counts.blocks["client_port"][port] == pytest.approx(often)
    tokens = encode_flows_privately(flows, found, "flow")
    assert (tokens.attributes[:, ATTRIBUTE_INDEX["service"]] == service).all()
    assert ((tokens.attributes[:, ATTRIBUTE_INDEX["client_port"]] == port) == (flows.client_port == CLIENTS)).all()
    assert counts.blocks["client_port"][PORT_SLOTS:].sum() < len(flows)


def test_what_noise_may_make_is_not_found(codec):
    counts = counts_of(custom_flows(40), codec, noise=20.0)
    assert hidden(counts.std, SIZES["spelt_ports"]) > 40
    found, after = find_ports(codec, counts)
    assert found.service == codec.service
    assert found.port == codec.port
    assert not len(after.found)


def test_one_host_in_both_roles_has_one_address_and_never_meets_itself(codec):
    counts = counts_of(custom_flows(), codec)
    counts.clients[:], counts.servers[:] = 0.0, 0.0
    counts.clients[3] = counts.clients[5] = counts.servers[5] = 100.0
    told = codec_of(codec, codec, counts)
    assert told.host.slots[SERVERS + 5] == told.host.slots[5]
    assert told.host.slots[SERVERS + 3] != told.host.slots[3]
    n = 200
    rng = np.random.default_rng(1)
    attributes = np.zeros((n, len(ATTRIBUTES)), np.int64)
    attributes[:, ATTRIBUTE_INDEX["service"]] = told.service.tokens(np.array([[TCP, 4, 443]]))
    attributes[:, ATTRIBUTE_INDEX["client"]] = np.where(rng.random(n) < 0.5, 5, 3)
    attributes[:, ATTRIBUTE_INDEX["server"]] = PEERS + SERVERS + np.where(rng.random(n) < 0.3, 5, 7)
    attributes[:, ATTRIBUTE_INDEX["client_port"]] = PORT_SLOTS + 200
    fields = np.zeros((n, len(FIELDS)), np.int64)
    table = decode_records(attributes, np.arange(n + 1), fields, np.full(n, START_NS), told, rng)
    assert not (table.source_address == table.destination_address).all(axis=1).any()
    own = np.array(told.host.slots[5][1:])
    assert (table.destination_address == own).all(axis=1).sum() == (
        attributes[:, ATTRIBUTE_INDEX["server"]] == PEERS + SERVERS + 5
    ).sum()
    assert (table.source_address == own).all(axis=1).sum() > 0
