"""What needs no right and no interface; the rest is in tests/integration/test_live_capture.py."""

import pytest

from nsstream.capture.live import MAX_SNAPLEN, LiveSource
from nsstream.capture.packet_ring import Fanout, RingSize
from nsstream.counters import Tally
from nsstream.errors import InputError


@pytest.mark.parametrize("snaplen", [0, -1, MAX_SNAPLEN + 1])
def test_snaplen_out_of_bounds_is_refused(snaplen: int) -> None:
    with pytest.raises(ValueError, match=str(snaplen)):
        LiveSource("lo", snaplen=snaplen)


@pytest.mark.parametrize(("group", "member"), [(-1, 0), (1 << 16, 0), (0, -1)])
def test_fanout_out_of_bounds_is_refused(group: int, member: int) -> None:
    with pytest.raises(ValueError, match="group"):
        Fanout(group, member)


@pytest.mark.parametrize(
    ("ring_bytes", "block_bytes", "retire_ms"),
    [(1 << 20, 1000, 50), (1 << 20, 0, 50), (1 << 20, 1 << 20, 50), (3 << 19, 1 << 20, 50), (1 << 20, 1 << 16, 0)],
)
def test_ring_that_the_kernel_cannot_make_is_refused(ring_bytes: int, block_bytes: int, retire_ms: int) -> None:
    with pytest.raises(ValueError, match=r"_bytes|_ms"):
        RingSize(ring_bytes, block_bytes, retire_ms)


def test_default_ring_is_valid() -> None:
    assert RingSize().block_count == 64


def test_source_is_inert_until_open() -> None:
    source = LiveSource("nowhere0")
    source.stop()
    source.close()
    source.close()
    assert source.tally == Tally()
    with pytest.raises(RuntimeError, match="open"):
        source.read_batch()


def test_missing_interface_is_named() -> None:
    with pytest.raises(InputError, match=r"^nowhere0: there is no such interface"):
        LiveSource("nowhere0").open()
