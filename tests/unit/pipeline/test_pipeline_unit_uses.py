"""In which jobs units were: few of a horizon each, by themselves, written down before, dropped when nothing counts."""

from pathlib import Path

import numpy as np
import pytest
from made_traffic import CLIENT, MS, SERVER, START_NS, batch_of, packet

from nsstream.chunk import Chunk
from nsstream.clock import ManualClock
from nsstream.counters import Tally
from nsstream.pipeline.bounded_units import let_in, units_of
from nsstream.pipeline.ledger import Ledger
from nsstream.pipeline.ledger_schema import MIGRATIONS
from nsstream.pipeline.privacy_config import PrivacySection
from nsstream.pipeline.privacy_ledger import UNKNOWN, PrivacyLedger, SpendingRefusedError
from nsstream.pipeline.private_jobs import terms_of
from nsstream.pipeline.spending_join import keep_spending
from nsstream.pipeline.training_queue import Job
from nsstream.pipeline.unit_uses import DROPPED, KEY
from nsstream.privacy import SampledGaussian

S = 10**9
HOUR = 3600 * S
JOB = (SampledGaussian(3.0, 0.05, 100),)
SECTION = PrivacySection(mode="private", chunk_epsilon=2.0, horizon_s=86_400.0, most_chunks_of_a_unit=2)


def job(at: int) -> Job:
    return Job(at + 1, f"digest-{at}", at * HOUR, (at + 1) * HOUR, 100, 0, (f"chunk-{at}",), None)


class Nest:
    """The uses of a ledger in a file, which can be opened again as by another process."""

    def __init__(self, path: Path, section: PrivacySection = SECTION, now: int = 10_000) -> None:
        self.path, self.clock = path, ManualClock(now * HOUR)
        self.open(section)

    def open(self, section: PrivacySection = SECTION) -> None:
        self.ledger = Ledger(self.path)
        self.spending = PrivacyLedger(self.ledger, self.clock, terms_of(section))
        self.uses = self.spending.uses

    def again(self, section: PrivacySection = SECTION) -> None:
        self.ledger.close()
        self.open(section)

    def admit(self, at: int, *units: int) -> list[bool]:
        return self.uses.admit(job(at), np.array(units, np.uint64)).tolist()

    def count(self) -> int:
        return int(self.ledger.rows("SELECT COUNT(*) FROM unit_use")[0][0])


@pytest.fixture
def nest(tmp_path: Path):
    nest = Nest(tmp_path / "ledger.sqlite")
    yield nest
    nest.ledger.close()


@pytest.mark.parametrize("unit", ["host", "flow"])
def test_a_unit_is_let_into_so_many_jobs_of_a_horizon(tmp_path: Path, unit: str) -> None:
    section = SECTION.model_copy(update={"unit": unit, "most_chunks_of_a_unit": 2 if unit == "host" else None})
    nest = Nest(tmp_path / "ledger.sqlite", section)
    assert nest.admit(0, 1, 2, 2, 2**64 - 1) == [True] * 4
    assert nest.admit(0, 1, 2, 2, 2**64 - 1) == [True] * 4  # of the same job, the same
    assert nest.admit(1, 1) == [True]
    nest.again(section)
    assert nest.admit(2, 1, 2, 2, 2**64 - 1) == [False, True, True, True]
    assert nest.admit(24, 1, 2, 2, 2**64 - 1) == [False, False, False, False]  # touches a window of both
    assert nest.admit(25, 1, 2, 2, 2**64 - 1) == [True] * 4
    assert nest.admit(26, 1, 2, 2, 2**64 - 1) == [True, False, False, False]
    assert nest.uses.admit(job(50), np.arange(10_000, dtype=np.uint64) << np.uint64(40)).all()
    nest.ledger.close()


def test_without_a_bound_every_unit_is_let_in_and_none_is_written_down(nest: Nest) -> None:
    nest.again(SECTION.model_copy(update={"most_chunks_of_a_unit": None}))
    assert nest.admit(0, *range(5)) == [True] * 5
    assert nest.count() == 0
    assert not nest.uses.is_bounded


