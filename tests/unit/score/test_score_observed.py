import numpy as np

from nsstream.score.features import FEATURE_NAMES, flow_features
from nsstream.score.observed import halves, observe


def test_flows_are_directed_five_tuples_in_time_order(make_packets) -> None:
    packets = make_packets(1)
    trace = observe(packets.take(np.random.default_rng(0).permutation(len(packets))))
    keys = {
        (s.tobytes(), d.tobytes(), int(p), int(q), int(k))
        for s, d, p, q, k in zip(
            packets.source_address,
            packets.destination_address,
            packets.source_transport_port,
            packets.destination_transport_port,
            packets.protocol_identifier,
            strict=True,
        )
    }
    assert len(trace.flow_identity) == len(keys)
    assert trace.time_s[0] == 0
    assert (np.diff(trace.time_s[trace.by_flow])[trace.is_same_flow] >= 0).all()
    assert trace.flow_packet_count.sum() == len(packets)


def test_halves_share_no_conversation_and_lose_no_packet(make_packets) -> None:
    trace = observe(make_packets(1))
    one, other = halves(trace, np.random.default_rng(0))
    both_ways = np.concatenate([one.flow_identity, one.reverse_identity])
    assert not np.isin(other.flow_identity, both_ways).any()
    assert len(one.time_s) + len(other.time_s) == len(trace.time_s)


def test_features_are_finite_and_named(make_packets) -> None:
    trace = observe(make_packets(1))
    features = flow_features(trace, float(trace.time_s.max()))
    assert features.shape == (len(trace.flow_identity), len(FEATURE_NAMES))
    assert np.isfinite(features).all()


def test_features_do_not_see_addresses_or_ephemeral_port_numbers(make_packets) -> None:
    packets = make_packets(1)
    columns = {k: v.copy() for k, v in packets.columns().items()}
    columns["source_address"][:, 13] = columns["destination_address"][:, 13] = 77
    for name in ("source_transport_port", "destination_transport_port"):
        columns[name][columns[name] >= 32768] ^= 1
    before, after = observe(packets), observe(type(packets).from_columns(columns))
    rows = [np.sort(flow_features(t, 60.0), axis=0) for t in (before, after)]
    assert np.array_equal(*rows)
