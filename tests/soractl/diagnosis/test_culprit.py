from dataclasses import replace

import pytest

from soractl.diagnosis.culprit import Verdict, VerdictKind, verdict
from soractl.diagnosis.flight_recorder import Collective, Frame, Look, RankLook, Stack
from soractl.errors import Fault, FaultKind

DEFAULT, SAVE, NODE = "host:0", "host:2", "host:1"
NAMES = {DEFAULT: "default_pg", SAVE: "save", NODE: "node"}


def collective(group, number, *, complete=True, created_ns=None):
    return Collective(
        group=group,
        number=number,
        name="all_reduce",
        description=NAMES[group],
        is_complete=complete,
        on_main_thread=group != SAVE,
        created_ns=number if created_ns is None else created_ns,
    )


def rank(number, main, save=0, *, pending=(), node=None, functions=("run",), **values):
    """A rank that has entered so many collectives; those in `pending` have not completed."""
    counts = {DEFAULT: main, SAVE: save}
    entered = [
        collective(group, n, complete=(group, n) not in pending)
        for group, last in counts.items()
        for n in range(1, last + 1)
    ]
    completed = {
        group: min([n - 1 for g, n in pending if g == group], default=last)
        for group, last in counts.items()
    }
    frames = tuple(Frame("/x/trainer/step.py", 8, name) for name in functions)
    saver = Stack("checkpoint_0", (Frame("/x/trainer/checkpoints/saver.py", 9, "_write"),))
    return RankLook(
        **{"rank": number, "node": node or f"n{number + 1}", "pid": 100 + number, "state": "S"}
        | {"can_answer": True, "answered": True, "enqueued": counts, "completed": completed}
        | {"collectives": tuple(entered), "stacks": (Stack("Main", frames, is_main=True), saver)}
        | values
    )


def mute(number, state="S", **values):
    return RankLook(
        **{"rank": number, "node": f"n{number + 1}", "pid": 9, "state": state, "can_answer": True}
        | values
    )


def twice(*ranks):
    return verdict(Look(ranks, 0.0), Look(ranks, 2.0))


WHERE = ("trainer/step.py:8 run",)
IN_SAVER = ("checkpoints/saver.py:9 _write",)


def test_the_rank_that_has_entered_the_fewest_collectives_is_waited_for():
    waiting = [rank(n, 7, pending={(DEFAULT, 7)}) for n in (0, 2)]
    found = twice(waiting[0], rank(1, 6), waiting[1])
    expected = collective(DEFAULT, 7, complete=False)
    assert found == Verdict(VerdictKind.LAGGING, (1,), ("n2",), expected, where=WHERE)
    assert str(found) == (
        "rank 1 on n2 never entered all_reduce 7 of the default group, in which the others wait"
    )


def test_where_a_rank_is_leaves_out_what_lies_between_its_innermost_call_and_the_trainers():
    frames = [
        Frame("/usr/lib/socket.py", 3, "recv"),
        Frame("/y/site-packages/torch/x.py", 4, "wrapper"),
        Frame("/x/trainer/data/loader.py", 9, "batches"),
    ]
    asleep = rank(1, 6, stacks=(Stack("Main", tuple(frames), is_main=True),))
    found = twice(rank(0, 7, pending={(DEFAULT, 7)}), asleep)
    assert found.where == ("lib/socket.py:3 recv", "data/loader.py:9 batches")


def test_ranks_that_ran_ahead_without_waiting_are_not_named():
    """The source of a broadcast goes on; the number is that of the first missing collective."""
    found = twice(
        rank(0, 9, pending={(DEFAULT, 9)}), rank(1, 6), rank(2, 7, pending={(DEFAULT, 7)})
    )
    assert found.ranks == (1,)
    assert found.collective.number == 7


def test_two_ranks_that_lag_are_both_named():
    found = twice(rank(0, 7, pending={(DEFAULT, 7)}), rank(1, 6), rank(2, 6))
    assert (found.ranks, found.nodes) == ((1, 2), ("n2", "n3"))


def test_a_rank_that_is_inside_a_collective_which_all_have_entered_is_not_waited_for():
    found = twice(rank(0, 6, pending={(DEFAULT, 6)}), rank(1, 7, pending={(DEFAULT, 7)}))
    assert found.kind is VerdictKind.SYMMETRIC
    assert (found.ranks[0], found.collective.number) == (0, 6)


