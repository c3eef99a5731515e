"""Metering agrees with a slow and plain account of itself, loses no packet, does not see how packets are batched."""

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made_traffic import batch_of, packet, tcp

from nsstream.trace import FlowTable
from nsstream.trace.fields import ACK, FIN, FLOW_FIELDS, ICMP, RST, SYN, TCP, UDP
from nsstream.trace.metering import FlowMeter

IDLE_MS, ACTIVE_MS, LINGER_MS = 200, 500, 20
HOSTS = st.sampled_from(["192.0.2.1", "192.0.2.2", "203.0.113.0", "2001:db8::1"])
ENDS = st.tuples(HOSTS, st.sampled_from([0, 53, 40_000]))
FLAGS = st.sampled_from([SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, 0])
NS = 1_000_000


@st.composite
def rows(draw):
    """Packets of few endpoints, nearly in order, with leaps, jumps back, tags and fragments."""
    made = []
    at = 0
    for step in draw(
        st.lists(st.sampled_from([0, 0, 1, 5, 19, 20, 60, 199, 200, 499, -3, -150, -501, 3000]), max_size=60)
    ):
        at = max(0, at + step)
        source = draw(ENDS)
        destination = draw(ENDS.filter(lambda e, s=source: (":" in e[0]) == (":" in s[0])))
        fields = {
            "vlan_id": draw(st.sampled_from([0, 0, 0, 7])),
            "ip_class_of_service": draw(st.sampled_from([0, 0, 8])),
        }
        kind = draw(st.sampled_from(["tcp", "tcp", "tcp", "udp", "icmp", "first", "later"]))
        ends = (source, destination)
        if kind == "tcp":
            made.append(tcp(at, draw(FLAGS), octets=draw(st.integers(0, 3)), ends=ends, **fields))
        elif kind == "icmp":
            ends = (source[0], 0), (destination[0], 0)
            made.append(packet(at, *ends, ICMP, icmp_type=draw(st.sampled_from([0, 8])), icmp_code=1, **fields))
        elif kind == "later":
            ends = (source[0], 0), (destination[0], 0)
            made.append(
                packet(at, *ends, UDP, 8, fragment_offset=1, fragment_identification=draw(st.integers(1, 2)), **fields)
            )
        else:
            flags = 1 if kind == "first" else 0
            made.append(
                packet(at, *ends, UDP, fragment_flags=flags, fragment_identification=draw(st.integers(1, 2)), **fields)
            )
    return made


class SlowMeter:
    """The rules in `metering`, with lists and dictionaries."""

    def __init__(self, max_flows, is_biflow, by_class_of_service):
        self.max_flows, self.is_biflow, self.by_class_of_service = max_flows, is_biflow, by_class_of_service
        self.open, self.records, self.clock, self.count, self.datagrams = {}, [], None, 0, {}

    def end(self, key, reason):
        self.records.append({**self.open.pop(key), "flow_end_reason": reason})

    def expire(self):
        while True:
            due = []
            for key, flow in self.open.items():
                if flow["closed"] is not None:
                    due.append((flow["closed"][0] + LINGER_MS * NS, 0, flow["closed"][1], key, 3))
                due.append((flow["born"][0] + ACTIVE_MS * NS, 1, flow["born"][1], key, 2))
                due.append((flow["touched"][0] + IDLE_MS * NS, 2, flow["touched"][1], key, 1))
            at, *_, key, reason = min(due, default=(float("inf"), None, 0), key=lambda d: d[:3])
            if at > self.clock:
                return
            self.end(key, reason)

    def flush(self):
        for key in sorted(self.open, key=lambda k: self.open[k]["born"]):
            self.end(key, 4)

    def push(self, row):
        row = Counter(row)  # 0 where nothing is said
        now, protocol = row["observation_time_ns"], row["protocol_identifier"]
        self.clock = now if self.clock is None else self.clock
        if now < self.clock - ACTIVE_MS * NS:
            self.flush()
            self.clock, self.datagrams = now, {}
        self.clock = max(self.clock, now)
        self.expire()
        self.count += 1
        source, destination = row["source_address"].tobytes(), row["destination_address"].tobytes()
        ports = row["source_transport_port"], row["destination_transport_port"]
        code = row["icmp_type"] << 8 | row["icmp_code"]
        datagram = source, destination, protocol, row["fragment_identification"], row["vlan_id"]
        if row["fragment_offset"]:
            ports = self.datagrams.get(datagram, (0, 0))
        elif row["fragment_flags"]:
            self.datagrams[datagram] = ports
        ends = (source, ports[0]), (destination, ports[1])
        tail = (
            protocol,
            row["ip_version"],
            row["vlan_id"],
            row["ip_class_of_service"] if self.by_class_of_service else 0,
        )
        key = (frozenset(ends), *tail) if self.is_biflow else (*ends, code, *tail)
        other = None if self.is_biflow else (*ends[::-1], code, *tail)
        flags = row["tcp_control_bits"]
        if key in self.open and self.open[key]["closed"] and flags & (SYN | RST) == SYN:
            self.end(key, 3)
        if key not in self.open:
            if len(self.open) == self.max_flows:
                self.end(min(self.open, key=lambda k: self.open[k]["touched"]), 5)
            self.open[key] = {
                "ends": ends, "protocol": protocol, "code": code, "vlan": row["vlan_id"], "start": now, "end": now,
                "counts": [0, 0, 0], "reverse": [0, 0, 0], "born": (self.clock, self.count), "closed": None,
                "service": row["ip_class_of_service"],
            }  # fmt: skip
        flow = self.open[key]
        flow["touched"] = (self.clock, self.count)
        flow["start"], flow["end"] = min(flow["start"], now), max(flow["end"], now)
        way = flow["counts"] if ends == flow["ends"] else flow["reverse"]
        way[0] += 1
        way[1] += row["ip_total_length"]
        way[2] |= flags
        if self.is_biflow:
            is_over = flow["counts"][2] & flow["reverse"][2] & FIN
        else:
            is_over = other in self.open and flow["counts"][2] & self.open[other]["counts"][2] & FIN
        if flags & RST or (flags & FIN and is_over):
            for k in (key, other):
                if k in self.open and self.open[k]["closed"] is None:
                    self.open[k]["closed"] = (self.clock, self.count + (k == other) * 0.5)


