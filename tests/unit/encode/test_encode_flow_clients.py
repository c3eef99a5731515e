"""Conversations whose client follows from their own records, and the public codec that encodes them one by one."""

import dataclasses

import numpy as np
import pytest
from made_flows import START_NS, made_flows

from nsstream.encode.flow_clients import group_by_client, unit_keys
from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows, with_addresses
from nsstream.encode.flow_encoding import allowed_attributes, allowed_fields
from nsstream.encode.flow_schema import MOST_RECORDS, PEERS
from nsstream.encode.public_flow_codec import SERVERS, encode_flows_privately, public_flow_codec
from nsstream.trace import FlowTable

HOUR = (START_NS + 3600 * 10**9, START_NS + 7200 * 10**9)


def end(host: int) -> list[int]:
    return [*[0] * 10, 255, 255, 192, 0, 2, host]


def records(*rows: tuple[int, int, int, int, int]) -> FlowTable:
    """UDP records: source and its port, destination and its port, start in seconds."""
    starts = np.array([START_NS + row[4] * 10**9 for row in rows])
    return FlowTable.from_columns(
        {
            "flow_start_ns": starts,
            "flow_end_ns": starts + 10**9,
            "ip_version": np.full(len(rows), 4, np.uint8),
            "protocol_identifier": np.full(len(rows), 17, np.uint8),
            "source_address": np.array([end(row[0]) for row in rows], np.uint8),
            "source_transport_port": np.array([row[1] for row in rows], np.uint16),
            "destination_address": np.array([end(row[2]) for row in rows], np.uint8),
            "destination_transport_port": np.array([row[3] for row in rows], np.uint16),
            "packet_delta_count": np.ones(len(rows), np.uint64),
            "octet_delta_count": np.full(len(rows), 60, np.uint64),
        }
    )


@pytest.mark.parametrize(
    ("rows", "client"),
    [
        ([(9, 53, 1, 40_000, 0), (1, 40_000, 9, 53, 1)], 1),  # the known port serves, though it is seen first
        ([(1, 40_000, 9, 41_000, 0), (9, 41_000, 1, 40_000, 1)], 1),  # else who is seen first asks
        ([(9, 41_000, 1, 40_000, 0), (1, 40_000, 9, 41_000, 1)], 9),
        ([(1, 123, 9, 123, 5), (9, 123, 1, 123, 2)], 9),
        ([(1, 40_000, 9, 41_000, 3), (9, 41_000, 1, 40_000, 3)], 9),  # together: the higher port
        ([(1, 123, 9, 123, 3), (9, 123, 1, 123, 3)], 9),  # and the higher address
    ],
)
def test_a_client_is_told_by_its_own_records_in_any_order(rows, client):
    for order in (rows, rows[::-1]):
        flows = group_by_client(records(*order))
        assert len(flows) == 1
        assert flows.client_address[0].tolist() == end(client)
        assert flows.from_service.tolist() == [row[0] != client for row in sorted(rows, key=lambda r: r[4])] or (
            rows[0][4] == rows[1][4] and sorted(flows.from_service) == [False, True]
        )


def test_every_record_is_in_one_conversation_and_long_ones_go_on():
    table = made_flows(count=400)
    flows = group_by_client(table)
    assert len(flows.records) == len(table)
    assert sorted(flows.records.flow_start_ns) == sorted(table.flow_start_ns)
    assert flows.records.label_names == ()
    assert (np.diff(flows.records.flow_start_ns[flows.first]) >= 0).all()
    long = group_by_client(records(*[(1, 40_000, 9, 53, k) for k in range(MOST_RECORDS + 5)]))
    assert long.record_count.tolist() == [MOST_RECORDS, 5]
    assert len(np.unique(unit_keys(long, "flow"), axis=0)) == 1
    assert len(group_by_client(FlowTable.empty())) == 0


def test_without_one_host_the_conversations_of_others_are_the_same():
    table = made_flows(count=300)
    flows = group_by_client(table)
    keys = unit_keys(flows, "host")
    for host in np.unique(keys, axis=0)[::7]:
        is_its = (keys == host).all(axis=1)
        rest = flows.take(np.flatnonzero(~is_its))
        again = group_by_client(rest.records)
        assert len(again) == len(rest)
        for name in ("client_address", "server_address", "client_port", "service_port", "offset", "from_service"):
            assert np.array_equal(getattr(again, name), getattr(rest, name)), name


def test_flows_are_units_by_their_five_tuple_either_way():
    one = unit_keys(group_by_client(records((1, 40_000, 9, 53, 0))), "flow")
    back = unit_keys(group_by_client(records((9, 53, 1, 40_000, 8))), "flow")
    other = unit_keys(group_by_client(records((1, 40_001, 9, 53, 0))), "flow")
    assert np.array_equal(one, back)
    assert not np.array_equal(one, other)


@pytest.fixture(scope="module")
def seed_codec():
    return FlowCodec.fit(group_flows(made_flows(count=500)), START_NS, START_NS + 700 * 10**9)


@pytest.mark.parametrize("unit", ["host", "flow"])
def test_a_conversation_is_encoded_the_same_whoever_else_is_there(seed_codec, unit):
    codec = public_flow_codec(seed_codec, *HOUR, lambda addresses: addresses)
    flows = group_by_client(made_flows(seed=8, count=200))
    together = encode_flows_privately(flows, codec, unit)
    keys = unit_keys(flows, unit)
    for key in np.unique(keys, axis=0)[::5]:
        rows = np.flatnonzero((keys == key).all(axis=1))
        alone = encode_flows_privately(flows.take(rows), codec, unit)
        assert np.array_equal(together.attributes[rows], alone.attributes)
        at = np.concatenate([np.arange(flows.offset[row], flows.offset[row + 1]) for row in rows])
        assert np.array_equal(together.fields[at], alone.fields)
        assert np.array_equal(together.running[at], alone.running)
    server = together.attributes[:, 7]
    assert ((server >= PEERS + SERVERS) | (server < PEERS)).all()
    assert (server < PEERS).any() == (unit == "host")


def test_hosts_that_the_map_gives_one_address_do_not_share_the_servers_that_they_asked(seed_codec):
    codec = public_flow_codec(seed_codec, *HOUR, lambda addresses: addresses)
    flows = group_by_client(made_flows(seed=8, count=200))
    one = np.broadcast_to(flows.client_address[:1], flows.client_address.shape)
    mapped = with_addresses(flows, one, flows.server_address)
    server = encode_flows_privately(flows, codec, "host").attributes[:, 7]
    assert np.array_equal(encode_flows_privately(mapped, codec, "host", flows).attributes[:, 7], server)
    assert not np.array_equal(encode_flows_privately(mapped, codec, "host").attributes[:, 7], server)


def test_a_public_codec_knows_the_interval_and_the_seed_alone(seed_codec):
    codec = public_flow_codec(seed_codec, *HOUR, lambda addresses: addresses)
    assert (codec.start_ns, codec.end_ns) == HOUR
    again = public_flow_codec(seed_codec, *HOUR, lambda addresses: addresses)
    assert codec.as_json() == again.as_json()
    for masks in (allowed_attributes(codec), allowed_fields(codec)):
        assert all(mask.any() for mask in masks.values())
    slots = [slot for slot in codec.host.slots if slot is not None]
    assert len(set(slots)) == len(slots)
    held = {slot for slot in seed_codec.host.slots if slot is not None}
    assert not held & set(slots)
    assert dataclasses.fields(codec) == dataclasses.fields(seed_codec)
