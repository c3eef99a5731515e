"""Specifications of streams and scenarios: what is valid, and what is refused with its path."""

import pytest
from pydantic import TypeAdapter, ValidationError

from nsstream.replay.scenario import (
    Attack,
    FollowSpec,
    MixSpec,
    ModelSpec,
    ModelsSpec,
    Part,
    RecordedSpec,
    Scenario,
    Service,
    StreamSpec,
    check_agreement,
    parse_service,
)

STREAM = TypeAdapter(StreamSpec)
ATTACK = Attack(model="/m/a", share=0.01)


@pytest.mark.parametrize(
    ("fields", "spec"),
    [
        ({"kind": "models", "models": ["/m/a"]}, ModelsSpec(models=["/m/a"], gaps="kept")),
        ({"kind": "model", "model": "/m/a"}, ModelSpec(model="/m/a")),
        ({"kind": "follow", "directory": "/m"}, FollowSpec(directory="/m", wait_s=60.0)),
        ({"kind": "recorded", "path": "/a.pcap"}, RecordedSpec(path="/a.pcap")),
        ({"kind": "mix", "parts": [{"model": "/m/a"}]}, MixSpec(parts=[Part(model="/m/a", weight=1.0)])),
    ],
)
def test_each_kind_is_read_and_told_again(fields, spec):
    assert STREAM.validate_python(fields) == spec
    assert STREAM.validate_python(spec.model_dump()) == spec


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": "tape"},
        {"kind": "models", "models": []},
        {"kind": "models", "models": ["m"]},
        {"kind": "models", "models": ["/m/a"] * 4097},
        {"kind": "model", "model": "/m/a", "seed": 1},
        {"kind": "follow", "directory": "/m", "wait_s": -1.0},
        {"kind": "mix", "parts": [{"model": "/m/a", "weight": 0.0}]},
    ],
)
def test_what_is_no_stream_is_refused(fields):
    with pytest.raises(ValidationError):
        STREAM.validate_python(fields)


def test_a_default_scenario_leaves_the_stream_as_it_is_and_travels():
    assert Scenario.model_validate(Scenario().model_dump()) == Scenario()
    full = Scenario(
        start_ns=1, time_compression=2.0, services=["tcp/80"], hosts=["10.0.0.0/8", "fd00::1"], flows=2.0,
        clients="more", attack=ATTACK,
    )  # fmt: skip
    assert Scenario.model_validate(full.model_dump()) == full


@pytest.mark.parametrize(
    "fields",
    [
        {"services": []},
        {"services": ["http"]},
        {"services": ["tcp/70000"]},
        {"services": ["icmp/1"]},
        {"services": ["tcp/9-8"]},
        {"services": ["tcp/٣"]},
        {"hosts": ["10.0.0.1/8"]},
        {"hosts": ["lab"]},
        {"flows": 0.0},
        {"flows": float("nan")},
        {"flows": 1.0, "clients": "more"},
        {"time_compression": float("inf")},
        {"limits": {"packets": 0}},
        {"attack": {"model": "/m", "share": 1.0}},
        {"attack": {"model": "/m", "share": 0.5, "name": "a,b\n"}},
        {"start_ns": 1 << 63},
        {"candidates": 0},
        {"candidates": "all"},
        {"speed": 1},
    ],
)
def test_what_is_no_scenario_is_refused(fields):
    with pytest.raises(ValidationError):
        Scenario.model_validate(fields)


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("tcp/443", Service(6, 443, 443)),
        ("udp/8000-8100", Service(17, 8000, 8100)),
        ("sctp", Service(132, 0, 65535)),
        ("icmpv6", Service(58, 0, 65535)),
        ("89", Service(89, 0, 65535)),
        ("6/22", Service(6, 22, 22)),
    ],
)
def test_services_are_read(text, service):
    assert parse_service(text) == service


@pytest.mark.parametrize(
    ("spec", "scenario", "loop", "complaint"),
    [
        (RecordedSpec(path="/a"), Scenario(flows=2.0), 1, "a recording has no more flows"),
        (RecordedSpec(path="/a"), Scenario(candidates="auto"), 1, "a recording is not drawn"),
        (RecordedSpec(path="/a"), Scenario(attack=ATTACK), 1, "an attack is blended"),
        (ModelSpec(model="/m"), Scenario(), 3, "has no end"),
        (FollowSpec(directory="/m"), Scenario(), 3, "has no end"),
    ],
)
def test_what_does_not_go_together_is_refused(spec, scenario, loop, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_agreement(spec, scenario, loop)


def test_what_goes_together_is_not():
    check_agreement(RecordedSpec(path="/a"), Scenario(flows=0.5), None)
    check_agreement(ModelsSpec(models=["/m"]), Scenario(attack=ATTACK), 7)
    check_agreement(ModelSpec(model="/m"), Scenario(flows=3.0), 1)
