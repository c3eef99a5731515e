import numpy as np
import pytest

from nsstream.score.observed import observe
from nsstream.score.privacy.audit import audit
from nsstream.score.privacy.canaries import exposure, make_canaries, named, nearness, reproduced
from nsstream.score.privacy.hosts import unicast
from nsstream.trace import PacketBatch
from nsstream.trace.fields import UDP

SPAN_NS = (1_700_000_000_000_000_000, 1_700_000_060_000_000_000)


def made(count: int = 40, conversations: int = 2):
    return make_canaries(count, conversations, SPAN_NS, np.random.default_rng(0))


def test_canaries_are_hosts_of_their_own_within_the_bounds() -> None:
    canaries = made()
    seen: set[bytes] = set()
    for batch in canaries.packets:
        hosts = {row.tobytes() for row in unicast(batch)}
        assert len(hosts) == 2
        assert not hosts & seen
        seen |= hosts
        assert (batch.protocol_identifier == UDP).all()
        assert (batch.source_transport_port >= 1024).all()
        assert (np.diff(batch.observation_time_ns) >= 0).all()
        assert batch.observation_time_ns[0] >= SPAN_NS[0]
        assert batch.observation_time_ns[-1] < SPAN_NS[1]
        assert len(observe(batch).flow_identity) in (2, 3, 4)  # two conversations, both ways where both speak
    assert all(host[12:14] in (b"\xc6\x12", b"\xc6\x13") for host in seen)


def test_only_the_included_are_planted_and_nothing_is_lost(make_varied) -> None:
    packets, canaries = make_varied(1, 50), made()
    assert 5 < canaries.included.sum() < 35
    planted, everything = canaries.planted_in(packets), canaries.all_in(packets)
    counts = np.array([len(batch) for batch in canaries.packets])
    assert len(planted) == len(packets) + counts[canaries.included].sum()
    assert len(everything) == len(packets) + counts.sum()
    assert (np.diff(planted.observation_time_ns) >= 0).all()
    assert np.array_equal(reproduced(canaries.packets, observe(planted)), canaries.included)
    assert np.array_equal(named(canaries.packets, observe(planted), np.copy), canaries.included)


def test_a_twin_that_repeats_its_canaries_is_refuted_by_nearness(make_varied) -> None:
    canaries = made(100, 1)
    scores = nearness(canaries.packets, observe(canaries.planted_in(make_varied(1, 50))))
    assert np.allclose(scores[canaries.included], 0, atol=1e-9)
    assert (scores[~canaries.included] < -0.1).all()
    assert audit(scores, canaries.included).epsilon > 2
    innocent = nearness(canaries.packets, observe(make_varied(2, 50)))
    assert audit(innocent, canaries.included).epsilon < 0.5
    assert not reproduced(canaries.packets, observe(make_varied(2, 50))).any()


def test_exposure_is_by_rank() -> None:
    others = np.arange(63.0)
    assert exposure(100.0, others) == 6
    assert exposure(-1.0, others) == 0
    assert exposure(62.0, others) == 5  # a tie counts against it
    drawn = np.random.default_rng(0).random((400, 64))
    assert np.mean([exposure(row[0], row[1:]) for row in drawn]) == pytest.approx(1.44, abs=0.25)


def test_what_cannot_be_planted_is_refused() -> None:
    with pytest.raises(ValueError, match="canaries of 1 conversation"):
        make_canaries(0, 1, SPAN_NS, np.random.default_rng(0))
    with pytest.raises(ValueError, match="span"):
        make_canaries(1, 1, (0, 10**9), np.random.default_rng(0))


def test_the_same_seed_makes_the_same_canaries() -> None:
    one, other = made(), made()
    assert np.array_equal(one.included, other.included)
    for a, b in zip(one.packets, other.packets, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.columns().values(), b.columns().values(), strict=True))
    assert isinstance(one.packets[0], PacketBatch)
