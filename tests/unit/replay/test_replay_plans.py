"""Plans and lines: which chunk comes when, what is promoted, and what a scenario leaves of it."""

import json
import threading
from collections import Counter

import numpy as np
import pytest
from made_streams import EACH, FLOWS, MINUTE_NS, START_NS, MadeDrawer, checkpoint

from nsstream.clock import ManualClock, SystemClock
from nsstream.errors import InputError, StateError
from nsstream.model.promotion import MARK, promote
from nsstream.replay.scenario import Scenario
from nsstream.replay.streams.clients import NewClients
from nsstream.replay.streams.follow import FollowPlan
from nsstream.replay.streams.line import Line, starts_of
from nsstream.replay.streams.plan import SequencePlan
from nsstream.replay.streams.selection import Selection
from nsstream.replay.streams.timeline import Timeline

THREE = [checkpoint("a", 0), checkpoint("b", 1), checkpoint("c", 5, minutes=2)]


def turns(plan, count=100):
    out = []
    while len(out) < count and (turn := plan.next()) is not None:
        out.append(turn)
    return out


def minutes(found):
    return [((t.start_ns - START_NS) // MINUTE_NS, (t.end_ns - START_NS) // MINUTE_NS) for t in found]


def test_gaps_are_kept_or_squeezed_and_shifts_lead_from_the_models_times_to_the_turns():
    kept, squeezed = turns(SequencePlan(THREE)), turns(SequencePlan(THREE, gaps="squeezed"))
    assert minutes(kept) == [(0, 1), (1, 2), (5, 7)]
    assert minutes(squeezed) == [(0, 1), (1, 2), (2, 4)]
    for turn in kept + squeezed:
        assert turn.checkpoint.start_ns + turn.shift_ns == turn.start_ns


def test_passes_follow_one_another_and_every_turn_has_a_number_of_its_own():
    plan = SequencePlan(THREE, passes=None)
    found = turns(plan, 7)
    assert minutes(found)[3:] == [(7, 8), (8, 9), (12, 14), (14, 15)]
    assert [t.number for t in found] == list(range(7))
    assert len(turns(SequencePlan(THREE, passes=2))) == 6
    plan.set_loop(2)
    assert plan.next() is None
    plan.set_loop(3)
    assert [t.number for t in turns(plan)] == [7, 8]


def test_seeking_finds_the_turn_that_holds_the_time_or_the_first_after_it():
    plan = SequencePlan(THREE, passes=3)
    for minute, number in ((0, 0), (1.5, 1), (3, 2), (6.9, 2), (7, 3), (15.5, 7), (20.5, 8), (0.5, 0)):
        plan.seek(START_NS + int(minute * MINUTE_NS))
        assert plan.next().number == number
    for minute in (-0.1, 21, 1000):
        with pytest.raises(InputError, match="seek: the time lies"):
            plan.check_seek(START_NS + int(minute * MINUTE_NS))
    assert plan.next().number == 1  # a refused seek changes nothing


def test_a_line_without_passes_says_so():
    with pytest.raises(InputError, match="no passes"):
        SequencePlan(THREE, has_passes=False).set_loop(2)


@pytest.fixture
def models(tmp_path):
    for minute, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        start_ns = START_NS + minute * MINUTE_NS
        facts = {"id": name, "start_ns": start_ns, "end_ns": start_ns + MINUTE_NS, "packets": 10}
        (tmp_path / name / "manifest.json").write_text(json.dumps(facts))
    return tmp_path


def follow(directory, wait_s=0.0, pause=lambda s: False):
    return FollowPlan(directory, wait_s, ManualClock(), pause)


def test_following_takes_what_is_promoted_when_a_chunk_begins_and_times_go_on(models):
    promote(models, "b")
    plan = follow(models)
    found = [plan.next(), plan.next()]
    promote(models, "c")
    found.append(plan.next())
    promote(models, "a")
    found += [plan.next(), plan.next()]
    assert [t.checkpoint.id for t in found] == ["b", "b", "c", "a", "a"]
    assert minutes(found) == [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert [t.checkpoint.start_ns + t.shift_ns for t in found] == [t.start_ns for t in found]
    assert plan.tally == {"models_switched": 2}


def test_the_first_promotion_is_waited_for_and_then_seen(models):
    promoter = threading.Timer(0.1, promote, (models, "c"))
    promoter.start()
    plan = FollowPlan(models, 60, SystemClock(), threading.Event().wait)
    promoter.join()
    assert plan.next().checkpoint.id == "c"


def test_a_stop_ends_the_waiting(models):
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(InputError, match="no model is promoted there yet"):
        FollowPlan(models, 86_400, SystemClock(), stopped.wait)


def test_nothing_promoted_in_time_and_no_directory_are_refused(models):
    with pytest.raises(InputError, match="no model is promoted there yet"):
        follow(models)
    with pytest.raises(InputError, match="is not a directory of models"):
        follow(models / "none")


def test_a_promoted_model_of_no_use_is_counted_and_the_one_before_goes_on(models):
    promote(models, "a")
    plan = follow(models)
    plan.next()
    (models / "b" / "manifest.json").write_text("{")
    promote(models, "b")
    assert [plan.next().checkpoint.id for _ in range(2)] == ["a", "a"]
    promote(models, "c")
    turn = plan.next()
    assert turn.checkpoint.id == "c"
    instead = plan.instead(turn, StateError("weights"))
    assert (instead.checkpoint.id, instead.start_ns, instead.number) == ("a", turn.start_ns, turn.number)
    assert instead.checkpoint.start_ns + instead.shift_ns == instead.start_ns
    with pytest.raises(StateError, match="weights"):
        plan.instead(instead, StateError("weights"))
    (models / MARK).unlink()
    (models / MARK).symlink_to("/etc")
    assert plan.next().checkpoint.id == "a"
    assert plan.tally["models_refused"] == 4


def test_following_seeks_on_the_grid_of_chunks(models):
    promote(models, "a")
    plan = follow(models)
    plan.seek(START_NS + 10 * MINUTE_NS + 5)
    turn = plan.next()
    assert minutes([turn]) == [(10, 11)]
    plan.seek(START_NS + 30 * 10**9)
    assert minutes([plan.next()]) == [(0, 1)]
    assert plan.next().number > turn.number
    with pytest.raises(InputError, match="before"):
        plan.check_seek(START_NS - 1)


def test_a_timeline_shifts_and_compresses_and_leads_back():
    plain, fast = Timeline(100, 1000), Timeline(START_NS, START_NS + 7, 60.0)
    assert plain.twin_ns(150) == 1050
    assert plain.model_ns(1050) == 150
    times = START_NS + np.sort(np.random.default_rng(1).integers(0, 10**15, 1000))
    assert (np.diff(fast.twin_times(times)) >= 0).all()
    assert fast.twin_ns(START_NS + MINUTE_NS) == START_NS + 7 + 10**9
    for time_ns in times[::100].tolist():
        assert abs(fast.model_ns(fast.twin_ns(time_ns)) - time_ns) <= 60


def line(flows=1.0, **arguments):
    drawer = MadeDrawer({"a": 0})
    plan = SequencePlan([checkpoint("a")], passes=None, gaps="squeezed")
    return Line(3, plan, drawer, 1, flows=flows, **arguments), drawer


def test_flows_are_scaled_by_whole_chunks_of_chances_of_their_own_and_a_share():
    made, drawer = line(2.5)
    tables = [made.next()[1] for _ in range(20)]
    assert len(set(drawer.drawn)) == len(drawer.drawn) == 60
    counts = [len(t) for t in tables]
    assert min(counts) > 2 * FLOWS
    assert abs(np.mean(counts) - 2.5 * FLOWS) < 0.1 * FLOWS
    assert made.tally["flows_thinned_out"] == 3 * FLOWS * 20 - sum(counts)
    assert all((t.packet_count == EACH).all() for t in tables)


def test_only_a_share_of_flows_is_left_and_the_rest_counted():
    made, _ = line(0.25)
    total = sum(len(made.next()[1]) for _ in range(40))
    assert abs(total - 0.25 * 40 * FLOWS) < 60
    assert made.tally["flows_thinned_out"] == 40 * FLOWS - total


def test_only_these_services_and_hosts_are_left_and_the_rest_counted():
    scenario = Scenario(services=["udp/53", "tcp"], hosts=["10.0.0.2", "10.0.0.4/31"])
    made, _ = line(selection=Selection.of(scenario))
    table = made.next()[1]
    assert set(table.responder_port.tolist()) == {53}
    assert set(table.initiator_address[:, 15].tolist()) == {2, 4} | ({5} & set(table.initiator_address[:, 15].tolist()))
    assert len(table) + made.tally["flows_not_selected"] == FLOWS


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("10.0.0.0/8", [True, False, False]),
        ("::/0", [True, True, True]),
        ("0.0.0.0/0", [True, True, False]),
        ("fd00::/8", [False, False, True]),
        ("192.0.2.7", [False, True, False]),
    ],
)
def test_prefixes_are_of_their_own_family(text, kept):
    v4 = [bytes(10) + b"\xff\xff" + bytes(octets) for octets in ([10, 1, 2, 3], [192, 0, 2, 7])]
    addresses = np.array([list(a) for a in (*v4, b"\xfd" + bytes(15))], np.uint8)
    zeros = np.zeros(3, np.uint8)
    selection = Selection(None, [text])
    assert selection.rows(zeros, [], [addresses]).tolist() == kept


def test_new_clients_keep_their_subnet_and_their_address_and_are_nobody_elses():
    made, drawer = line()
    first, second = made.next()[1], made.next()[1]
    clients = NewClients(b"key")
    known = drawer.hosts(None)
    new = [clients.replace(table, known) for table in (first, second)]
    for table, before in zip(new, (first, second), strict=True):
        assert np.array_equal(table.initiator_address[:, :15], before.initiator_address[:, :15])
        assert np.array_equal(table.responder_address, before.responder_address)
        assert not {a.tobytes() for a in table.initiator_address} & set(known)
    mapped = {}
    for table, before in zip(new, (first, second), strict=True):
        for a, b in zip(before.initiator_address, table.initiator_address, strict=True):
            assert mapped.setdefault(a.tobytes(), b.tobytes()) == b.tobytes()
    assert max(Counter(mapped.values()).values()) == 1
    other = NewClients(b"other").replace(first, known)
    assert not np.array_equal(other.initiator_address, new[0].initiator_address)


def test_more_clients_come_with_the_flows_beyond_the_models():
    made, _ = line(2.0, has_new_clients=True)
    table = made.next()[1]
    assert len(table) == 2 * FLOWS
    assert len({a.tobytes() for a in table.initiator_address}) == 40


def test_what_starts_before_a_time_is_taken_once():
    made, _ = line()
    got, until = [], START_NS
    for _ in range(30):
        until += MINUTE_NS // 7
        got.append(made.take(until))
        if len(got[-1]):
            assert starts_of(got[-1]).max() < until
    whole, _ = line()
    expected = np.concatenate([starts_of(whole.next()[1]) for _ in range(5)])
    np.testing.assert_array_equal(
        np.sort(np.concatenate([starts_of(t) for t in got])), np.sort(expected[expected < until])
    )


def test_a_model_that_cannot_be_loaded_ends_a_sequence_with_its_error():
    made = Line(0, SequencePlan([checkpoint("none")]), MadeDrawer({}), 1)
    with pytest.raises(StateError, match="cannot be read"):
        made.next()