def test_a_count_that_stayed_one_behind_is_no_wait():
    """Torch's count of completed broadcasts was 286 of 287, all of which had ended."""
    both = [rank(n, 7, save=3, pending={(DEFAULT, 7)}) for n in (0, 1)]
    behind = rank(2, 6, save=3)
    ended = {one.group: one.number for one in behind.collectives}
    behind = replace(behind, completed={**ended, DEFAULT: 5})
    assert (twice(*both, behind).kind, twice(*both, behind).ranks) == (VerdictKind.LAGGING, (2,))


@pytest.mark.parametrize(
    ("silent", "reason"),
    [
        (mute(1, "T"), "it is stopped (state T): a signal or a debugger holds it"),
        (mute(1, "D"), "it waits in the kernel (state D), as for a disk that does not answer"),
        (mute(1, "S"), "its process lives; C code holds the interpreter's lock"),
        (mute(1, "R", can_answer=False), "it has not begun to answer"),
    ],
)
def test_silence_comes_before_lag_and_its_collective_is_inferred(silent, reason):
    waiting = rank(0, 7, pending={(DEFAULT, 7)})
    expected = Verdict(
        *(VerdictKind.SILENT, (1,), ("n2",), collective(DEFAULT, 7, complete=False)),
        is_inferred=True,
        reason=reason,
    )
    assert twice(waiting, silent, rank(2, 6)) == expected
    assert str(expected) == (
        f"rank 1 on n2 gives no answer: {reason}; "
        "the others wait in all_reduce 7 of the default group"
    )


def test_several_silent_ranks_are_named_in_the_plural():
    found = twice(rank(0, 7), mute(1, "T"), mute(2, "T"))
    assert (found.kind, found.ranks) == (VerdictKind.SILENT, (1, 2))
    assert " give no answer: it is stopped" in str(found)


def test_a_rank_without_a_process_comes_first():
    found = twice(rank(0, 7), mute(1, pid=None), mute(2, "T"))
    assert (found.kind, found.ranks) == (VerdictKind.GONE, (1,))
    assert str(found) == "rank 1 on n2: it has no process"
    ended = twice(mute(0, pid=None), mute(1, pid=None))
    assert str(ended) == "ranks 0-1 on n[1-2]: no process is left"


def test_nothing_is_named_while_collectives_go_on():
    first = Look((rank(0, 6), rank(1, 5)), 0.0)
    second = Look((rank(0, 7), rank(1, 5)), 2.0)
    assert verdict(first, second) == Verdict(VerdictKind.MOVING)


def test_a_rank_that_answers_one_time_only_is_looked_at_again():
    first, second = Look((rank(0, 6), mute(1)), 0.0), Look((rank(0, 6), rank(1, 5)), 2.0)
    assert verdict(first, second) == Verdict(VerdictKind.MOVING)
    assert verdict(second, first) == Verdict(VerdictKind.MOVING)


def test_nothing_follows_where_a_node_was_not_seen():
    fault = Fault(FaultKind.UNREACHABLE, "no route to host")
    found = verdict(Look((rank(0, 7),), 0.0, {"n2": fault}), Look((rank(0, 7), rank(1, 6)), 2.0))
    assert (found.kind, found.nodes) == (VerdictKind.UNSEEN, ("n2",))
    assert str(found) == (
        "1 node could not be asked, so nothing follows: n2: unreachable: no route to host"
    )


def test_a_saving_thread_is_waited_for_by_the_others_of_its_kind():
    pending = {(SAVE, 3)}
    found = twice(rank(0, 7, 3, pending=pending), rank(1, 7, 2), rank(2, 7, 3, pending=pending))
    expected = collective(SAVE, 3, complete=False)
    assert found == Verdict(VerdictKind.SAVING, (1,), ("n2",), expected, where=IN_SAVER)


def test_of_ranks_that_lag_since_a_save_does_not_end_the_one_whose_thread_lags_is_named():
    """Rank 0 gathers from rank 1 before its main thread goes on; rank 2 has sent its part."""
    stack = ("result", "Saver.wait", "Saver.save")
    waits = rank(0, 7, 3, pending={(SAVE, 3)}, functions=stack)
    goes_on = rank(2, 8, 3, pending={(DEFAULT, 8)})
    found = twice(waits, rank(1, 7, 2, functions=stack), goes_on)
    assert (found.kind, found.ranks) == (VerdictKind.SAVING, (1,))
    assert twice(waits, rank(1, 7, 2), goes_on).kind is VerdictKind.LAGGING
    assert found.collective.description == "save"


