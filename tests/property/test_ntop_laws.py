"""The law of a decoder of hostile messages: nothing raises, and every record and message is in the account."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nsstream.capture.ntop_flows import NtopDecoder
from nsstream.wire import ntop_elements as ie
from nsstream.wire.ntop_message import write_header
from nsstream.wire.ntop_tlv import parse_tlv, write_tlv

ELEMENTS = sorted(ie.NUMBER_OF_NAME.values())
GOOD: dict[str, Any] = {"8": "192.0.2.1", "12": "198.51.100.2", "4": 17, "2": 1, "1": 60, "22": 1_767_225_600}
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["192.0.2.1", "::1", "0.0.0.0", "-", "1e400", "nan", "0x10", "9" * 40, "\ud800"]),
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
KEYS = st.one_of(st.sampled_from([*map(str, ELEMENTS), *ie.NUMBER_OF_NAME]), st.text(max_size=5))
RECORDS = st.lists(st.dictionaries(KEYS, VALUES, max_size=8).map(lambda change: GOOD | change), max_size=4)


def message(payload: bytes, *, is_tlv: bool = False, number: int = 1) -> list[bytes]:
    header = write_header(28, 3, number, payload, is_tlv=is_tlv, is_zlib=False, unpacked_bytes=len(payload))
    return [header, payload]


@given(st.lists(RECORDS, max_size=4))
def test_every_record_is_a_row_or_counted(lots: list[list[dict[str, Any]]]) -> None:
    decoder = NtopDecoder()
    payloads = [json.dumps(records).encode() for records in lots]
    flows = decoder.decode([message(payload, number=number) for number, payload in enumerate(payloads, 1)])
    decoder.tally.check()
    assert decoder.tally.kept == len(flows)
    assert decoder.tally.offered == sum(map(len, lots))


@given(st.lists(st.lists(st.binary(max_size=60), max_size=3), max_size=6), st.binary(max_size=200), st.booleans())
def test_nothing_raises_whatever_the_octets(frames: list[list[bytes]], payload: bytes, is_tlv: bool) -> None:
    decoder = NtopDecoder()
    flows = decoder.decode([*frames, message(payload, is_tlv=is_tlv), *([octets[:1], payload] for octets in frames)])
    decoder.tally.check()
    assert decoder.tally.kept == len(flows)


@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1) | st.text(max_size=30).filter(str.isascii), min_size=1
        ),
        max_size=4,
    ),
    st.data(),
)
def test_whole_records_in_front_of_a_cut_are_read(records: list[dict[int, int | str]], data: st.DataObject) -> None:
    parts = [write_tlv(record) for record in records]
    octets = b"".join(parts)
    assert parse_tlv(octets) == (records, "")
    at = data.draw(st.integers(0, len(octets)))
    came, _ = parse_tlv(octets[:at])
    assert came == records[: len(came)]
    assert len(came) >= sum(1 for k in range(1, len(parts) + 1) if sum(map(len, parts[:k])) <= at)
