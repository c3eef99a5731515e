import json

import numpy as np
import pytest
from rich.console import Console

from nsstream.score import Score, score_packets
from nsstream.score.report import details_table, summary_table
from nsstream.trace import PacketBatch


def _score(real: PacketBatch, synthetic: PacketBatch, held_out: PacketBatch | None = None) -> Score:
    return score_packets(real, synthetic, held_out, np.random.default_rng(0))


def _value(score: Score, name: str) -> float:
    value = {m.name: m.value for m in score.measures}[name]
    assert value is not None
    return value


def test_every_distance_of_a_trace_from_itself_is_zero(make_packets) -> None:
    packets = make_packets(1)
    score = _score(packets, packets)
    assert {m.name: m.value for m in score.measures if m.value is None or m.value > 1e-9} == {}
    assert all(m.floor is None or m.floor >= 0 for m in score.measures)


def test_new_traffic_of_the_same_kind_scores_near_its_floor(make_packets) -> None:
    score = _score(make_packets(1, 600), make_packets(2, 600))
    structure = {m.name: m for m in score.summary()}["structure"]
    assert structure.x_floor is not None
    assert structure.x_floor < 2
    assert score.detector.auc == pytest.approx(0.5, abs=0.1)


def test_other_traffic_is_told_apart_and_the_telling_feature_is_named(make_packets) -> None:
    score = _score(make_packets(1, 300), make_packets(2, 300, first_size=61))
    assert _value(score, "first_size") > 0.3
    assert score.detector.auc is not None
    assert score.detector.auc > 0.8  # replies, half of the flows, are the same
    assert score.detector.told_by[0] == "size_of_packet_1"


def test_a_copy_is_seen_as_a_copy(make_packets) -> None:
    packets = make_packets(1)
    copied, fresh = _score(packets, packets).copying, _score(packets, make_packets(2)).copying
    assert copied.synthetic == {"five_tuples": 1, "addresses": 1, "flow_fingerprints": 1}
    assert fresh.synthetic["five_tuples"] < 0.05


def test_half_of_the_packets_show_in_the_volume(make_packets) -> None:
    packets = make_packets(1)
    score = _score(packets, packets.take(slice(0, len(packets) // 2)))
    assert _value(score, "packet_total") == pytest.approx(np.log(2), abs=0.01)


def test_held_out_traffic_makes_the_floor(make_packets) -> None:
    real, held_out = make_packets(1), make_packets(3, first_size=99)
    score = _score(real, make_packets(2), held_out)
    floor = {m.name: m.floor for m in score.measures}["first_size"]
    assert floor is not None
    assert floor > 0.3


def test_the_same_seed_gives_the_same_score(make_packets) -> None:
    real, synthetic = make_packets(1), make_packets(2)
    assert _score(real, synthetic) == _score(real, synthetic)


def test_too_few_flows_to_train_a_detector_are_no_number(make_packets) -> None:
    score = _score(make_packets(1, 8), make_packets(2, 8))
    assert score.detector.auc is None
    assert score.detector.told_by == ()


def test_an_empty_trace_is_refused(make_packets) -> None:
    with pytest.raises(ValueError, match="at least one packet"):
        _score(make_packets(1), PacketBatch.empty())


def test_a_single_conversation_has_no_halves(make_packets) -> None:
    with pytest.raises(ValueError, match="two conversations, got 1"):
        _score(make_packets(1, 1), make_packets(2))


def test_a_score_goes_through_json_and_prints(make_packets) -> None:
    score = _score(make_packets(1, 8), make_packets(2))
    assert json.loads(json.dumps(score.as_dict(), allow_nan=False))["detector"]["auc"] is None
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(summary_table(score))
        console.print(details_table(score))
    assert "five-tuples copied" in capture.get()
    assert "structure: gap_in_flow" in capture.get()
