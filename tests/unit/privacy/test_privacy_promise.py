"""What a twin promises: the sum of what its models cost, each ancestor once at least, and no more than is known."""

from typing import Any

import pytest

from nsstream.privacy import DiscreteGaussian, Mechanism, SampledGaussian, as_dicts, epsilon, from_dicts
from nsstream.privacy.promise import before_of, promise_of

DELTA = 1e-5
FIT = (SampledGaussian(3.0, 0.05, 100), DiscreteGaussian(60.0))
OTHER = (SampledGaussian(2.0, 0.1, 50), DiscreteGaussian(30.0))


def model(name: str, did: tuple[Mechanism, ...] = FIT, parent: dict[str, Any] | None = None, **told: Any) -> Any:
    """A manifest as training writes it."""
    privacy = {"epsilon": epsilon(did, DELTA) + 0.01, "delta": DELTA, "unit": "host", "mechanisms": as_dicts(did)}
    before = as_dicts(before_of(parent or {}))
    of_parent = None if parent is None else parent["id"]
    return {"id": name, "chunk": f"chunk-{name}", "parent": of_parent, "privacy": privacy | {"before": before} | told}


def did(promise: dict[str, Any]) -> float:
    return epsilon(from_dicts(promise["mechanisms"]), DELTA)


def test_a_twin_of_one_model_promises_what_was_asked_of_that_model():
    promise = promise_of([model("a")])
    assert promise is not None
    assert promise["epsilon"] == pytest.approx(epsilon(FIT, DELTA) + 0.01)
    assert (promise["delta"], promise["unit"], promise["adjacency"]) == (DELTA, "host", "one unit is added or removed")
    assert set(from_dicts(promise["mechanisms"])) == set(FIT)
    assert [(m["id"], m["chunk"], m["is_private"]) for m in promise["models"]] == [("a", "chunk-a", True)]
    assert promise_of([model("a"), model("a")])["epsilon"] == promise["epsilon"]  # drawn twice is learned once


def test_mechanisms_that_say_more_than_was_asked_for_are_believed():
    promise = promise_of([model("a", epsilon=0.1)])
    assert promise["epsilon"] == pytest.approx(epsilon(FIT, DELTA))
    assert promise["models"][0]["epsilon"] == 0.1


def test_the_costs_of_several_models_add_up():
    promise = promise_of([model("a"), model("b", OTHER), model("c")])
    assert promise["epsilon"] == pytest.approx(epsilon(FIT * 2 + OTHER, DELTA)) == pytest.approx(did(promise))


def test_what_a_model_went_on_from_is_counted_with_it_and_once():
    first = model("a")
    second = model("b", OTHER, first)
    third = model("c", FIT, second)
    promise = promise_of([third])
    assert promise["epsilon"] == pytest.approx(epsilon(FIT * 2 + OTHER, DELTA))
    (told,) = promise["models"]
    assert (told["epsilon"], told["epsilon_before"]) == pytest.approx(
        (epsilon(FIT, DELTA) + 0.01, epsilon(FIT + OTHER, DELTA))
    )
    assert promise_of([first, second, third])["epsilon"] == promise_of([third])["epsilon"]
    beside = model("d", FIT, first)  # a sibling: its parent is in both
    assert promise_of([second, beside])["epsilon"] == pytest.approx(epsilon(FIT * 3 + OTHER, DELTA))
    forgetful = model("e", OTHER, first)  # of a version that did not write it
    forgetful["privacy"].pop("before")
    assert promise_of([first, forgetful])["epsilon"] == pytest.approx(epsilon(FIT + OTHER, DELTA))


def test_models_that_are_not_private_are_named_and_promise_nothing():
    public = {"id": "public", "chunk": "x"}
    assert promise_of([public]) is None
    assert promise_of([]) is None
    promise = promise_of([public, model("a")])
    assert [m["is_private"] for m in promise["models"]] == [False, True]
    assert [m["epsilon_before"] for m in promise["models"]] == [None, 0.0]
    assert promise["epsilon"] == promise_of([model("a")])["epsilon"]


def test_different_units_are_not_one_promise():
    promise = promise_of([model("a"), model("b", unit="flow")])
    assert [promise[name] for name in ("epsilon", "delta", "unit", "mechanisms")] == [None] * 4
    assert [m["unit"] for m in promise["models"]] == ["host", "flow"]
    assert all(m["epsilon"] > 0 for m in promise["models"])


@pytest.mark.parametrize(
    "told",
    [
        {"delta": 0}, {"delta": 1.0}, {"delta": float("nan")}, {"delta": True}, {"delta": None},
        {"unit": "person"}, {"unit": ["host"]}, {"epsilon": -1}, {"epsilon": "8"}, {"epsilon": float("inf")},
        {"mechanisms": None}, {"mechanisms": []}, {"mechanisms": [{"kind": "hope"}]}, {"mechanisms": "x"},
        {"before": 7}, {"before": [{}]},
    ],
)  # fmt: skip
def test_what_a_stranger_wrote_is_no_promise(told: dict[str, Any]):
    assert promise_of([model("a", **told)]) is None
    assert before_of(model("a", **told)) == ()


def test_models_that_claim_each_other_for_parents_are_counted_all_the_same():
    first, second = model("a"), model("b", OTHER)
    first["parent"], second["parent"] = "b", "a"
    first["privacy"]["before"] = second["privacy"]["before"] = as_dicts(FIT)
    assert promise_of([first, second])["epsilon"] >= epsilon(FIT + OTHER, DELTA)
