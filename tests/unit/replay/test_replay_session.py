import pytest

from nsstream.replay.session import NotAllowedError, Session

STATES = ("idle", "running", "stopping", "done", "failed", "stopped", "closing")


@pytest.mark.parametrize("state", ["idle", "done", "failed", "stopped"])
def test_start_leads_to_running_and_counts_a_run(state):
    assert Session(state, 3).after_command("start") == Session("running", 4)


@pytest.mark.parametrize("state", ["running", "stopping", "closing"])
def test_start_is_refused_while_busy(state):
    with pytest.raises(NotAllowedError):
        Session(state, 3).after_command("start")


@pytest.mark.parametrize("state", ["running", "stopping"])
def test_stop_may_be_repeated(state):
    assert Session(state, 1).after_command("stop") == Session("stopping", 1)


@pytest.mark.parametrize("state", ["idle", "done", "failed", "stopped", "closing"])
def test_stop_is_refused_where_nothing_runs(state):
    with pytest.raises(NotAllowedError):
        Session(state, 1).after_command("stop")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("command", ["hello", "status"])
def test_asking_changes_nothing(state, command):
    assert Session(state, 1).after_command(command) == Session(state, 1)


@pytest.mark.parametrize("state", STATES)
def test_shutdown_is_always_allowed(state):
    assert Session(state, 1).after_command("shutdown") == Session("closing", 1)


@pytest.mark.parametrize("outcome", ["done", "failed", "stopped"])
def test_a_run_ends_as_it_ended(outcome):
    assert Session("running", 1).after_outcome(outcome) == Session(outcome, 1)
    assert Session("stopping", 1).after_outcome(outcome) == Session(outcome, 1)
    assert Session("closing", 1).after_outcome(outcome) == Session("closing", 1)


def test_an_outcome_without_a_run_is_a_bug():
    with pytest.raises(ValueError, match="needs a run"):
        Session("idle").after_outcome("done")
