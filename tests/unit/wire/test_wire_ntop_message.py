"""ntop's messages: the four headers, octet for octet, and payloads that nobody can trust."""

from __future__ import annotations

import json
import random
import zlib
from typing import Any, Literal

import pytest

from nsstream.errors import WireError
from nsstream.wire.ntop_message import MAX_PAYLOAD_BYTES, NtopHeader, parse_header, parse_records, write_header
from nsstream.wire.ntop_tlv import START, parse_tlv, write_tlv

FLOW = b"flow" + bytes(12)
PLAIN = NtopHeader("flow", 0, None, False, None)
TLV = NtopHeader("flow", 0, None, True, None)

# As nProbe and netflow2ng write them; ids in network order, lengths in that of the publisher's processor.
HEADERS = {
    "v0": (b"flow" + bytes(28) + b"\x00\x00\x00\x00\x40\x00\x00\x00", NtopHeader("flow", 0, None, False, None)),
    "v1 of old": (FLOW + b"\x01\x00\x40\x00\x07\x00\x00\x00", NtopHeader("flow", 0, 7, False, None)),
    "v1": (FLOW + b"\x02\x05\x40\x00\x00\x00\x00\x07", NtopHeader("flow", 5, 7, False, None)),
    "v1 of TLV": (FLOW + b"\x03\x05\x40\x00\x00\x00\x00\x07", NtopHeader("flow", 5, 7, True, None)),
    "v2": (
        b"template" + bytes(8) + b"\x02\x00\x40\x00\x00\x00\x01\x00\x00\x00\x00\x05",
        NtopHeader("template", 5, 256, False, None),
    ),
    "v4": (
        FLOW + b"\x04\x00\x00\x00\x40\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x05",
        NtopHeader("flow", 5, 7, False, False),
    ),
    "v4 of TLV in zlib": (
        FLOW + b"\x04\x06\x00\x00\x40\x00\x00\x00\x20\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x05",
        NtopHeader("flow", 5, 2**32 - 1, True, True),
    ),
}


@pytest.mark.parametrize(("octets", "expected"), HEADERS.values(), ids=HEADERS)
def test_each_header_is_read(octets: bytes, expected: NtopHeader) -> None:
    assert parse_header(octets) == expected


@pytest.mark.parametrize("size", [24, 28, 36])
@pytest.mark.parametrize("is_tlv", [False, True])
def test_headers_that_are_written_are_those_that_are_read(size: Literal[24, 28, 36], is_tlv: bool) -> None:
    header = write_header(size, 5, 1234567, b"x" * 70_000, is_tlv=is_tlv, is_zlib=False, unpacked_bytes=70_000)
    assert len(header) == size
    assert parse_header(header) == NtopHeader("flow", 5, 1234567, is_tlv, False if size == 36 else None)


def test_written_v4_header_is_that_of_others() -> None:
    header = write_header(36, 5, 7, b"x" * 64, is_tlv=False, is_zlib=False, unpacked_bytes=64)
    assert header == HEADERS["v4"][0]


@pytest.mark.parametrize("size", [0, 16, 23, 25, 32, 37, 41, 1000])
def test_header_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(WireError, match="24, 28, 36 or 40"):
        parse_header(bytes(size))


@pytest.mark.parametrize(("size", "version"), [(24, 4), (28, 1), (28, 4), (36, 2), (36, 0)])
def test_version_that_its_size_cannot_have_is_refused(size: int, version: int) -> None:
    with pytest.raises(WireError, match=f"of version {version}"):
        parse_header(FLOW + bytes([version]) + bytes(size - 17))


def packed(value: object) -> bytes:
    return zlib.compress(json.dumps(value).encode())


