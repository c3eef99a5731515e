"""The gate: what a candidate is refused for, and that it is told."""

from typing import Any

import pytest

from nsstream.pipeline.gate import complaints_about
from nsstream.pipeline.service_config import GateSection

GOOD: dict[str, Any] = {
    "loss": 10.0, "parent_loss": 11.0, "ratio": 10 / 11, "drift": 1.0, "drawn": 10, "frames": 100, "faults": 0,
    "copied": 0.01, "copied_floor": 0.0,
}  # fmt: skip


def test_a_good_candidate_passes():
    assert complaints_about(GOOD, GateSection()) == ()


def test_a_seed_has_no_parent_to_be_better_than():
    assert complaints_about(GOOD | {"parent_loss": None, "ratio": None, "drift": None}, GateSection()) == ()


def test_what_a_blind_judge_did_not_measure_is_not_held_against_a_candidate():
    unseen = dict.fromkeys(("loss", "parent_loss", "ratio", "drift", "copied", "copied_floor"))
    assert complaints_about(GOOD | unseen, GateSection()) == ()
    assert complaints_about(GOOD | unseen | {"faults": 1}, GateSection())


def test_what_was_not_drawn_is_not_held_against_it():
    flows = {"drawn": None, "frames": None, "faults": None, "copied": None, "copied_floor": None}
    assert complaints_about(GOOD | flows, GateSection()) == ()


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"ratio": 1.25}, "its held-out loss of 10.000 nats is 1.250 times its parent's 11.000, more than 1"),
        ({"ratio": float("nan")}, "its held-out loss of 10.000 nats is nan times its parent's 11.000, more than 1"),
        ({"loss": float("inf")}, "its held-out loss is inf"),
        ({"frames": 0}, "nothing could be drawn of it"),
        ({"faults": 3}, "3 of 100 frames drawn of it are unlawful, more than 0"),
        ({"copied": 0.2, "copied_floor": 0.1}, "20.0% of the flows drawn of it stand in the chunk, where halves of"),
    ],
)
def test_each_reason_is_told(figures: dict[str, Any], told: str):
    found = complaints_about(GOOD | figures, GateSection())
    assert len(found) == 1
    assert found[0].startswith(told)


def test_what_two_halves_of_the_chunk_share_is_no_copying():
    assert complaints_about(GOOD | {"copied": 0.5, "copied_floor": 0.48}, GateSection()) == ()
    assert complaints_about(GOOD | {"copied": 0.5, "copied_floor": None}, GateSection())


def test_the_bounds_are_the_operators():
    assert complaints_about(GOOD | {"ratio": 1.25, "faults": 3}, GateSection(worst_ratio=1.3, most_faults=3)) == ()