def test_a_rank_whose_saving_thread_holds_up_its_training_lags_because_of_that_thread():
    ahead = rank(0, 7, 3, pending={(SAVE, 3), (DEFAULT, 7)})
    first = Look((ahead, rank(1, 6, 2, functions=("forward", "run"))), 0.0)
    second = Look((ahead, rank(1, 6, 2, functions=("norm", "forward", "run"))), 2.0)
    found = verdict(first, second)
    assert (found.kind, found.ranks, found.where) == (VerdictKind.SAVING, (1,), IN_SAVER)
    assert verdict(second, second).kind is VerdictKind.LAGGING


def test_a_save_that_stands_still_beside_a_training_that_goes_on_names_whom_it_waits_for():
    """A thread that spins slows its rank's training, which goes on nevertheless."""
    waiting = {"save": 3, "pending": {(SAVE, 3)}}
    first = Look((rank(0, 5, **waiting), rank(1, 5, 2)), 0.0)
    second = Look((rank(0, 6, **waiting), rank(1, 6, 2)), 2.0)
    found = verdict(first, second)
    expected = collective(SAVE, 3, complete=False)
    assert found == Verdict(VerdictKind.MOVING, (1,), ("n2",), expected, where=IN_SAVER)
    assert not found.names_somebody  # nobody is to be stopped for it
    assert str(found) == (
        "training goes on; for its save, rank 1 on n2 has not yet entered all_reduce 3 of the save"
        " group"
    )
    saved = Look((rank(0, 6, 3), rank(1, 6, 2)), 2.0)  # nobody waits for the last one
    assert verdict(Look((rank(0, 5, 3), rank(1, 5, 2)), 0.0), saved) == Verdict(VerdictKind.MOVING)


def test_a_save_that_goes_on_is_no_hang():
    first = Look((rank(0, 7, 3), rank(1, 7, 2)), 0.0)
    second = Look((rank(0, 7, 4), rank(1, 7, 3)), 2.0)
    assert verdict(first, second) == Verdict(VerdictKind.MOVING)


def test_a_rank_that_lags_is_named_also_while_a_save_goes_on():
    first = Look((rank(0, 7, 3, pending={(DEFAULT, 7)}), rank(1, 6, 3)), 0.0)
    second = Look((rank(0, 7, 4, pending={(DEFAULT, 7)}), rank(1, 6, 4)), 2.0)
    assert verdict(first, second).ranks == (1,)


def test_all_ranks_inside_one_collective_are_symmetric_and_it_is_named():
    pending = {(DEFAULT, 7)}
    found = twice(rank(0, 7, pending=pending), rank(1, 7, pending=pending), rank(2, 7))
    expected = collective(DEFAULT, 7, complete=False)
    assert found == Verdict(VerdictKind.SYMMETRIC, (0, 1), ("n1", "n2"), expected, where=WHERE)
    assert str(found) == (
        "all ranks have entered all_reduce 7 of the default group; "
        "it does not complete on ranks 0-1 on n[1-2]"
    )


def test_all_ranks_outside_collectives_are_symmetric_without_one():
    found = twice(rank(0, 7), rank(1, 7))
    assert (found.kind, found.collective) == (VerdictKind.SYMMETRIC, None)
    assert str(found) == "all ranks stand at the same place, outside collectives"


def test_in_the_start_the_rank_that_has_not_joined_is_waited_for():
    joining = rank(0, 0, functions=("get", "init_process_group", "main"))
    found = twice(joining, rank(1, 0, functions=("exec_module",)))
    assert (found.kind, found.ranks) == (VerdictKind.LAGGING, (1,))
    assert str(found) == "rank 1 on n2 is waited for: it has not joined the process group"
    assert twice(joining, joining).kind is VerdictKind.SYMMETRIC


def test_in_the_start_ranks_that_are_being_loaded_are_looked_at_again():
    loading = [rank(n, 0, functions=("exec_module",)) for n in (0, 1)]
    first, second = Look((*loading,), 0.0), Look((loading[0], rank(1, 0, functions=("build",))), 2)
    assert verdict(first, second) == Verdict(VerdictKind.MOVING)
    assert verdict(first, first).kind is VerdictKind.SYMMETRIC


def test_a_group_whose_entries_were_overwritten_counts_as_the_saving_threads():
    """Only its last numbers are known."""
    ranks = [rank(0, 7, 3, pending={(SAVE, 3)}), rank(1, 7, 2)]
    bare = [
        RankLook(
            **vars(one) | {"collectives": tuple(c for c in one.collectives if c.group == DEFAULT)}
        )
        for one in ranks
    ]
    found = twice(*bare)
    assert (found.kind, found.ranks, found.collective) == (VerdictKind.SAVING, (1,), None)
