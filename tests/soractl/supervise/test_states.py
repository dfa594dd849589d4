from soractl.supervise.states import ALIVE, FAILED, TABLE, State, may_follow


def test_every_state_has_a_row():
    assert set(TABLE) == set(State)


def test_only_a_failed_run_is_acted_upon():
    idle = {state for state, row in TABLE.items() if row.action in ("none", "look again")}
    assert idle == {*ALIVE, State.SUSPECT}
    assert {state for state in State if State.RESTARTING in TABLE[state].following} >= FAILED
    assert all(State.RESTARTING not in TABLE[state].following for state in ALIVE)


def test_nothing_follows_the_end():
    ends = {state for state, row in TABLE.items() if not row.following}
    assert ends == {State.FINISHED, State.GIVEN_UP}
    assert not may_follow(State.FINISHED, State.RESTARTING)
    assert may_follow(State.FINISHED, State.FINISHED)
