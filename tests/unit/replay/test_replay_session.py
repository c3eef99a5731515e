import pytest

from nsstream.replay.session import ASKING, STEERING, Controller, NotAllowedError, Session

STATES = ("idle", "running", "paused", "stopping", "done", "failed", "stopped", "closing")
SECOND = 10**9


@pytest.mark.parametrize("state", ["idle", "done", "failed", "stopped"])
def test_start_leads_to_running_and_counts_a_run(state):
    assert Session(state, 3).after_command("start") == Session("running", 4)


@pytest.mark.parametrize("state", ["running", "paused", "stopping", "closing"])
def test_start_is_refused_while_busy(state):
    with pytest.raises(NotAllowedError) as refused:
        Session(state, 3).after_command("start")
    assert refused.value.code == "state"


@pytest.mark.parametrize("state", ["running", "paused", "stopping"])
def test_stop_may_be_repeated(state):
    assert Session(state, 1).after_command("stop") == Session("stopping", 1)


@pytest.mark.parametrize("state", ["idle", "done", "failed", "stopped", "closing"])
def test_stop_is_refused_where_nothing_runs(state):
    with pytest.raises(NotAllowedError):
        Session(state, 1).after_command("stop")


@pytest.mark.parametrize("state", ["running", "paused"])
def test_pause_and_resume_may_be_repeated(state):
    assert Session(state, 1).after_command("pause") == Session("paused", 1)
    assert Session(state, 1).after_command("resume") == Session("running", 1)


@pytest.mark.parametrize("state", ["running", "paused"])
@pytest.mark.parametrize("command", ["rate", "seek", "loop"])
def test_a_run_is_steered_without_another_state(state, command):
    assert Session(state, 1).after_command(command) == Session(state, 1)


@pytest.mark.parametrize("state", ["idle", "stopping", "done", "failed", "stopped", "closing"])
@pytest.mark.parametrize("command", sorted(STEERING))
def test_nothing_is_steered_where_nothing_runs(state, command):
    with pytest.raises(NotAllowedError, match="no run is going on"):
        Session(state, 1).after_command(command)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("command", sorted(ASKING))
def test_asking_changes_nothing(state, command):
    assert Session(state, 1).after_command(command) == Session(state, 1)


@pytest.mark.parametrize("state", STATES)
def test_shutdown_is_always_allowed(state):
    assert Session(state, 1).after_command("shutdown") == Session("closing", 1)


@pytest.mark.parametrize("outcome", ["done", "failed", "stopped"])
def test_a_run_ends_as_it_ended(outcome):
    for state in ("running", "paused", "stopping"):
        assert Session(state, 1).after_outcome(outcome) == Session(outcome, 1)
    assert Session("closing", 1).after_outcome(outcome) == Session("closing", 1)


def test_an_outcome_without_a_run_is_a_bug():
    with pytest.raises(ValueError, match="needs a run"):
        Session("idle").after_outcome("done")


def test_an_exclusive_run_is_steered_by_its_controller_and_stopped_by_anybody():
    session = Session("running", 1).under(Controller(b"me", True, None, 0))
    for command in STEERING:
        assert session.after_command(command, b"me").run == 1
        with pytest.raises(NotAllowedError, match="commands it alone") as refused:
            session.after_command(command, b"you")
        assert refused.value.code == "controller"
    assert session.after_command("stop", b"you").state == "stopping"
    assert session.after_command("shutdown", b"you").state == "closing"


def test_a_run_that_is_not_exclusive_is_steered_by_anybody():
    session = Session("running", 1).under(Controller(b"me", False, None, 0))
    assert session.after_command("pause", b"you").state == "paused"


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_controller_that_is_silent_for_too_long_is_lost(state):
    session = Session(state, 1).under(Controller(b"me", False, 2 * SECOND, heard_ns=10 * SECOND))
    assert session.loss_ns == 12 * SECOND
    assert session.after_time(12 * SECOND - 1) == session
    assert session.after_time(12 * SECOND).state == "stopping"
    heard = session.after_word(b"me", 11 * SECOND)
    assert heard.after_time(12 * SECOND).state == state
    assert session.after_word(b"you", 11 * SECOND) == session


@pytest.mark.parametrize("state", ["idle", "stopping", "done", "closing"])
def test_a_controller_without_a_run_cannot_be_lost(state):
    session = Session(state, 1).under(Controller(b"me", False, SECOND, 0))
    assert session.loss_ns is None
    assert session.after_time(9 * SECOND) == session


def test_a_run_outlives_a_controller_that_said_nothing_of_it():
    session = Session("running", 1).under(Controller(b"me", False, None, 0))
    assert session.loss_ns is None
    assert session.after_word(b"me", 5) is session
