import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsstream.capture.interface import Interface, InterfaceQuery, parse_link

HEADER = struct.Struct("=IHHII")
INFO = struct.Struct("=BxHiII")
NAME = struct.pack("=HH", 4 + 5, 3) + b"eth7\0" + bytes(3)
STATS = struct.pack("=HH24Q", 4 + 192, 23, *range(100, 124))


def answer(*attributes: bytes, kind: int = 16, flags: int = 1) -> bytes:
    body = INFO.pack(0, 1, 7, flags, 0) + b"".join(attributes)
    return HEADER.pack(HEADER.size + len(body), kind, 0, 0, 0) + body


def refusal(number: int) -> bytes:
    return HEADER.pack(36, 2, 0, 0, 0) + struct.pack("=i", -number) + HEADER.pack(32, 18, 1, 0, 0)


def test_answer_tells_name_kind_state_and_missed_frames() -> None:
    assert parse_link(answer(NAME, STATS)) == Interface("eth7", 7, 1, True, False, 115)
    assert parse_link(answer(STATS, NAME, flags=0x8)) == Interface("eth7", 7, 1, False, True, 115)


def test_answer_tells_what_lies_above_and_below() -> None:
    mtu, lower, master, elsewhere = (
        struct.pack("=HHI", 8, kind, value) for kind, value in ((4, 9000), (5, 3), (10, 4), (37, 0))
    )
    told = parse_link(answer(NAME, mtu, lower, master))
    assert told is not None
    assert (told.mtu, told.lower_index, told.master_index) == (9000, 3, 4)
    told = parse_link(answer(NAME, elsewhere, lower))  # of another namespace, whose indices are others
    assert told is not None
    assert (told.lower_index, told.master_index) == (0, 0)


def test_interface_that_is_not_there_is_none() -> None:
    assert parse_link(refusal(19)) is None


@pytest.mark.parametrize("message", [refusal(1), refusal(200), b"", b"\0" * 15, answer(kind=3)])
def test_other_answers_are_errors_of_the_system(message: bytes) -> None:
    with pytest.raises(OSError, match="rtnetlink"):
        parse_link(message)


@given(
    st.binary(max_size=400) | st.binary(max_size=200).map(answer) | st.binary(max_size=99).map(NAME.__add__).map(answer)
)
def test_any_octets_are_parsed_or_an_error_of_the_system(message: bytes) -> None:
    with suppress(OSError):
        parse_link(message)


def test_loopback_of_this_host_is_found_by_name_and_by_index() -> None:
    query = InterfaceQuery()
    found = query.by_name("lo")
    assert found is not None
    assert found == Interface("lo", socket.if_nametoindex("lo"), 772, found.is_up, True, 0, found.mtu)
    assert query.by_index(found.index) == found
    query.close()


@pytest.mark.parametrize("name", ["", "nowhere0", "x" * 15, "x" * 99, "a/b", "über"])
def test_name_that_no_interface_has_is_none(name: str) -> None:
    query = InterfaceQuery()
    assert query.by_name(name) is None
    assert query.by_index(1 << 30) is None
    query.close()
