"""Laws of reading tables: whatever the octets are, they are flows, counts or InputError; numbers are exact."""

from __future__ import annotations

import contextlib
import ipaddress
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pytest
from flow_tables import TABLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsstream.capture.flow_csv import FlowCsvSource
from nsstream.errors import InputError
from nsstream.trace import FlowTable
from nsstream.wire.text_addresses import parse_addresses
from nsstream.wire.text_numbers import parse_civil_times, parse_decimals, parse_split_times

SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
BITS = st.one_of(
    st.binary(max_size=12), st.sampled_from([b",", b"\n", b'"', b"\t", b"\r\n", b"\0", b"-", b"9" * 30, b"#", b"{"])
)


def read(path: Path, octets: bytes, preset: str, block_bytes: int) -> tuple[FlowTable, dict[str, object], str]:
    path.write_bytes(octets)
    source = FlowCsvSource(path, preset=preset, block_bytes=block_bytes)
    batches, complaint = [], ""
    with contextlib.closing(source):
        try:
            source.open()
            while (batch := source.read_batch()) is not None:
                source.tally.check()
                batches.append(batch)
        except InputError as err:
            complaint = str(err)
    source.tally.check()
    assert sum(map(len, batches)) == source.tally.kept
    return FlowTable.concatenate(batches), source.tally.as_dict(), complaint


@SETTINGS
@given(st.sampled_from(sorted(TABLES)), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3), BITS), max_size=6))
def test_changed_table_gives_flows_or_counts_or_an_error_of_ours(
    tmp_path: Path, preset: str, changes: list[tuple[int, int, bytes]]
) -> None:
    octets = bytearray(TABLES[preset].encode())
    for at, gone, put in changes:
        octets[at % len(octets) : at % len(octets) + gone] = put
    whole = read(tmp_path / "table", bytes(octets), preset, 1 << 20)
    parts = read(tmp_path / "table", bytes(octets), preset, 64)
    assert whole[1:] == parts[1:] or "columns change" in whole[2]  # which is seen a block at a time
    for name, column in whole[0].columns().items():
        if not whole[2]:
            np.testing.assert_array_equal(column, parts[0].columns()[name], name)


@SETTINGS
@given(st.binary(max_size=400), st.sampled_from(sorted(TABLES)))
def test_any_octets_behind_a_header_are_read_or_counted(tmp_path: Path, octets: bytes, preset: str) -> None:
    header = TABLES[preset].encode()
    read(tmp_path / "table", header + octets, preset, 1 << 20)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-(10**8), max_value=10**8))
def test_decimals_are_exact(number: Decimal) -> None:
    for text in (str(number), f"{number:E}", f" {number:+f}00"):
        values, is_number = np.zeros(1, np.int64), np.zeros(1, np.bool_)
        parse_decimals(*cells(text), 9, False, values, is_number)
        assert is_number[0]
        assert values[0] == int((number * 10**9).to_integral_value(ROUND_HALF_UP))


@given(st.ip_addresses())
def test_addresses_are_those_of_the_standard_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    texts = [str(address), address.exploded, str(address).upper()]
    for text in texts:
        octets, versions = np.zeros((1, 16), np.uint8), np.zeros(1, np.uint8)
        parse_addresses(*cells(text), octets, versions)
        mapped = ipaddress.IPv6Address(octets[0].tobytes()).ipv4_mapped
        assert (mapped or ipaddress.IPv6Address(octets[0].tobytes())) == (
            getattr(address, "ipv4_mapped", None) or address
        )


@given(st.text("0123456789abcdef:.%/", max_size=45))
def test_no_text_is_an_address_that_the_standard_library_does_not_know(text: str) -> None:
    octets, versions = np.zeros((1, 16), np.uint8), np.zeros(1, np.uint8)
    parse_addresses(*cells(text), octets, versions)
    parts = [part.lstrip("0") or "0" for part in text.partition("%")[0].split(".")] if ":" not in text else [text]
    try:
        ipaddress.ip_address(".".join(parts).partition("%")[0])
    except ValueError:
        assert versions[0] == 0
        assert not octets.any()


@given(st.datetimes(), st.sampled_from([" ", "T"]), st.sampled_from(["", "Z", "+02:00", "-0330"]))
def test_times_are_those_of_numpy(moment: object, separator: str, zone: str) -> None:
    text = f"{moment}".replace(" ", separator) + zone
    times, has_zone, is_time = np.zeros(1, np.int64), np.zeros(1, np.bool_), np.zeros(1, np.bool_)
    parse_civil_times(*cells(text), times, has_zone, is_time)
    year = int(text[:4])
    assert is_time[0] == (1970 <= year <= 2261)
    if is_time[0]:
        east_s = {"+02:00": 7200, "-0330": -12600}.get(zone, 0)
        assert times[0] == np.datetime64(f"{moment}", "ns").astype(np.int64) - east_s * 10**9
        assert has_zone[0] == bool(zone)


@given(st.binary(max_size=40))
def test_any_cell_is_read_or_said_not_to_be(octets: bytes) -> None:
    data, offsets = np.frombuffer(octets or b"\0", np.uint8), np.array([0, len(octets)], np.int32)
    times, has_zone, is_time = np.zeros(1, np.int64), np.zeros(1, np.bool_), np.zeros(1, np.bool_)
    parse_civil_times(data, offsets, times, has_zone, is_time)
    parse_split_times(data, offsets, times, is_time)
    parse_decimals(data, offsets, 9, False, times, is_time)
    parse_decimals(data, offsets, 0, True, times, is_time)
    parse_addresses(data, offsets, np.zeros((1, 16), np.uint8), np.zeros(1, np.uint8))


def cells(text: str) -> tuple[np.ndarray, np.ndarray]:
    octets = text.encode()
    return np.frombuffer(octets or b"\0", np.uint8), np.array([0, len(octets)], np.int32)


@pytest.mark.parametrize("preset", sorted(TABLES))
def test_tables_that_the_laws_start_from_are_read(preset: str, tmp_path: Path) -> None:
    flows, _, complaint = read(tmp_path / "table", TABLES[preset].encode(), preset, 1 << 20)
    assert len(flows) >= 1
    assert not complaint
