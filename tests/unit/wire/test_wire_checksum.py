"""The Internet checksum against the examples of RFC 1071 and against scapy."""

import numpy as np
import pytest
from scapy.utils import checksum as scapy_checksum

from nsstream.wire.checksum import fold, internet_checksum, ones_complement_sum

RFC_1071_EXAMPLE = np.frombuffer(bytes.fromhex("0001f203f4f5f6f7"), np.uint8)


def test_sum_is_that_of_rfc_1071_section_3() -> None:
    assert fold(ones_complement_sum(RFC_1071_EXAMPLE, 0, 8, 0)) == 0xDDF2
    assert internet_checksum(RFC_1071_EXAMPLE, 0, 8, 0) == 0x220D


def test_odd_length_is_padded_on_the_right() -> None:
    assert ones_complement_sum(np.array([0x12, 0x34, 0x56], np.uint8), 0, 3, 0) == 0x1234 + 0x5600


def test_sum_carries_on_from_slice_to_slice() -> None:
    first = ones_complement_sum(RFC_1071_EXAMPLE, 0, 4, 0)
    whole = ones_complement_sum(RFC_1071_EXAMPLE, 0, 8, 0)
    assert fold(ones_complement_sum(RFC_1071_EXAMPLE, 4, 4, first)) == fold(whole)


def test_empty_slice_leaves_the_sum() -> None:
    assert ones_complement_sum(RFC_1071_EXAMPLE, 8, 0, 7) == 7


def test_slice_with_its_checksum_sums_to_zero() -> None:
    header = bytearray.fromhex("4500003c1c4640004006" + "0000" + "ac100a63ac100a0c")
    header[10:12] = internet_checksum(np.frombuffer(bytes(header), np.uint8), 0, 20, 0).to_bytes(2, "big")
    assert header[10:12] == b"\xb1\xe6"
    assert internet_checksum(np.frombuffer(bytes(header), np.uint8), 0, 20, 0) == 0


@pytest.mark.parametrize("length", [8, 16, 65_535])
def test_the_greatest_octets_carry_in_every_word(length: int) -> None:
    octets = np.full(length, 0xFF, np.uint8)
    assert internet_checksum(octets, 0, length, 0) == scapy_checksum(octets.tobytes())


@pytest.mark.parametrize("length", [*range(4), 7, 8, 9, 15, 16, 17, 19, 20, 1480, 65535])
def test_checksum_agrees_with_scapy(length: int) -> None:
    octets = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    assert internet_checksum(octets, 0, length, 0) == scapy_checksum(octets.tobytes())