def test_no_window_has_a_unit_in_more_jobs_in_whatever_order_they_come(nest: Nest) -> None:
    chance = np.random.default_rng(3)
    learned: dict[int, list[int]] = {}
    for at in (np.arange(0, 240, 3) + 3 * chance.integers(-5, 6, 80)).tolist():  # late and early by half a day
        units = np.flatnonzero(chance.random(8) < 0.7)
        for unit, is_in in zip(units.tolist(), nest.admit(at, *units.tolist()), strict=True):
            if is_in:
                learned.setdefault(unit, []).append(at)
    for jobs in learned.values():
        assert all(len({at for at in jobs if first <= at < first + 25}) <= 2 for first in range(-20, 260))
        assert len(set(jobs)) > 5


def test_uses_are_dropped_once_they_are_behind_and_what_is_older_than_that_is_refused(nest: Nest) -> None:
    nest.admit(0, 1, 2, 3)
    nest.admit(10, 1)
    assert nest.uses.known_from_ns() is None
    nest.admit(49, 1)
    assert (nest.count(), nest.uses.known_from_ns()) == (2, (50 - 48 + 24) * HOUR)  # of two horizons and no more
    nest.again()
    with pytest.raises(SpendingRefusedError, match="not known any more") as caught:
        nest.spending.reserve(job(25), JOB)
    assert caught.value.reason == UNKNOWN
    nest.spending.reserve(job(26), JOB)  # no dropped use is within a horizon of it
    assert nest.admit(10, 9) == [False]  # a job that was reserved before, when they were known
    nest.admit(200, 9)
    assert nest.count() == 1
    nest.again(SECTION.model_copy(update={"most_chunks_of_a_unit": None}))
    nest.spending.reserve(job(1), JOB)  # counts on no bound, and is counted with all


def test_traffic_that_claims_to_be_of_the_future_drops_nothing(tmp_path: Path) -> None:
    nest = Nest(tmp_path / "ledger.sqlite", now=12)
    nest.admit(10, 1)
    nest.admit(1_000_000, 2)
    assert (nest.count(), nest.uses.known_from_ns()) == (2, None)
    assert nest.admit(11, 1) == nest.admit(11, 1) == [True]
    assert nest.admit(12, 1) == [False]
    nest.ledger.close()


def test_the_key_is_the_ledgers_own_and_goes_with_what_was_spent(nest: Nest, tmp_path: Path) -> None:
    key = nest.uses.key()
    nest.again()
    assert nest.uses.key() == key
    nest.admit(0, 1)
    nest.spending.reserve(job(0), JOB)
    nest.admit(100, 1)
    restored = Nest(tmp_path / "restored.sqlite")
    assert restored.uses.key() != key
    restored.ledger.close()
    keep_spending(restored.path, 0, spent_in=nest.path, is_complete=False)
    restored.open()
    assert restored.uses.key() == key
    assert restored.uses.known_from_ns() == nest.uses.known_from_ns() == (101 - 24) * HOUR
    assert restored.count() == nest.count() == 1
    assert [cost.most_chunks for cost in restored.spending.costs()] == [2]
    restored.ledger.close()


def test_spending_of_a_ledger_that_knew_no_bounds_counts_as_unbounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("nsstream.pipeline.ledger.MIGRATIONS", MIGRATIONS[:3])
        old = Ledger(tmp_path / "old.sqlite")
        with old.transaction() as db:
            db.execute(
                "INSERT INTO spending (id, job, digest, chunk, start_ns, end_ns, unit, reserved, reserved_ns)"
                " VALUES ('a', 1, 'd', 'c', 0, 1, 'host', '[]', 0)"
            )
        old.close()
    Ledger(tmp_path / "new.sqlite").close()
    keep_spending(tmp_path / "new.sqlite", 0, spent_in=tmp_path / "old.sqlite", is_complete=False)
    for name in ("new", "old"):
        nest = Nest(tmp_path / f"{name}.sqlite")
        assert [cost.most_chunks for cost in nest.spending.costs()] == [None]
        assert nest.ledger.setting(KEY) is None
        assert nest.ledger.setting(DROPPED) is None
        nest.ledger.close()


# --- on packets -------------------------------------------------------------------------------------------------------

OTHER = "192.0.2.9"


def chunk_of(at: int, *conversations: tuple[tuple[str, int], tuple[str, int]], **fields: int) -> Chunk:
    """A minute with a question and an answer of each conversation."""
    rows = []
    for number, (client, server) in enumerate(conversations):
        rows.append(packet(60_000 * at + 10 * number, client, server, **fields))
        rows.append(packet(60_000 * at + 10 * number + 5, server, client, **fields))
    packets = batch_of(rows)
    begin = START_NS + 60_000 * MS * at
    return Chunk.of(
        begin, begin + 60_000 * MS, packets, Tally(offered=len(packets), kept=len(packets)), is_partial=False
    )


