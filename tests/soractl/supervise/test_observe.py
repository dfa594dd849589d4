"""Tables of looks: what a run shows from second to second, and the states that follow."""

from dataclasses import replace

from soractl.supervise.observe import Look, NodeLook, first_memory, observe
from soractl.supervise.states import FAILED, State, may_follow
from soractl.supervise.step_clock import Limits

LIMITS = Limits()
NODES = ("n1", "n2", "n3")
TRAINING = range(0, 60, 2)  # seconds of a healthy minute, a step of 2 s each


def nodes(**changes):
    """Three healthy nodes, some of them changed."""
    return tuple(replace(NodeLook(name=name), **changes.get(name, {})) for name in NODES)


def silent(**more):
    return {"answered": False, "fault": "unreachable", **more}


def looks_of(steps, **values):
    return [
        Look(at_s=float(at_s), nodes=values.get("nodes", nodes()), step=at_s // 2 + 1)
        for at_s in steps
    ]


def standing(since_s, until_s, every_s=2, **values):
    """Looks at a run that makes no step any more."""
    values = {"nodes": nodes(), "step": since_s // 2, **values}
    return [Look(at_s=float(at_s), **values) for at_s in range(since_s, until_s, every_s)]


def seen(looks, memory=None):
    """The states in order, each once in a row, with the time it began; the table is kept."""
    memory = memory or first_memory(looks[0].at_s - 1.0, NODES)
    story, last = [], None
    for look in looks:
        memory, verdict = observe(memory, look, LIMITS)
        if last is not None and verdict.state is not last.state:
            assert may_follow(last.state, verdict.state)
        if last is None or (verdict.state, verdict.node) != (last.state, last.node):
            story.append((look.at_s, verdict.state, verdict.node))
        last = verdict
        if verdict.state in FAILED:
            break
    return story, last, memory


def states(looks):
    return [state for _, state, _ in seen(looks)[0]]


HEALTHY = looks_of(TRAINING)


def test_a_healthy_run_is_training():
    assert states(HEALTHY) == [State.TRAINING]


def test_a_run_that_stands_still_is_suspect_first_and_hung_after_ninety_seconds():
    story, last, _ = seen([*HEALTHY, *standing(60, 400)])
    assert [(at_s, state) for at_s, state, _ in story] == [
        (0.0, State.TRAINING),
        (80.0, State.SUSPECT),
        (150.0, State.HUNG),
    ]
    assert last.reason == "no step for 92 s"


def test_with_a_second_sign_it_is_hung_after_twenty_seconds():
    story, last, _ = seen([*HEALTHY, *standing(60, 400, second_sign="collectives stand still")])
    assert story[-1][:2] == (80.0, State.HUNG)
    assert last.reason == "no step for 22 s, and collectives stand still"


def test_the_second_sign_alone_is_nothing():
    looks = [replace(look, second_sign="collectives stand still") for look in HEALTHY]
    assert states(looks) == [State.TRAINING]


def test_a_long_save_or_validation_is_no_hang():
    for phase in ("saving", "validating"):
        looks = [*HEALTHY, *standing(60, 300, phase=phase), *looks_of(range(300, 330, 2))]
        assert states(looks) == [State.TRAINING, State(phase), State.TRAINING]


def test_a_start_has_time_and_then_hangs_too():
    start = standing(0, 2, step=None, phase="starting")
    first = standing(2, 1790, 10, step=None, phase="first step")
    assert states([*start, *first]) == [State.STARTING, State.FIRST_STEP]
    late = standing(1790, 2000, 10, step=None, phase="first step")
    assert states([*start, *first, *late])[-1] is State.HUNG


def test_a_crash_is_named_three_seconds_after_its_first_sign():
    sign = {"failed": ("n2", "rank 3: ValueError: no")}
    story, last, _ = seen([*HEALTHY, *standing(60, 70, 1, **sign)])
    assert story[-1] == (63.0, State.CRASHED, "n2")
    assert last.reason == "rank 3: ValueError: no"


def test_a_crash_waits_only_for_a_node_that_gives_no_answer():
    sign = {"failed": ("n1", "rank 0: ValueError: no")}
    late = standing(60, 66, 1, nodes=nodes(n3=silent()), **sign)
    story, _, _ = seen([*HEALTHY, *late, *standing(66, 70, 1, **sign)])
    assert story[-1] == (66.0, State.CRASHED, "n1")
    cut_off = nodes(**{name: silent() for name in NODES})
    story, _, _ = seen([*HEALTHY, *standing(60, 80, 1, nodes=cut_off, **sign)])
    assert story[-1][1:] == (State.BLIND, None)


def test_a_crash_waits_until_all_nodes_were_asked_about_it():
    sign = {"failed": ("n1", "rank 0: ValueError: no")}
    unconfirmed = standing(60, 76, 1, confirmed=False, **sign)
    story, _, _ = seen([*HEALTHY, *unconfirmed, *standing(76, 80, 1, **sign)])
    assert [event[:2] for event in story] == [(0.0, State.TRAINING), (76.0, State.CRASHED)]


def test_an_exit_code_alone_is_a_crash():
    ended = nodes(n3={"exit_code": 1})
    story, last, _ = seen([*HEALTHY, *standing(60, 70, 1, nodes=ended)])
    assert (story[-1][1:], last.reason) == ((State.CRASHED, "n3"), "exit code 1")


def test_a_node_that_answers_without_its_processes_is_lost_at_once():
    gone = nodes(n2={"vanished": True})
    assert seen([*HEALTHY, *standing(60, 70, nodes=gone)])[0][-1] == (60.0, State.LOST, "n2")


def test_who_takes_over_amid_an_attempt_learns_nothing_of_its_start():
    looks = [Look(at_s=0.5 + i, nodes=(NodeLook(name="n1"),), step=7 + i) for i in range(3)]
    memory = first_memory(0.0, ("n1",))
    for look in looks:
        memory, _ = observe(memory, look, Limits())
    assert (memory.clock.step, dict(memory.clock.longest_s)) == (9, {})


def test_a_silent_node_is_suspect_and_sixty_seconds_without_packets_pass_unharmed():
    quiet = nodes(n2=silent())
    looks = [*HEALTHY, *standing(60, 120, nodes=quiet), *looks_of(range(120, 180, 2))]
    story, _, _ = seen(looks)
    assert [(at_s, state, node) for at_s, state, node in story] == [
        (0.0, State.TRAINING, None),
        (74.0, State.SUSPECT, "n2"),
        (120.0, State.TRAINING, None),
    ]


def test_connections_of_a_node_that_was_silent_have_as_long_again_to_go_on():
    sign = {"second_sign": "collectives stand still", "step": 30}
    cut_off = [*HEALTHY, *standing(60, 120, nodes=nodes(n2=silent()))]
    story, _, _ = seen([*cut_off, *standing(120, 300, **sign)])
    assert story == [
        (0.0, State.TRAINING, None),
        (74.0, State.SUSPECT, "n2"),
        (120.0, State.SUSPECT, None),
        (184.0, State.HUNG, None),  # its last answer was at 58 s, and a step takes two seconds
    ]
    late = looks_of(range(184, 240, 2))  # went on at the last moment, and made its step
    assert states([*cut_off, *standing(120, 184, **sign), *late])[-2:] == [
        State.SUSPECT,
        State.TRAINING,
    ]


def flapping(since_s, until_s, nodes_in_turn=("n2",), every_s=18):
    """Looks at a run that stands; its nodes answer once in so many seconds, each at its time."""
    apart_s = every_s // len(nodes_in_turn)
    for look in standing(since_s, until_s, 1, second_sign="collectives stand still", step=30):
        quiet = [
            name
            for number, name in enumerate(nodes_in_turn)
            if (look.at_s - since_s - number * apart_s) % every_s
        ]
        yield replace(look, nodes=nodes(**{name: silent() for name in quiet}))


def test_nodes_that_are_silent_again_and_again_hide_no_hang_for_longer_than_four_minutes():
    story, last, _ = seen([*HEALTHY, *flapping(60, 7200)])
    assert story[-1] == (78.0 + 240.0 + 2.0, State.HUNG, None)
    assert last.reason == "no step for 262 s, and collectives stand still"
    story, _, _ = seen([*HEALTHY, *flapping(60, 7200, ("n2", "n3"), 48)])  # one is always silent
    assert (story[-1][1], story[-1][0] < 400) == (State.HUNG, True)


def test_each_step_gives_silences_their_time_anew():
    looks = [*HEALTHY, *flapping(60, 300), *looks_of(range(300, 302, 2))]
    again = [replace(look, step=151) for look in flapping(302, 542)]
    assert State.HUNG not in states([*looks, *again])


def test_connections_go_on_two_minutes_after_a_long_silence_at_the_latest():
    alone = looks_of(range(60, 360, 2), nodes=nodes(n2=silent()))
    sign = {"second_sign": "collectives stand still"}
    story, _, _ = seen([*HEALTHY, *alone, *standing(360, 600, **sign)])
    assert story[-1] == (482.0, State.HUNG, None)


def test_a_silent_node_is_lost_after_ninety_seconds_without_a_step():
    quiet = nodes(n2=silent())
    story, last, _ = seen([*HEALTHY, *standing(60, 400, nodes=quiet)])
    assert story[-1] == (150.0, State.LOST, "n2")
    assert last.reason == "no answer for 92 s (unreachable)"


def test_a_silent_node_whose_run_makes_steps_is_never_lost():
    looks = looks_of(range(0, 600, 2), nodes=nodes(n2=silent()))
    assert states(looks) == [State.TRAINING, State.SUSPECT]


def test_a_silent_node_is_why_the_others_fail():
    quiet = nodes(n2=silent(), n1={"exit_code": 1})
    story, last, _ = seen([*HEALTHY, *standing(60, 90, nodes=quiet)])
    assert (story[-1], last.reason) == (
        (74.0, State.LOST, "n2"),
        "no answer for 16 s (unreachable)",
    )
    before = standing(60, 80, nodes=nodes(n2=silent()))
    after = standing(80, 90, nodes=quiet)
    assert seen([*HEALTHY, *before, *after])[0][-1] == (80.0, State.LOST, "n2")


def test_one_lost_probe_changes_nothing():
    looks = list(HEALTHY)
    looks[10] = replace(looks[10], nodes=nodes(n1=silent(), n2=silent(), n3=silent()))
    assert states(looks) == [State.TRAINING]


def test_nobody_answers_and_no_step_is_blind_and_never_acted_upon():
    unanswered = nodes(n1=silent(), n2=silent(), n3=silent())
    looks = [*HEALTHY, *standing(60, 3600, nodes=unanswered)]
    assert states(looks) == [State.TRAINING, State.BLIND]


def test_a_supervisor_that_was_stopped_for_ninety_seconds_is_blind_and_then_sees_again():
    later = [replace(look, at_s=look.at_s + 150.0) for look in standing(60, 80)]
    assert states([*HEALTHY, *later]) == [State.TRAINING, State.BLIND, State.TRAINING]


def test_a_hang_during_the_gap_is_found_by_time_that_was_seen():
    later = [replace(look, at_s=look.at_s + 150.0) for look in standing(60, 400)]
    story, last, _ = seen([*HEALTHY, *later])
    assert [state for _, state, _ in story] == [
        State.TRAINING, State.BLIND, State.TRAINING, State.SUSPECT, State.HUNG,
    ]  # fmt: skip
    assert last.reason == "no step for 92 s"


def test_a_third_of_the_nodes_and_at_least_two_turning_bad_is_no_single_nodes_fault():
    gone = nodes(n2={"vanished": True}, n3={"vanished": True})
    story, last, _ = seen([*HEALTHY, *standing(60, 70, nodes=gone)])
    assert story[-1][1] is State.BLIND
    assert last.reason == "n[2-3] turned bad within ten minutes: too many to be their own fault"


def test_the_breaker_opens_ten_minutes_later():
    gone = nodes(n2={"vanished": True}, n3={"vanished": True})
    story, _, _ = seen([*HEALTHY, *standing(60, 800, nodes=gone)])
    assert story[-1] == (660.0, State.LOST, "n2")


def test_a_node_lost_in_the_attempt_before_counts_for_the_breaker():
    _, _, memory = seen([*HEALTHY, *standing(60, 70, nodes=nodes(n2={"vanished": True}))])
    memory = first_memory(70.0, ("n1", "n3"), memory)
    two = tuple(node for node in nodes(n3={"vanished": True}) if node.name != "n2")
    _, verdict = observe(memory, Look(at_s=71.0, nodes=two), LIMITS)
    assert verdict.state is State.BLIND


def test_the_end_is_seen_also_when_a_person_caused_it():
    ended = nodes(**{name: {"exit_code": 0} for name in NODES})
    assert states([*HEALTHY, *standing(60, 62, nodes=ended)])[-1] is State.FINISHED
    stopped = nodes(n1={"exit_code": 1}, n2={"exit_code": 1}, n3={"vanished": True})
    looks = standing(60, 62, nodes=stopped, stopped=True)
    assert states([*HEALTHY, *looks]) == [State.TRAINING, State.FINISHED]


def test_a_stop_by_a_person_takes_its_time_and_is_no_failure():
    saving = standing(60, 300, stopped=True, nodes=nodes(n1={"exit_code": 1}))
    assert State.CRASHED not in states([*HEALTHY, *saving])


def test_a_head_that_cannot_read_the_runs_folder_is_blind_and_its_time_is_nobodys_fault():
    lost = [
        Look(at_s=float(t), nodes=(), head_fault="Stale file handle") for t in range(60, 260, 2)
    ]
    story, last, memory = seen([*HEALTHY, *lost])
    assert [state for _, state, _ in story] == [State.TRAINING, State.BLIND]
    assert last.reason == "this machine cannot read the run's folder: Stale file handle"
    story, _, _ = seen(standing(260, 400, step=30), memory)
    assert [(at_s, state) for at_s, state, _ in story] == [
        (260.0, State.TRAINING), (280.0, State.SUSPECT), (350.0, State.HUNG),
    ]  # fmt: skip
