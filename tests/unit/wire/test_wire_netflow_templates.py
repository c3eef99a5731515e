"""Templates: scope, redefinition, withdrawal, expiry, bounds; and data that comes before its template."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from made_exports import (
    BASE,
    EXPORTER,
    NOW_NS,
    OTHER_EXPORTER,
    Field,
    arrays,
    data_set,
    decode,
    ipfix,
    options_template_set,
    record,
    template_set,
    v9,
)

from nsstream.trace import FlowTable
from nsstream.wire.netflow import ExportDecoder

S = 10**9
SWAPPED: tuple[Field, ...] = ((12, 4), (8, 4), *BASE[2:])
DATA = data_set(256, record(BASE))
TEMPLATE = template_set(10, 256, BASE)
WITHDRAWAL = data_set(2, struct.pack("!HH", 256, 0))


def over_tcp(decoder: ExportDecoder, *messages: bytes, port: int = 4444, at_ns: int = NOW_NS) -> FlowTable:
    octets, offset, exporter, times_ns = arrays(messages, None, [at_ns] * len(messages))
    flows = decoder.decode(octets, offset, exporter, times_ns, np.full(len(messages), port, np.uint16))
    decoder.tally.check()
    return flows


def first_source(flows: FlowTable) -> list[int]:
    return flows.source_address[:, 15].tolist()


class TestScope:
    @pytest.mark.parametrize("version", [9, 10])
    def test_domains_of_one_exporter_have_templates_of_their_own(self, version: int) -> None:
        def of(domain: int, *sets: bytes) -> bytes:
            return v9(*sets, source_id=domain) if version == 9 else ipfix(*sets, domain=domain)

        one, two = template_set(version, 256, BASE), template_set(version, 256, SWAPPED)
        assert first_source(decode(of(1, one), of(2, two), of(1, DATA), of(2, DATA))) == [1, 2]

    def test_exporters_have_templates_of_their_own(self) -> None:
        messages = [ipfix(TEMPLATE), ipfix(template_set(10, 256, SWAPPED)), ipfix(DATA), ipfix(DATA)]
        flows = ExportDecoder().decode(*arrays(messages, [EXPORTER, OTHER_EXPORTER] * 2))
        assert first_source(flows) == [1, 2]

    def test_v9_and_ipfix_have_templates_of_their_own(self) -> None:
        swapped = template_set(9, 256, SWAPPED)
        assert first_source(decode(ipfix(TEMPLATE), v9(swapped), ipfix(DATA), v9(DATA))) == [1, 2]

    def test_connections_of_one_exporter_have_templates_of_their_own(self) -> None:
        decoder = ExportDecoder()
        over_tcp(decoder, ipfix(TEMPLATE), port=1)
        over_tcp(decoder, ipfix(template_set(10, 256, SWAPPED)), port=2)
        assert first_source(over_tcp(decoder, ipfix(DATA), port=1)) == [1]
        assert first_source(over_tcp(decoder, ipfix(DATA), port=2)) == [2]

    def test_connection_that_ends_takes_its_templates_along(self) -> None:
        decoder = ExportDecoder()
        over_tcp(decoder, ipfix(TEMPLATE), ipfix(data_set(300, bytes(20))))
        decoder.end_connection(EXPORTER, 4444)
        decoder.tally.check()
        assert dict(decoder.tally.malformed) == {"no_template": 1}
        assert decoder.exporters == []
        assert len(over_tcp(decoder, ipfix(DATA))) == 0


@pytest.mark.parametrize("version", [9, 10])
def test_redefinition_holds_for_what_follows(version: int) -> None:
    make = v9 if version == 9 else ipfix
    one, two = template_set(version, 256, BASE), template_set(version, 256, SWAPPED)
    assert first_source(decode(make(one, DATA), make(DATA, two, DATA), make(DATA))) == [1, 1, 2, 2]


def test_several_templates_in_one_set() -> None:
    both = data_set(2, TEMPLATE[4:], template_set(10, 257, SWAPPED)[4:], padding=bytes(3))
    assert first_source(decode(ipfix(both, DATA, data_set(257, record(BASE))))) == [1, 2]


class TestWithdrawal:
    def test_over_tcp_it_is_obeyed(self) -> None:
        decoder = ExportDecoder()
        assert len(over_tcp(decoder, ipfix(TEMPLATE, DATA), ipfix(WITHDRAWAL), ipfix(DATA))) == 1
        assert decoder.tally.parked == 1

    def test_over_udp_it_is_not(self) -> None:
        assert len(decode(ipfix(TEMPLATE, DATA), ipfix(WITHDRAWAL), ipfix(DATA))) == 2

    def test_all_templates_at_once_but_not_those_of_options(self) -> None:
        decoder = ExportDecoder()
        options = options_template_set(10, 300, [(149, 4)], [(34, 4)])
        over_tcp(decoder, ipfix(TEMPLATE, template_set(10, 257, BASE), options))
        over_tcp(decoder, ipfix(data_set(2, struct.pack("!HH", 2, 0))))
        assert decoder.exporters[0].templates == 1
        over_tcp(decoder, ipfix(data_set(3, struct.pack("!HH", 3, 0))))
        assert decoder.exporters[0].templates == 0


class TestExpiry:
    def test_template_that_was_not_announced_again_holds_no_more(self) -> None:
        decoder = ExportDecoder(template_lifetime_s=100)
        times_ns = [NOW_NS, NOW_NS + 100 * S, NOW_NS + 101 * S]
        flows = decoder.decode(*arrays([ipfix(TEMPLATE), ipfix(DATA), ipfix(DATA)], None, times_ns))
        assert len(flows) == 1
        assert decoder.tally.parked == 1

    def test_announcement_renews_it(self) -> None:
        decoder = ExportDecoder(template_lifetime_s=100)
        times_ns = [NOW_NS, NOW_NS + 90 * S, NOW_NS + 180 * S]
        assert len(decoder.decode(*arrays([ipfix(TEMPLATE), ipfix(TEMPLATE), ipfix(DATA)], None, times_ns))) == 1

    def test_over_tcp_templates_hold_as_long_as_the_connection(self) -> None:
        decoder = ExportDecoder(template_lifetime_s=100)
        over_tcp(decoder, ipfix(TEMPLATE))
        assert len(over_tcp(decoder, ipfix(DATA), at_ns=NOW_NS + 10_000 * S)) == 1


class TestParking:
    def test_data_before_its_template_waits_for_it(self) -> None:
        decoder = ExportDecoder()
        early = ipfix(data_set(256, record(BASE, {11: 1}), record(BASE, {11: 2})))
        assert len(decode(early, decoder=decoder)) == 0
        assert (decoder.tally.offered, decoder.tally.parked) == (1, 1)
        late = ipfix(data_set(256, record(BASE, {11: 3})), TEMPLATE, data_set(256, record(BASE, {11: 4})))
        assert decode(late, decoder=decoder).destination_transport_port.tolist() == [1, 2, 3, 4]
        assert (decoder.tally.offered, decoder.tally.parked, decoder.tally.kept) == (4, 0, 4)

    def test_it_is_read_by_its_own_header(self) -> None:
        decoder = ExportDecoder()
        fields: tuple[Field, ...] = (*BASE, (22, 4), (21, 4))
        times: dict[int, int | bytes] = {22: 1_000_000, 21: 1_000_000}
        decode(v9(data_set(256, record(fields, times)), uptime_ms=1_000_500), decoder=decoder)
        flows = decode(v9(template_set(9, 256, fields), uptime_ms=1_900_000), decoder=decoder)
        assert flows.flow_end_ns.tolist() == [NOW_NS - 500_000_000]

    def test_only_the_template_of_its_own_exporter_and_domain_will_do(self) -> None:
        decoder = ExportDecoder()
        decode(ipfix(DATA), decoder=decoder)
        decode(ipfix(TEMPLATE, domain=8), v9(template_set(9, 256, BASE)), ipfix(template_set(10, 257, BASE)),
               decoder=decoder)  # fmt: skip
        assert decoder.tally.parked == 1

    def test_what_waits_too_long_is_counted(self) -> None:
        decoder = ExportDecoder(max_parked_age_s=60)
        messages = [ipfix(DATA), ipfix(DATA), ipfix(TEMPLATE)]
        flows = decoder.decode(*arrays(messages, None, [NOW_NS, NOW_NS + 30 * S, NOW_NS + 61 * S]))
        decoder.tally.check()
        assert len(flows) == 1
        assert dict(decoder.tally.malformed) == {"no_template": 1}

    def test_the_oldest_gives_way_when_there_is_no_room(self) -> None:
        decoder = ExportDecoder(max_parked_bytes=3 * (256 + len(DATA)))
        messages = [ipfix(data_set(256, record(BASE, {11: port}))) for port in range(10)]
        decode(*messages, decoder=decoder)
        assert (decoder.tally.parked, decoder.tally.malformed["no_template"]) == (3, 7)
        assert decode(ipfix(TEMPLATE), decoder=decoder).destination_transport_port.tolist() == [7, 8, 9]

    def test_a_set_larger_than_all_the_room_is_counted_at_once(self) -> None:
        decoder = ExportDecoder(max_parked_bytes=300)
        decode(ipfix(data_set(256, bytes(200))), decoder=decoder)
        assert (decoder.tally.parked, decoder.tally.malformed["no_template"]) == (0, 1)

    def test_parked_options_take_effect_and_count_one_record_a_set(self) -> None:
        decoder = ExportDecoder()
        decode(ipfix(data_set(300, struct.pack("!II", 7, 100))), decoder=decoder)
        decode(ipfix(options_template_set(10, 300, [(149, 4)], [(34, 4)])), decoder=decoder)
        assert decoder.tally.parked == 0
        assert dict(decoder.tally.unsupported) == {"parked_options": 1}
        assert decode(ipfix(TEMPLATE, DATA), decoder=decoder).sampling_interval.tolist() == [100]


class TestUnreadableTemplates:
    @pytest.mark.parametrize(
        "body",
        [
            struct.pack("!HH", 256, 3) + bytes(8),  # cut
            struct.pack("!HHHH", 255, 1, 8, 4),  # an id of sets
            struct.pack("!HHHH", 256, 1, 8, 0),  # no octet a record
            struct.pack("!HH", 256, 2000) + bytes(8000),  # too many fields
            struct.pack("!HHH", 256, 1, 0x8008) + bytes(2),  # enterprise number cut
            struct.pack("!HH", 255, 0),  # withdraws what cannot be
        ],
    )
    def test_they_are_counted(self, body: bytes) -> None:
        decoder = ExportDecoder()
        decode(ipfix(data_set(2, body)), decoder=decoder)
        assert dict(decoder.tally.malformed) == {"bad_template": 1}

    @pytest.mark.parametrize(
        "body",
        [
            struct.pack("!HHHHH", 256, 1, 2, 8, 4),  # more scopes than fields
            struct.pack("!HH", 256, 1),  # cut
        ],
    )
    def test_those_of_options_too(self, body: bytes) -> None:
        decoder = ExportDecoder()
        decode(ipfix(data_set(3, body)), decoder=decoder)
        assert dict(decoder.tally.malformed) == {"bad_template": 1}

    def test_v9_options_of_odd_lengths(self) -> None:
        decoder = ExportDecoder()
        decode(v9(data_set(1, struct.pack("!HHH", 256, 3, 4) + bytes(8))), decoder=decoder)
        assert dict(decoder.tally.malformed) == {"bad_template": 1}

    def test_what_stood_before_them_in_the_set_holds(self) -> None:
        broken = data_set(2, TEMPLATE[4:], struct.pack("!HH", 257, 9))
        assert len(decode(ipfix(broken, DATA))) == 1


class TestBounds:
    def test_templates_announced_longest_ago_give_way(self) -> None:
        decoder = ExportDecoder(max_templates=2)
        decode(ipfix(*(template_set(10, i, BASE) for i in (256, 257, 256, 258))), decoder=decoder)
        sets = [data_set(i, record(BASE, {11: i})) for i in (256, 257, 258)]
        assert decode(ipfix(*sets), decoder=decoder).destination_transport_port.tolist() == [256, 258]

    def test_exporters_silent_for_longest_give_way_with_all_that_is_theirs(self) -> None:
        decoder = ExportDecoder(max_exporters=2)
        for domain in (1, 2, 1, 3):
            decode(ipfix(TEMPLATE, data_set(300, bytes(8)), domain=domain), decoder=decoder)
        assert [e.observation_domain_id for e in decoder.exporters] == [1, 3]
        assert (decoder.tally.parked, decoder.tally.malformed["no_template"]) == (3, 1)
        assert [len(decode(ipfix(DATA, domain=d), decoder=decoder)) for d in (1, 3)] == [1, 1]
        assert len(decode(ipfix(DATA, domain=2), decoder=decoder)) == 0

    def test_thousands_of_exporters_in_one_batch_are_read(self) -> None:
        decoder = ExportDecoder(max_exporters=10)
        flows = decode(*(ipfix(TEMPLATE, DATA, domain=d) for d in range(3000)), decoder=decoder)
        assert len(flows) == 3000
        assert len(decoder.exporters) == 10
