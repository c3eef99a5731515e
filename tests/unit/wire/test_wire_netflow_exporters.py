"""What is known of an exporter: sampling, sequence numbers, statistics; and IPFIX streams in pieces."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import numpy as np
import pytest
from made_exports import (
    BASE,
    EXPORTER,
    NOW_NS,
    VARIABLE,
    Field,
    address,
    arrays,
    data_set,
    decode,
    ipfix,
    options_template_set,
    record,
    template_set,
    v5,
    v5_record,
    v9,
)

from nsstream.errors import WireError
from nsstream.wire.netflow import ExportDecoder, MessageSplitter

TEMPLATE = template_set(10, 256, BASE)
DATA = data_set(256, record(BASE))
WITH_SAMPLER: tuple[Field, ...] = (*BASE, (48, 2))


def options_of(fields: tuple[Field, ...], *records: bytes, version: int = 10) -> bytes:
    sets = options_template_set(version, 300, [(1, 4) if version == 9 else (149, 4)], fields), data_set(300, *records)
    return v9(*sets) if version == 9 else ipfix(*sets)


class TestSampling:
    def test_nobody_tells(self) -> None:
        assert decode(ipfix(TEMPLATE, DATA)).sampling_interval.tolist() == [1]

    def test_v5s_header_has_14_bits_of_interval(self) -> None:
        flows = decode(v5(v5_record(), sampling=0xC000 | 512), v5(v5_record(), sampling=0x4000), v5(v5_record()))
        assert flows.sampling_interval.tolist() == [512, 1, 1]

    def test_record_tells_itself(self) -> None:
        fields: tuple[Field, ...] = (*BASE, (34, 4))
        flows = decode(ipfix(template_set(10, 256, fields), data_set(256, record(fields, {34: 77}))))
        assert flows.sampling_interval.tolist() == [77]
        assert flows.packet_delta_count.tolist() == [5]
        assert flows.scaled_packet_count.tolist() == [385]

    @pytest.mark.parametrize("version", [9, 10])
    def test_options_of_the_exporter(self, version: int) -> None:
        decoder = ExportDecoder()
        make = v9 if version == 9 else ipfix
        before = make(template_set(version, 256, BASE), DATA)
        options = options_of(((34, 4), (35, 1)), struct.pack("!IIB", 1, 1000, 2), version=version)
        assert decode(before, options, make(DATA), decoder=decoder).sampling_interval.tolist() == [1, 1000]
        assert decoder.exporters[0].sampling_interval == 1000

    @pytest.mark.parametrize(
        ("fields", "values", "interval"),
        [
            (((304, 2), (305, 4), (306, 4)), struct.pack("!HII", 1, 1, 99), 100),
            (((304, 2), (305, 4), (306, 4)), struct.pack("!HII", 1, 10, 990), 100),
            (((309, 4), (310, 4)), struct.pack("!II", 1, 64), 64),
            (((311, 8),), struct.pack("!d", 0.002), 500),
            (((50, 4), (49, 1)), struct.pack("!IB", 2048, 2), 2048),
            (((311, 8),), struct.pack("!d", float("nan")), 1),
            (((311, 8),), struct.pack("!d", -1.0), 1),
            (((34, 8),), struct.pack("!Q", 2**64 - 1), 1),
            (((34, 8),), struct.pack("!Q", 2**40), 1),
        ],
    )
    def test_every_way_to_say_it(self, fields: tuple[Field, ...], values: bytes, interval: int) -> None:
        options = options_of(fields, struct.pack("!I", 7) + values)
        assert decode(options, ipfix(TEMPLATE, DATA)).sampling_interval.tolist() == [interval]

    def test_records_name_their_sampler(self) -> None:
        options = options_of(((48, 2), (50, 4)), struct.pack("!IHI", 7, 1, 10), struct.pack("!IHI", 7, 2, 20))
        records = [record(WITH_SAMPLER, {48: sampler}) for sampler in (2, 1, 3)]
        flows = decode(options, ipfix(template_set(10, 256, WITH_SAMPLER), data_set(256, *records)))
        assert flows.sampling_interval.tolist() == [20, 10, 1]

    def test_selectors_of_rfc_5477_too(self) -> None:
        fields: tuple[Field, ...] = (*BASE, (302, 8))
        options = options_of(((302, 8), (305, 4), (306, 4)), struct.pack("!IQII", 7, 2**63, 1, 9))
        flows = decode(options, ipfix(template_set(10, 256, fields), data_set(256, record(fields, {302: 2**63}))))
        assert flows.sampling_interval.tolist() == [10]

    def test_the_only_sampler_holds_for_records_that_name_none(self) -> None:
        options = options_of(((48, 2), (50, 4)), struct.pack("!IHI", 7, 5, 10))
        assert decode(options, ipfix(TEMPLATE, DATA)).sampling_interval.tolist() == [10]

    def test_the_number_of_samplers_is_bounded(self) -> None:
        decoder = ExportDecoder()
        options = options_of(((48, 2), (50, 4)), *(struct.pack("!IHI", 7, i, i + 1) for i in range(1, 1000)))
        decode(options, decoder=decoder)
        assert list(decoder.exporters[0].samplers) == list(range(1000 - 256, 1000))

    def test_options_of_variable_length(self) -> None:
        options = options_of(((82, VARIABLE), (34, 4)), b"\0\0\0\7\5eth0/\0\0\0\x64")
        assert decode(options, ipfix(TEMPLATE, DATA)).sampling_interval.tolist() == [100]

    def test_v9s_scope_types_are_no_elements(self) -> None:
        # scope type 2 (interface) must not be read as element 2, nor 4 (cache) as a protocol
        options = (
            options_template_set(9, 300, [(2, 4), (34, 4)], [(50, 4)]),
            data_set(300, struct.pack("!III", 9, 8, 7)),
        )
        flows = decode(v9(*options), v9(template_set(9, 256, BASE), DATA))
        assert flows.sampling_interval.tolist() == [7]


class TestSequence:
    @staticmethod
    def lost(*messages: bytes) -> int:
        decoder = ExportDecoder()
        decode(*messages, decoder=decoder)
        return decoder.exporters[0].estimated_lost

    def test_v9_counts_datagrams(self) -> None:
        assert self.lost(v9(sequence=25), v9(sequence=26), v9(sequence=30)) == 3

    def test_v5_counts_records(self) -> None:
        two = v5_record(), v5_record()
        assert self.lost(v5(*two, sequence=100), v5(*two, sequence=102), v5(*two, sequence=110)) == 6

    def test_ipfix_counts_data_records_those_of_options_too(self) -> None:
        options = options_template_set(10, 300, [(149, 4)], [(346, 4)]), data_set(300, bytes(16))
        assert self.lost(ipfix(TEMPLATE, DATA, *options, sequence=0), ipfix(DATA, sequence=3)) == 0
        assert self.lost(ipfix(TEMPLATE, DATA, *options, sequence=0), ipfix(DATA, sequence=9)) == 6

    def test_reordered_datagrams_are_not_lost(self) -> None:
        assert self.lost(*(v9(sequence=i) for i in (0, 1, 4, 2, 3, 5, 7, 6, 8))) == 0

    def test_number_wraps_at_32_bits(self) -> None:
        assert self.lost(v9(sequence=2**32 - 1), v9(sequence=0), v9(sequence=2)) == 1

    def test_restart_is_no_loss(self) -> None:
        decoder = ExportDecoder()
        messages = [v9(sequence=5_000_000), v9(sequence=0, uptime_ms=10), v9(sequence=1), v9(sequence=3)]
        decode(*messages, decoder=decoder)
        assert (decoder.exporters[0].estimated_lost, decoder.exporters[0].sequence_resets) == (1, 1)

    def test_restart_that_only_the_uptime_tells(self) -> None:
        decoder = ExportDecoder()
        decode(v9(sequence=10, uptime_ms=900_000), v9(sequence=50, uptime_ms=1000), decoder=decoder)
        assert (decoder.exporters[0].estimated_lost, decoder.exporters[0].sequence_resets) == (0, 1)

    def test_data_without_template_leaves_the_number_open(self) -> None:
        assert self.lost(ipfix(DATA, sequence=0), ipfix(TEMPLATE, sequence=77), ipfix(DATA, sequence=77)) == 0

    def test_exporter_that_counts_a_messages_own_records_first_has_lost_nothing(self) -> None:
        total, messages = 0, [ipfix(TEMPLATE, sequence=0)]
        for count in (3, 5, 2, 9, 1, 4, 4, 7, 3, 8):
            total += count
            messages.append(ipfix(data_set(256, *[record(BASE)] * count), sequence=total))
        assert self.lost(*messages) <= 9


def test_statistics_tell_what_is_known_of_each_exporter() -> None:
    decoder = ExportDecoder()
    six = address("2001:db8::5")
    messages = [ipfix(TEMPLATE, DATA, DATA), v5(v5_record(), sampling=100)]
    decoder.decode(*arrays(messages, [six, EXPORTER], [NOW_NS, NOW_NS + 1]))
    one, two = decoder.exporters
    assert (one.address, one.port, one.version, one.observation_domain_id) == (ip_address("2001:db8::5"), None, 10, 7)
    assert (one.datagrams, one.records, one.templates, one.last_seen_ns) == (1, 2, 1, NOW_NS)
    assert (two.address, two.version, two.records, two.sampling_interval) == (ip_address("192.0.2.1"), 5, 1, 100)


def test_port_of_a_connection_is_in_the_statistics() -> None:
    decoder = ExportDecoder()
    decoder.decode(*arrays([ipfix(TEMPLATE)]), np.array([50_000], np.uint16))
    assert decoder.exporters[0].port == 50_000


class TestMessageSplitter:
    MESSAGES = (ipfix(TEMPLATE), ipfix(DATA, DATA), ipfix(), ipfix(data_set(256, bytes(60000))))

    def test_octet_by_octet(self) -> None:
        splitter = MessageSplitter()
        stream = b"".join(self.MESSAGES[:3])
        assert [m for i in range(len(stream)) for m in splitter.feed(stream[i : i + 1])] == list(self.MESSAGES[:3])
        splitter.finish()

    def test_all_at_once(self) -> None:
        splitter = MessageSplitter()
        assert splitter.feed(b"".join(self.MESSAGES)) == list(self.MESSAGES)
        splitter.finish()

    @pytest.mark.parametrize("junk", [b"\0\x09\0\x14" + bytes(16), b"junk", b"\0\x0a\0\x0f"])
    def test_what_is_no_ipfix_raises_after_the_messages_before_it(self, junk: bytes) -> None:
        splitter = MessageSplitter()
        assert splitter.feed(self.MESSAGES[0] + junk) == [self.MESSAGES[0]]
        with pytest.raises(WireError, match=f"octet {len(self.MESSAGES[0])} "):
            splitter.feed(b"")
        with pytest.raises(WireError):
            splitter.finish()

    def test_junk_from_the_start_raises_at_once(self) -> None:
        with pytest.raises(WireError, match="version 8224"):
            MessageSplitter().feed(b"  ")

    def test_stream_that_ends_in_a_message_is_cut(self) -> None:
        splitter = MessageSplitter()
        assert splitter.feed(self.MESSAGES[1][:-1]) == []
        with pytest.raises(WireError, match="cut"):
            splitter.finish()