def described(table):
    return [
        {
            "ends": (
                (table.source_address[i].tobytes(), int(table.source_transport_port[i])),
                (table.destination_address[i].tobytes(), int(table.destination_transport_port[i])),
            ),
            "protocol": int(table.protocol_identifier[i]),
            "code": int(table.icmp_type_code[i]),
            "vlan": int(table.vlan_id[i]),
            "service": int(table.ip_class_of_service[i]),
            "start": int(table.flow_start_ns[i]),
            "end": int(table.flow_end_ns[i]),
            "counts": [
                int(table.packet_delta_count[i]),
                int(table.octet_delta_count[i]),
                int(table.tcp_control_bits[i]),
            ],
            "reverse": [
                int(table.reverse_packet_delta_count[i]),
                int(table.reverse_octet_delta_count[i]),
                int(table.reverse_tcp_control_bits[i]),
            ],
            "flow_end_reason": int(table.flow_end_reason[i]),
        }
        for i in range(len(table))
    ]


OPTIONS = st.fixed_dictionaries(
    {"max_flows": st.sampled_from([1, 2, 3, 100]), "is_biflow": st.booleans(), "by_class_of_service": st.booleans()}
)


def meter_with(options):
    seconds = {"idle_timeout_s": IDLE_MS / 1e3, "active_timeout_s": ACTIVE_MS / 1e3, "linger_s": LINGER_MS / 1e3}
    return FlowMeter(**seconds, **options)


def metered(made, options, edges=()):
    meter = meter_with(options)
    edges = [0, *sorted(min(edge, len(made)) for edge in edges), len(made)]
    tables = [meter.push(batch_of(made[a:b])) for a, b in pairwise(edges)]
    return FlowTable.concatenate([*tables, meter.flush()])


@given(rows(), OPTIONS)
def test_metering_agrees_with_dictionaries(made, options):
    slow = SlowMeter(**options)
    for row in made:
        slow.push(row)
    slow.flush()
    names = ("born", "touched", "closed")
    assert described(metered(made, options)) == [
        {name: value for name, value in record.items() if name not in names} for record in slow.records
    ]


@given(rows(), OPTIONS, st.lists(st.integers(0, 60), max_size=5))
def test_any_batching_gives_the_same_records(made, options, edges):
    whole, pieces = metered(made, options), metered(made, options, edges)
    for name in FLOW_FIELDS:
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name), err_msg=name)


@given(rows(), OPTIONS)
def test_every_packet_and_octet_is_in_one_record(made, options):
    table = metered(made, options)
    assert int(table.scaled_packet_count.sum()) == len(made)
    assert int(table.scaled_octet_count.sum()) == sum(row["ip_total_length"] for row in made)
    assert int(table.flow_end_ns.max() if made else 0) == max((r["observation_time_ns"] for r in made), default=0)
    assert (table.tcp_control_bits[table.protocol_identifier != TCP] == 0).all()


@given(rows(), OPTIONS)
def test_no_more_flows_are_open_than_there_is_room(made, options):
    meter = meter_with(options)
    for row in made:
        meter.push(batch_of([row]))
        assert meter.open_flow_count <= options["max_flows"]