def minute_job(at: int) -> Job:
    begin = START_NS + 60_000 * MS * at
    return Job(at, f"d{at}", begin, begin + 60_000 * MS, 1, 0, (f"c{at}",), None)


FLOWS = [(CLIENT, SERVER), ((OTHER, 40_000), SERVER), ((OTHER, 40_001), SERVER)]


@pytest.mark.parametrize("unit", ["host", "flow"])
def test_a_chunk_is_learned_without_the_units_that_are_in_as_many_jobs_as_they_may_be(nest: Nest, unit: str) -> None:
    ports = []
    for at, there in enumerate((FLOWS, FLOWS[:1], FLOWS, FLOWS[1:])):
        kept = let_in(chunk_of(at, *there), minute_job(at), unit, nest.uses)
        ports.append(None if kept is None else sorted(kept.packets.source_transport_port.tolist()))
        if kept is not None:
            assert (kept.start_ns, kept.end_ns) == (minute_job(at).start_ns, minute_job(at).end_ns)
            kept.tally.check()
    client, other = [80, 40_000], [80, 80, 40_000, 40_001]
    assert ports == [sorted(client + other), client, other, None]
    again = let_in(chunk_of(2, *FLOWS), minute_job(2), unit, nest.uses)
    assert again is not None
    assert sorted(again.packets.source_transport_port.tolist()) == other


@pytest.mark.parametrize("unit", ["host", "flow"])
def test_taking_one_unit_away_changes_what_is_learned_of_no_other(tmp_path: Path, unit: str) -> None:
    """The whole stream with and without one unit: every packet of the others is let in, or not, as before."""
    chance = np.random.default_rng(5)
    clients = [(f"192.0.2.{1 + at % 4}", 40_000 + at // 4) for at in range(12)]
    minutes = [[clients[at] for at in np.flatnonzero(chance.random(12) < 0.6)] for _ in range(8)]

    def learned(name: str, without: tuple[str, int] | None) -> list[set[tuple[int, bytes, int]]]:
        nest = Nest(tmp_path / f"{name}.sqlite")
        out = []
        for at, there in enumerate(minutes):
            is_gone = [without is not None and (c[0] == without[0] if unit == "host" else c == without) for c in there]
            left = [(c, SERVER) for c, gone in zip(there, is_gone, strict=True) if not gone]
            kept = let_in(chunk_of(at, *left), minute_job(at), unit, nest.uses)
            if kept is None:
                out.append(set())
                continue
            p = kept.packets
            asked = p.destination_transport_port == SERVER[1]
            named = zip(p.source_address[asked], p.source_transport_port[asked].tolist(), strict=True)
            out.append({(at, address.tobytes(), port) for address, port in named})
        nest.ledger.close()
        return out

    every = learned("every", None)
    gone = clients[5]
    fewer = learned("fewer", gone)
    lost = set().union(*every) - set().union(*fewer)
    assert set().union(*fewer) <= set().union(*every)
    assert {(address, port) for _, address, port in lost} <= {
        (address, port) for _, address, port in set().union(*every) if unit == "host" or port == gone[1]
    }
    assert len({address for _, address, _ in lost}) == 1
    assert 0 < len({at for at, _, _ in lost}) <= 2


def test_both_directions_are_one_flow_and_later_fragments_another(nest: Nest) -> None:
    there = chunk_of(0, FLOWS[0], FLOWS[1])
    conversation, units = units_of(there.packets, "flow", nest.uses.key())
    assert conversation.tolist() == [0, 0, 1, 1]
    swapped = chunk_of(0, (SERVER, CLIENT))
    assert units_of(swapped.packets, "flow", nest.uses.key())[1].tolist() == units[:1].tolist()
    portless = ("192.0.2.1", 0), ("198.51.100.2", 0)
    plain, fragment = (units_of(chunk_of(0, portless, **told).packets, "flow", nest.uses.key())[1] for told in (
        {}, {"fragment_offset": 100}
    ))  # fmt: skip
    assert plain.tolist() != fragment.tolist()
    hosts = units_of(chunk_of(0, *FLOWS).packets, "host", nest.uses.key())[1]
    assert hosts[1] == hosts[2] != hosts[0]
    assert not set(hosts.tolist()) & set(units.tolist())
