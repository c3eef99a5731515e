"""Settled loads: each host sends and gets as many large records as counted, and all sizes stay within their kinds."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from made_flows import START_NS, made_flows

from nsstream.encode.flow_codec import FlowCodec
from nsstream.encode.flow_conversations import group_flows
from nsstream.encode.flow_encoding import LEAST_OCTAVE, count_loads, encode_flows, octave_of, parties_of
from nsstream.encode.flow_schema import FIELD_INDEX, PARTIES
from nsstream.model.settle_loads import settle_loads

SIZES = [FIELD_INDEX[name] for name in ("flags", "packets", "reverse_packets", "octets", "reverse_octets", "duration")]


@pytest.fixture(scope="module")
def flows():
    """Clients of whom every third has large records of one service."""
    table = made_flows(count=600)
    columns = {name: column.copy() for name, column in table.columns().items()}
    is_large = (columns["destination_transport_port"] == 443) & (columns["source_address"][:, 15] % 3 == 0)
    columns["packet_delta_count"][is_large] *= 50
    columns["octet_delta_count"][is_large] *= 50
    return group_flows(dataclasses.replace(table, **columns))


@pytest.fixture(scope="module")
def codec(flows):
    fitted = FlowCodec.fit(flows, START_NS, START_NS + 1400 * 10**9)
    return dataclasses.replace(fitted, loads=count_loads(encode_flows(flows, fitted), fitted))


@pytest.fixture(scope="module")
def records(flows, codec):
    """Fields of all records, attributes of their conversations, and which kind each is of."""
    tokens = encode_flows(flows, codec)
    attributes = np.repeat(tokens.attributes, np.diff(tokens.offset), axis=0)
    is_asked = flows.records.destination_transport_port == 443
    return tokens.fields, attributes, is_asked.astype(np.int64)


def loads_of(fields, attributes, codec):
    octave = octave_of(fields, codec)
    is_large = octave >= LEAST_OCTAVE
    parties = parties_of(attributes, fields)[is_large].tolist()
    sizes = octave[is_large].tolist()
    return sorted((party, size) for pair, size in zip(parties, sizes, strict=True) for party in pair)


def test_all_large_records_are_counted(records, codec):
    fields, attributes, _ = records
    counted = [(p, o) for p, o, times in codec.loads.tolist() for _ in range(times)]
    assert counted == loads_of(fields, attributes, codec)
    assert len(counted) > 100
    assert len({party * 4 // PARTIES for party, _ in counted}) > 1  # as a client that sends, as a server that gets, ...
    assert FlowCodec.from_json(codec.as_json()).loads.tolist() == codec.loads.tolist()


def test_records_of_a_kind_change_sizes_until_each_host_has_its_own(records, codec):
    measured, attributes, kind = records
    rng = np.random.default_rng(3)
    fields = measured.copy()
    for one in (0, 1):  # sizes go to anybody of their kind
        rows = np.flatnonzero(kind == one)
        fields[np.ix_(rows, SIZES)] = fields[np.ix_(rng.permutation(rows), SIZES)]
    wanted, before = loads_of(measured, attributes, codec), fields.copy()
    wrong = Counter(wanted) - Counter(loads_of(fields, attributes, codec))
    settle_loads(fields, attributes, kind, codec, rng)
    left = Counter(wanted) - Counter(loads_of(fields, attributes, codec))
    assert left.total() < wrong.total() / 5
    for one in (0, 1):
        sizes = [sorted(map(tuple, f[kind == one][:, SIZES].tolist())) for f in (before, fields)]
        assert sizes[0] == sizes[1]
    others = np.setdiff1d(np.arange(fields.shape[1]), SIZES)
    np.testing.assert_array_equal(fields[:, others], before[:, others])


def test_who_has_as_many_as_were_counted_keeps_them(records, codec):
    measured, attributes, kind = records
    fields = measured.copy()
    settle_loads(fields, attributes, kind, codec, np.random.default_rng(3))
    np.testing.assert_array_equal(fields, measured)


@pytest.mark.parametrize("row", [[PARTIES, 7, 1], [0, 99, 1], [0, 7, -1]])
def test_loads_of_what_there_is_not_are_refused(codec, row):
    with pytest.raises(ValueError, match="loads"):
        FlowCodec.from_json(codec.as_json() | {"loads": [row]})


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(codec, share):
    with pytest.raises(ValueError, match="share_again"):
        FlowCodec.from_json(codec.as_json() | {"share_again": share})
