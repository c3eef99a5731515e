"""Times of flows, however an exporter writes them; and what is flagged where they cannot be trusted."""

from __future__ import annotations

import struct

import pytest
from made_exports import (
    BASE,
    NOW_NS,
    NOW_S,
    Field,
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

from nsstream.trace import TimeQuality
from nsstream.wire.netflow import ExportDecoder

S = 10**9
MS = 10**6
NTP_S = NOW_S + 2_208_988_800
WRAP_MS = 1 << 32


def ntp(seconds_before: int, fraction: int) -> int:
    return (NTP_S - seconds_before) % 2**32 << 32 | fraction


def times_of(
    fields: tuple[Field, ...], values: dict[int, int | bytes], *, version: int = 10, uptime_ms: int = 1_000_000,
    decoder: ExportDecoder | None = None,
) -> tuple[int, int, int]:  # fmt: skip
    """Start and end before now, in ns, and the quality, of one record."""
    fields = (*BASE, *fields)
    sets = template_set(version, 256, fields), data_set(256, record(fields, values))
    flows = decode(v9(*sets, uptime_ms=uptime_ms) if version == 9 else ipfix(*sets), decoder=decoder)
    return NOW_NS - int(flows.flow_start_ns[0]), NOW_NS - int(flows.flow_end_ns[0]), int(flows.time_quality[0])


@pytest.mark.parametrize(
    ("start", "end", "octets", "values", "expected"),
    [
        (150, 151, 4, (NOW_S - 9, NOW_S - 1), (9 * S, S)),
        (152, 153, 8, (NOW_S * 1000 - 9001, NOW_S * 1000 - 1), (9001 * MS, MS)),
        (154, 155, 8, (ntp(9, 0), ntp(1, 1 << 31)), (9 * S, S // 2)),
        (156, 157, 8, (ntp(9, 0), ntp(1, 1 << 30)), (9 * S, 3 * S // 4)),
        (158, 159, 4, (9_000_001, 1), (9_000_001_000, 1000)),
        (322, 322, 4, (NOW_S - 3, NOW_S - 3), (3 * S, 3 * S)),
    ],
)
def test_absolute_and_delta_times(
    start: int, end: int, octets: int, values: tuple[int, int], expected: tuple[int, int]
) -> None:
    fields: tuple[Field, ...] = ((start, octets),) if start == end else ((start, octets), (end, octets))
    assert times_of(fields, {start: values[0], end: values[1]}) == (*expected, TimeQuality.EXACT)


@pytest.mark.parametrize("microseconds", [1, 333_333, 500_000, 999_999])
def test_microseconds_in_an_ntp_timestamp_come_back_exactly(microseconds: int) -> None:
    fraction = (microseconds << 32) // 10**6  # rounded down, as encoders do
    fields: tuple[Field, ...] = ((154, 8), (155, 8))
    start, _, _ = times_of(fields, {154: ntp(5, fraction), 155: ntp(1, 0)})
    assert abs(start - (5 * S - microseconds * 1000)) <= 1000
    start, _, _ = times_of(((156, 8), (157, 8)), {156: ntp(5, fraction + 1), 157: ntp(1, 0)})
    assert abs(start - (5 * S - microseconds * 1000)) <= 1


def test_ntp_timestamps_go_on_after_2036() -> None:
    now_s = 2_100_000_000  # 2036-07-18
    fields: tuple[Field, ...] = (*BASE, (156, 8), (157, 8))
    times = {156: (now_s - 9 + 2_208_988_800) % 2**32 << 32, 157: (now_s - 1 + 2_208_988_800) % 2**32 << 32}
    sets = template_set(10, 256, fields), data_set(256, record(fields, times))
    decoder = ExportDecoder()
    flows = decoder.decode_message(ipfix(*sets, now_s=now_s), bytes(16), now_s * S)
    assert (flows.flow_start_ns[0], flows.flow_end_ns[0]) == ((now_s - 9) * S, (now_s - 1) * S)


@pytest.mark.parametrize("start_first", [True, False])
def test_absolute_times_go_before_uptime(start_first: bool) -> None:
    fields: tuple[Field, ...] = ((22, 4), (21, 4), (152, 8), (153, 8))
    values: dict[int, int | bytes] = {22: 1, 21: 2, 152: NOW_S * 1000 - 50, 153: NOW_S * 1000 - 20}
    assert times_of(fields if start_first else fields[::-1], values, version=9) == (50 * MS, 20 * MS, 0)


class TestUptime:
    FIELDS: tuple[Field, ...] = ((22, 4), (21, 4))

    def test_v9_is_relative_to_its_header(self) -> None:
        assert times_of(self.FIELDS, {22: 990_000, 21: 999_999}, version=9) == (10 * S, MS, 0)

    def test_wrap_between_flow_and_export(self) -> None:
        values: dict[int, int | bytes] = {22: WRAP_MS - 3000, 21: WRAP_MS - 1000}
        assert times_of(self.FIELDS, values, version=9, uptime_ms=500) == (3500 * MS, 1500 * MS, 0)

    def test_wrap_between_start_and_end(self) -> None:
        values: dict[int, int | bytes] = {22: WRAP_MS - 3000, 21: 200}
        assert times_of(self.FIELDS, values, version=9, uptime_ms=500) == (3500 * MS, 300 * MS, 0)

    def test_end_slightly_ahead_of_the_header_is_no_wrap(self) -> None:
        assert times_of(self.FIELDS, {22: 999_000, 21: 1_000_020}, version=9) == (S, -20 * MS, 0)

    def test_v5_wraps_too(self) -> None:
        flows = decode(v5(v5_record(first=WRAP_MS - 3000, last=200), uptime_ms=500))
        assert NOW_NS - int(flows.flow_start_ns[0]) == 3500 * MS
        assert NOW_NS - int(flows.flow_end_ns[0]) == 300 * MS

    def test_ipfix_is_relative_to_the_system_init_time_of_an_options_record(self) -> None:
        decoder = ExportDecoder()
        init_ms = NOW_S * 1000 - 1_000_000
        options = options_template_set(10, 300, [(143, 4)], [(160, 8)])
        decode(ipfix(options, data_set(300, struct.pack("!IQ", 1, init_ms))), decoder=decoder)
        assert times_of(self.FIELDS, {22: 990_000, 21: 999_999}, decoder=decoder) == (10 * S, MS, 0)

    def test_ipfix_system_up_for_longer_than_the_wrap(self) -> None:
        decoder = ExportDecoder()
        init_ms = NOW_S * 1000 - WRAP_MS - 500
        options = options_template_set(10, 300, [(143, 4)], [(160, 8)])
        decode(ipfix(options, data_set(300, struct.pack("!IQ", 1, init_ms))), decoder=decoder)
        assert times_of(self.FIELDS, {22: WRAP_MS - 3000, 21: 200}, decoder=decoder) == (3500 * MS, 300 * MS, 0)

    def test_ipfix_system_init_time_in_the_record_itself(self) -> None:
        values: dict[int, int | bytes] = {160: NOW_S * 1000 - 1_000_000, 22: 990_000, 21: 999_999}
        assert times_of((*self.FIELDS, (160, 8)), values) == (10 * S, MS, 0)

    def test_ipfix_without_system_init_time_takes_the_newest_end_for_the_export_and_says_so(self) -> None:
        guessed = times_of(self.FIELDS, {22: 990_000, 21: 999_000})
        assert guessed == (9 * S, 0, TimeQuality.GUESSED_UPTIME)

    def test_the_guess_gets_better_with_what_comes(self) -> None:
        fields = (*BASE, *self.FIELDS)
        decoder = ExportDecoder()
        messages = [
            ipfix(template_set(10, 256, fields), data_set(256, record(fields, {22: 900_000, 21: 900_000}))),
            ipfix(data_set(256, record(fields, {22: 950_000, 21: 990_000}))),  # 90 s later in 0 s: the first was old
            ipfix(data_set(256, record(fields, {22: 900_000, 21: 900_000}))),
        ]
        flows = decode(*messages, decoder=decoder)
        assert (NOW_NS - flows.flow_end_ns).tolist() == [0, 0, 90 * S]
        assert set(flows.time_quality.tolist()) == {TimeQuality.GUESSED_UPTIME}

    def test_the_guess_starts_anew_when_the_exporter_does(self) -> None:
        fields = (*BASE, *self.FIELDS)
        decoder = ExportDecoder()
        messages = [
            ipfix(template_set(10, 256, fields), data_set(256, record(fields, {22: 90_000_000, 21: 90_000_000}))),
            ipfix(data_set(256, record(fields, {22: 1000, 21: 5000}))),
        ]
        flows = decode(*messages, decoder=decoder)
        assert (NOW_NS - flows.flow_end_ns).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("fields", "values", "expected"),
    [
        (((152, 8), (161, 4)), {152: NOW_S * 1000 - 5000, 161: 3000}, (5 * S, 2 * S)),
        (((153, 8), (162, 4)), {153: NOW_S * 1000 - 1000, 162: 250_000}, (1250 * MS, S)),
        (((152, 8),), {152: NOW_S * 1000 - 5000}, (5 * S, 5 * S)),
        (((153, 8),), {153: NOW_S * 1000 - 5000}, (5 * S, 5 * S)),
    ],
)
def test_one_time_and_a_duration_make_two(
    fields: tuple[Field, ...], values: dict[int, int | bytes], expected: tuple[int, int]
) -> None:
    assert times_of(fields, values) == (*expected, TimeQuality.EXACT)


def test_record_without_times_has_those_of_the_export() -> None:
    assert times_of((), {}) == (0, 0, TimeQuality.EXPORT_TIME)


def test_absolute_times_of_zero_are_none() -> None:
    assert times_of(((152, 8), (153, 8)), {}) == (0, 0, TimeQuality.EXPORT_TIME)


def test_end_before_start_is_clamped() -> None:
    values: dict[int, int | bytes] = {152: NOW_S * 1000 - 1000, 153: NOW_S * 1000 - 5000}
    assert times_of(((152, 8), (153, 8)), values) == (5 * S, 5 * S, TimeQuality.CLAMPED)


@pytest.mark.parametrize("error_s", [-3601, 3601, -400 * 86400, 20 * 365 * 86400])
def test_flow_far_from_the_time_of_receipt_is_moved_there_with_its_duration(error_s: int) -> None:
    values: dict[int, int | bytes] = {152: (NOW_S + error_s) * 1000 - 7000, 153: (NOW_S + error_s) * 1000}
    assert times_of(((152, 8), (153, 8)), values) == (7 * S, 0, TimeQuality.CLAMPED)


@pytest.mark.parametrize("error_s", [-3600, 0, 3600])
def test_flow_within_the_clock_error_is_left(error_s: int) -> None:
    values: dict[int, int | bytes] = {152: (NOW_S + error_s) * 1000, 153: (NOW_S + error_s) * 1000}
    assert times_of(((152, 8), (153, 8)), values) == (-error_s * S, -error_s * S, TimeQuality.EXACT)


def test_clock_error_is_the_operators_to_choose() -> None:
    values: dict[int, int | bytes] = {152: (NOW_S - 7200) * 1000, 153: (NOW_S - 7200) * 1000}
    decoder = ExportDecoder(max_clock_error_s=7200)
    assert times_of(((152, 8), (153, 8)), values, decoder=decoder) == (7200 * S, 7200 * S, TimeQuality.EXACT)


@pytest.mark.parametrize("element", [150, 152, 154, 156, 158])
def test_nonsense_in_all_64_bits_is_clamped_and_never_overflows(element: int) -> None:
    for value in (2**64 - 1, 2**63, 2**63 - 1, 1, 2**32):
        start, end, quality = times_of(((element, 8), (element + 1, 8)), {element: value, element + 1: value})
        assert start >= end
        if quality & TimeQuality.CLAMPED:
            assert (start, end) == (0, 0)
        else:
            assert element == 158
            assert value == 1
