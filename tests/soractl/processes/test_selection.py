import pytest

from soractl.processes.selection import Selection, select
from tests.soractl.processes.processes import process

# A node on which run 7 trains with two ranks, and on which other things happen too.
SSHD = process(10, 1, "sshd: me@notty", user="root")


SHELL = process(11, 10, "sh -s", sid=11)


GREP = process(12, 11, "grep -azH x", sid=11)


LAUNCHER = process(20, 1, "python colossalai run trainer/train.py /runs/7", run_id="/runs/7")


TORCHRUN = process(21, 20, "python /venv/bin/torchrun x", sid=20, run_id="/runs/7")


RANK_0 = process(22, 21, "python trainer/train.py /runs/7", run_id="/runs/7", rank=0)


RANK_1 = process(23, 21, "python trainer/train.py /runs/7", run_id="/runs/7", rank=1)


LOADER = process(24, 22, "python trainer/train.py /runs/7", sid=22, run_id="/runs/7", rank=0)


STRIPPED = process(25, 22, "ffprobe clip.mp4", sid=22)


OTHER_RUN = process(30, 1, "python trainer/train.py /runs/8", run_id="/runs/8", rank=0)


OTHER_USER = process(40, 1, "python train.py", user="bob", run_id="/runs/7")


SEED_STYLE = process(50, 1, "python scripts/train.py configs/stage1.py")


SEED_CHILD = process(51, 50, "python -c from multiprocessing.spawn import x", sid=50)


SSH_CLIENT = process(60, 1, "ssh n2 pkill -f python.*train.py")


OUR_TOOL = process(61, 1, "python /venv/bin/soractl kill --pattern python.*train.py")


EVERYTHING = [SSHD, SHELL, GREP, LAUNCHER, TORCHRUN, RANK_0, RANK_1, LOADER, STRIPPED, OTHER_RUN,
              OTHER_USER, SEED_STYLE, SEED_CHILD, SSH_CLIENT, OUR_TOOL]  # fmt: skip


def pids(which):
    return [(p.pid, p.role) for p in select(EVERYTHING, SHELL.pid, which)]


def test_a_run_is_its_launcher_its_ranks_and_what_they_started():
    assert pids(Selection(run_id="/runs/7")) == [
        (20, "other"),
        (21, "other"),
        (22, "rank"),
        (23, "rank"),
        (24, "worker"),
        (25, "other"),
    ]


def test_every_run_of_mine_is_nothing_of_another_user():
    assert [pid for pid, _ in pids(Selection())] == [20, 21, 22, 23, 24, 25, 30]


def test_with_sudo_other_users_count_too():
    assert [pid for pid, _ in pids(Selection(sudo=True))] == [20, 21, 22, 23, 24, 25, 30, 40]


def test_a_pattern_means_command_lines_and_their_children_but_no_tool():
    which = Selection(pattern=r"python.*scripts/train\.py")
    assert [pid for pid, _ in pids(which)] == [50, 51]
    matching = Selection(pattern=r"python.*train\.py")
    assert [pid for pid, _ in pids(matching)] == [20, 21, 22, 23, 24, 25, 30, 50, 51]


def test_our_own_shell_and_all_that_leads_to_it_are_never_selected():
    assert pids(Selection(pattern="sshd|sh -s|grep", sudo=True)) == []


def test_a_session_that_somebody_else_began_does_not_belong_to_a_run_in_it():
    terminal = process(70, 1, "bash")
    by_hand = process(71, 70, "python trainer/train.py", sid=70, run_id="/runs/9", rank=0)
    editor = process(72, 70, "vim", sid=70)
    chosen = select([SHELL, terminal, by_hand, editor], SHELL.pid, Selection(run_id="/runs/9"))
    assert [p.pid for p in chosen] == [71]


def test_a_session_whose_first_process_is_gone_still_belongs_to_the_run():
    orphan = process(81, 1, "python trainer/train.py", sid=80, run_id="/runs/9", rank=0)
    child = process(82, 81, "ffprobe clip.mp4", sid=80)
    chosen = select([SHELL, orphan, child], SHELL.pid, Selection(run_id="/runs/9"))
    assert [p.pid for p in chosen] == [81, 82]


@pytest.mark.parametrize(
    ("command", "is_torchrun"),
    [
        ("/venv/bin/python3 /venv/bin/torchrun --nproc_per_node=8", True),
        ("torchrun --nnodes=1", True),
        ("python -m torch.distributed.run --nnodes=1", True),
        ("bash -c cd /x && torchrun --nnodes=1", False),
        ("python trainer/train.py runs/torchrun", False),
    ],
)
def test_torchrun_is_known_by_its_first_words(command, is_torchrun):
    assert process(1, 0, command).is_torchrun == is_torchrun


def test_processes_are_listed_by_age_also_after_their_numbers_began_anew():
    young = process(301, 300, "python trainer/train.py /runs/7", started=900, run_id="/runs/7")
    old = process(32766, 1, "python colossalai run", started=700, run_id="/runs/7")
    middle = process(300, 32766, "torchrun", started=800, run_id="/runs/7")
    chosen = select([young, middle, SHELL, old], SHELL.pid, Selection(run_id="/runs/7"))
    assert [p.pid for p in chosen] == [32766, 300, 301]
