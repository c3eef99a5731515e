import argparse
import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.errors import OutputError
from nsstream.replay.default_routes import default_route_indices, parse_routes
from nsstream.replay.interface_sink import InterfaceSink, InterfaceSinkSpec
from nsstream.replay.safety import SendingRules, add_sending_options, rules_from
from nsstream.replay.sink import SinkContext

UNICAST, UNREACHABLE = 1, 7
DONE = struct.pack("=IHHIIi", 20, 3, 2, 0, 0, 0)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def route(family: int, prefix_length: int, *attributes: bytes, kind: int = UNICAST) -> bytes:
    body = struct.pack("=8BI", family, prefix_length, 0, 0, 254, 3, 0, kind, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 24, 2, 0, 0) + body


def over(index: int) -> bytes:
    return attribute(4, struct.pack("=i", index))


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (route(socket.AF_INET, 0, over(3)), {3}),
        (route(socket.AF_INET6, 0, over(4)), {4}),
        (route(socket.AF_INET, 1, over(5)), {5}),  # one of the two halves that VPNs set
        (route(socket.AF_INET6, 3, over(6)), {6}),  # 2000::/3
        (route(socket.AF_INET, 8, over(7)), set()),
        (route(socket.AF_INET6, 64, over(7)), set()),
        (route(socket.AF_INET, 0, over(1), kind=UNREACHABLE), set()),
        (route(28, 0, over(7)), set()),  # MPLS
        (route(socket.AF_INET, 0, over(3)) + route(socket.AF_INET6, 0, over(8)), {3, 8}),
        (
            route(
                *(socket.AF_INET, 0),
                attribute(9, struct.pack("=HBBi", 8, 0, 0, 11) + struct.pack("=HBBi", 16, 0, 0, 12) + bytes(8)),
            ),
            {11, 12},
        ),
    ],
)
def test_interfaces_of_default_routes_are_found(message, found):
    assert parse_routes(message) == (found, False)
    assert parse_routes(message + DONE) == (found, True)


def test_an_error_of_the_kernel_is_an_error():
    with pytest.raises(OSError, match="EPERM"):
        parse_routes(struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -1))
    with pytest.raises(OSError, match="no answer"):
        parse_routes(b"")


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda b: route(2, 0, b)))
def test_no_octets_do_more_than_raise_the_system_s_error(octets):
    with suppress(OSError):
        parse_routes(octets)


def test_the_kernel_tells_of_this_machine():
    assert all(index > 0 for index in default_route_indices())


def test_rules_name_no_interface_unless_told():
    with pytest.raises(OutputError, match="does not name it as an interface to send on; it names none"):
        SendingRules().check("lo", is_default_route_meant=True)
    with pytest.raises(OutputError, match="it names eth7"):
        SendingRules(frozenset({"eth7"})).check("lo", is_default_route_meant=True)


def test_a_sink_asks_the_rules_before_it_opens_anything():
    sink = InterfaceSink(InterfaceSinkSpec(interface="lo"), SinkContext())
    for attempt in (sink.check, sink.open):
        with pytest.raises(OutputError, match="does not name it"):
            attempt()
    both = InterfaceSinkSpec(interface="lo", server_interface="lo2")
    with pytest.raises(OutputError, match="lo2: this server"):
        InterfaceSink(both, SinkContext(rules=SendingRules(frozenset({"lo"})))).check()


def test_an_interface_that_is_not_there_is_refused():
    with pytest.raises(OutputError, match="there is no such interface"):
        SendingRules(frozenset({"nsnone0"})).check("nsnone0", is_default_route_meant=False)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 16, "a\0", "eth0:1"])
def test_what_is_no_name_of_an_interface_is_refused(name):
    with pytest.raises(ValueError, match="interface"):
        InterfaceSinkSpec(interface=name)


def test_interfaces_of_default_routes_must_be_among_all():
    with pytest.raises(ValueError, match="must be among interfaces, got b more"):
        SendingRules(frozenset({"a"}), frozenset({"b"}))


def parse(*arguments: str) -> SendingRules:
    parser = argparse.ArgumentParser()
    add_sending_options(parser)
    return rules_from(parser.parse_args(arguments))


def test_options_say_the_rules():
    rules = parse("--send-on", "a", "--send-on=b", "--send-on-default-route=c", "--max-bits-per-second=1e9")
    assert rules.interfaces == {"a", "b", "c"}
    assert rules.default_route_interfaces == {"c"}
    assert (rules.cap.packets_per_s, rules.cap.bits_per_s) == (None, 1e9)
    assert parse().interfaces == frozenset()
    with pytest.raises(ValueError, match="packets_per_s must be"):
        parse("--max-packets-per-second=0")
