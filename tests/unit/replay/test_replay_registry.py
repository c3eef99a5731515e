"""Sinks by name: what is refused, with the path of the fault, and what is made."""

from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from nsstream.errors import InputError, OutputError
from nsstream.replay import registry
from nsstream.replay.pcap_sink import PcapSink, PcapSinkSpec
from nsstream.replay.registry import check_sink, make_sink, sink_kinds
from nsstream.replay.sink import SinkContext, SinkSpec, check_counters


def test_our_sinks_are_registered():
    assert {"fifo", "pcap"} <= set(sink_kinds())


def test_fields_become_a_specification():
    assert check_sink({"kind": "pcap", "path": "/x.pcap"}) == PcapSinkSpec(path="/x.pcap", overwrite=False)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "sink.kind: must name a sink, one of .*fifo"),
        ({"kind": 3}, "sink.kind: must name a sink"),
        ({"kind": "eth\n", "path": "/x"}, "sink.kind: there is no sink 'eth.*sinks: .*pcap"),
        ({"kind": "pcap"}, "sink.path: Field required"),
        ({"kind": "pcap", "path": "twin.pcap"}, "sink.path: .*absolute"),
        ({"kind": "pcap", "path": "/x", "overwrite": 1}, "sink.overwrite: "),
        ({"kind": "fifo", "path": "/x", "colour": True}, "sink.colour: Extra inputs"),
    ],
)
def test_fields_that_are_no_specification_are_refused_with_their_path(fields, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        check_sink(fields)
    assert "\n" not in str(refused.value)


def test_a_sink_is_made_and_checked(tmp_path):
    sink = make_sink({"kind": "pcap", "path": str(tmp_path / "x.pcap")}, SinkContext())
    assert isinstance(sink, PcapSink)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="directory does not exist"):
        make_sink({"kind": "pcap", "path": str(tmp_path / "none" / "x.pcap")}, SinkContext())


class InnerSpec(SinkSpec):
    kind: Literal["inner"] = "inner"
    size: int


class NestedSpec(SinkSpec):
    kind: Literal["foreign"] = "foreign"
    inner: list[InnerSpec]


class NestedSink:
    spec_type = NestedSpec


def registered(monkeypatch, *points):
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name: [EntryPoint("foreign", value, group) for value in points]
    )


def test_the_path_of_a_fault_leads_into_nested_models(monkeypatch):
    registered(monkeypatch, f"{__name__}:NestedSink")
    with pytest.raises(InputError, match=r"^sink\.inner\[1\]\.size: "):
        check_sink({"kind": "foreign", "inner": [{"kind": "inner", "size": 1}, {"kind": "inner", "size": "1"}]})


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        (("none_such_module:Sink",), "cannot be loaded"),
        ((f"{__name__}:NoSuchSink",), "cannot be loaded"),
        ((f"{__name__}:InnerSpec",), "no callable with a `spec_type`"),
        ((f"{__name__}:NestedSink", f"{__name__}:InnerSpec"), "uninstall all but one"),
    ],
)
def test_a_foreign_sink_that_is_none_is_refused_by_name(monkeypatch, points, sentence):
    registered(monkeypatch, *points)
    with pytest.raises(InputError, match=sentence):
        check_sink({"kind": "foreign"})


def test_counters_that_do_not_add_up_are_found():
    check_counters({"frames": 3, "frames_written": 1, "frames_failed": 2, "octets": 9})
    with pytest.raises(AssertionError, match="frames is 3"):
        check_counters({"frames": 3, "frames_written": 1, "frames_failed": 1})
    with pytest.raises(AssertionError, match="octets is -1"):
        check_counters({"octets": -1})