PAYLOADS: dict[str, tuple[NtopHeader, bytes, list[Any], str]] = {
    "object": (PLAIN, b'{"8":"192.0.2.1"}', [{"8": "192.0.2.1"}], ""),
    "object with a NUL behind it": (PLAIN, b'{"7":443}\0', [{"7": 443}], ""),
    "list": (PLAIN, b'[{"7":1},{"7":2}]', [{"7": 1}, {"7": 2}], ""),
    "list with others in it": (PLAIN, b'[{"7":1},2,[]]', [{"7": 1}], "bad_json"),
    "no JSON": (PLAIN, b"{", [], "bad_json"),
    "nothing": (PLAIN, b"", [], "bad_json"),
    "no object": (PLAIN, b"7", [], "bad_json"),
    "nested": (PLAIN, b"[" * 100_000, [], "bad_json"),
    "a long number": (PLAIN, b'{"7":' + b"9" * 5000 + b"}", [], "bad_json"),
    "zlib by its mark": (PLAIN, b"\0" + packed({"7": 1}), [{"7": 1}], ""),
    "zlib by its flag": (NtopHeader("flow", 0, 0, False, True), packed({"7": 1}), [{"7": 1}], ""),
    "zlib by both": (NtopHeader("flow", 0, 0, False, True), b"\0" + packed({"7": 1}), [{"7": 1}], ""),
    "no zlib": (PLAIN, b"\0{}", [], "bad_zlib"),
    "cut zlib": (PLAIN, b"\0" + packed({"7": 1})[:-4], [], "bad_zlib"),
    "a bomb": (PLAIN, b"\0" + zlib.compress(bytes(MAX_PAYLOAD_BYTES + 1)), [], "too_large"),
    # three items of netflow2ng's description: small keys with a small and a larger number, and a text
    "TLV": (TLV, bytes.fromhex("0101 220a0b 230b1f46 2b08000c") + b"172.16.1.254\x01", None, ""),  # type: ignore[dict-item]
    "TLV, two records": (TLV, START + b"\x22\x07\x01\x01" + b"\x22\x07\x02\x01", [{7: 1}, {7: 2}], ""),
    "TLV, two records, two starts": (TLV, 2 * (START + b"\x22\x07\x01\x01"), [{7: 1}, {7: 1}], ""),
    "TLV with a name, a block and a list": (
        TLV,
        START + b"\xb2\x00\x03abc\x05\xbc\x00\x01b\x22\x07\x09\x0d\x2e\x08\x22\x07\x09\x0f\x22\x0b\x02\x01",
        [{"abc": 5, 11: 2}],
        "",
    ),
    "TLV that is cut": (TLV, START + b"\x22\x07\x01\x01\x24\x07\x01", [{7: 1}], "bad_tlv"),
    "TLV with no end of record": (TLV, START + b"\x22\x07\x01", [], "bad_tlv"),
    "TLV with a text that is cut": (TLV, START + b"\x2b\x08\xff\xffx\x01", [], "bad_tlv"),
    "TLV of another type": (TLV, START + b"\x00\x00", [], "bad_tlv"),
    "TLV with an end of no block": (TLV, START + b"\x0d\x01", [], "bad_tlv"),
}


@pytest.mark.parametrize(("header", "payload", "records", "reason"), PAYLOADS.values(), ids=PAYLOADS)
def test_payload_is_read_as_far_as_it_goes(
    header: NtopHeader, payload: bytes, records: list[Any] | None, reason: str
) -> None:
    expected = [{10: 11, 11: 8006, 8: "172.16.1.254"}] if records is None else records
    assert parse_records(header, payload) == (expected, reason)


def test_records_that_are_written_are_those_that_are_read() -> None:
    record = {1: 255, 2: 256, 300: 65536, 4: 2**63, 70000: "192.0.2.1", 6: 0}
    assert parse_tlv(write_tlv(record)) == ([record], "")
    assert parse_tlv(write_tlv(record) + write_tlv({7: 1})) == ([record, {7: 1}], "")


def test_no_octets_make_the_reader_raise() -> None:
    chance = random.Random(7)
    record = write_tlv({1: 255, 8: "192.0.2.1", 152: 2**40})
    for _ in range(3000):
        octets = bytearray(record * 3)
        for _ in range(chance.randrange(4)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        parse_tlv(bytes(octets[: chance.randrange(len(octets) + 1)]))
