import os
import re
import sys

import pytest

from soractl.errors import SoractlError
from soractl.launch.prepare import LaunchOptions, prepare_launch, prepare_resume
from soractl.remote.nodes import Node, this_machine
from soractl.runs.record import node_as_json
from trainer.atomic_files import write_json
from trainer.run_dir import create_run
from trainer.settings import ConfigError, dump

HERE = this_machine()


def launch(stage="smoke", environ=(), **options):
    return prepare_launch(stage, LaunchOptions(**options), {**os.environ, **dict(environ)})


def existing_run(workplace, nodes=(HERE,)):
    prepared = launch()
    run = create_run(workplace.folder / "runs", "smoke")
    write_json(run.run_json, {"stage": "smoke", "hostfile": None})
    write_json(run.config_json, dump(prepared.config))
    values = [{**node_as_json(node), "ranks": node.slots or 2} for node in nodes]
    plan = {"run_id": str(run.path), "nodes": values, "ssh": {}, "started_unix_s": 0}
    write_json(run.new_attempt().plan, plan)
    return run


def test_a_launch_is_settled_without_making_anything(workplace):
    before = sorted(workplace.folder.rglob("*"))
    prepared = launch(overrides=("epochs=3",))
    assert sorted(workplace.folder.rglob("*")) == before
    assert prepared.plan.run == workplace.folder / "runs/001-smoke"
    assert (prepared.config.epochs, prepared.origins["epochs"]) == (3, "--set epochs=3")
    assert prepared.site.source.origin == "this machine"
    assert (prepared.missing, prepared.notes) == ([], [])


def test_missing_files_are_reported_all_at_once(workplace):
    assert launch("stage2").missing == [
        "a complete checkpoint of stage1 (looked at: no run of stage1 in "
        f"{workplace.folder}/runs/)",
        f"the data set {workplace.folder}/data/OpenVid1M.csv",
    ]


def test_where_data_come_from_is_what_to_type(workplace):
    assert launch().where_data_come_from is None
    assert launch("stage2").where_data_come_from == (
        "`--set data.path=TABLE` names another; `soractl data info` makes one of a folder"
    )
    (workplace.folder / "data/smoke/clips.csv").unlink()
    assert launch().where_data_come_from == (
        f"`{sys.executable} -m trainer.data.smoke_clips data/smoke` makes it"
    )


def test_a_typo_in_a_setting_is_the_users_fault(workplace):
    with pytest.raises(ConfigError, match=r"did you mean optim\.warmup_steps\?"):
        launch(overrides=("optim.warmpup_steps=10",))


def test_a_key_that_will_not_travel_and_a_name_that_nobody_reads_are_noted(workplace):
    workplace.write(
        "hostfiles/local.toml", f'environment = "{workplace.bin}"\n[env]\nNCCL_DEBGU = "WARN"\n'
    )
    environ = {"WANDB_API_KEY": "secret", "HOME": str(workplace.folder)}
    notes = launch("stage1", environ).notes
    assert [note.partition(";")[0] for note in notes] == [
        "NCCL_DEBGU: nobody reads this name",
        "WANDB_API_KEY does not travel to the nodes, where every user could read it",
    ]
    workplace.write(".netrc", "machine api.wandb.ai")
    assert len(launch("stage1", environ).notes) == 1


def test_resume_goes_on_in_the_same_run_on_the_same_nodes(workplace, save_checkpoint):
    nodes = (Node("n7", user="me", slots=4), Node("n8", slots=4))
    run = existing_run(workplace, nodes)
    save_checkpoint(run, 5)
    (run.checkpoints_folder / "epoch0-global_step9").mkdir()
    prepared = prepare_resume("latest", LaunchOptions(overrides=("epochs=9",)), os.environ)
    assert prepared.plan.run == run.path
    assert tuple(node.node for node in prepared.plan.nodes) == nodes
    assert prepared.plan.start.path == run.checkpoints_folder / "epoch0-global_step5"
    assert (prepared.config.epochs, prepared.stage) == (9, "smoke")
    assert prepared.notes == [
        "passed over epoch0-global_step9, which is not complete: no checkpoint.json"
    ]


def test_another_number_of_ranks_is_noted_with_the_steps_of_an_epoch(workplace, save_checkpoint):
    rows = "".join(f"c{i}.mp4,a cat,20,144,256,0.5625,25.0,36864\n" for i in range(48))
    workplace.write(
        "data/smoke/clips.csv",
        f"path,text,num_frames,height,width,aspect_ratio,fps,resolution\n{rows}",
    )
    save_checkpoint(existing_run(workplace, (Node("n1", slots=2), Node("n2", slots=2))), 5)
    prepared = prepare_resume("latest", LaunchOptions(hostfile="n2,"), os.environ)
    assert prepared.plan.world_size == 2  # a node that is named without its slots keeps them
    [note] = prepared.notes
    found = re.fullmatch(r"2 ranks instead of 4: (\d+) steps an epoch instead of (\d+)", note)
    after, before = int(found[1]), int(found[2])
    assert before > 0
    assert after in (2 * before, 2 * before + 1)


def test_resume_can_leave_the_position_in_the_data_behind(workplace, save_checkpoint):
    save_checkpoint(existing_run(workplace), 5)
    plans = [
        prepare_resume("latest", LaunchOptions(reset_data=reset), os.environ).plan.start.as_json()
        for reset in (False, True)
    ]
    assert [plan["reset_data"] for plan in plans] == [False, True]


def test_resume_from_a_checkpoint_means_its_run(workplace, save_checkpoint):
    run = existing_run(workplace)
    first = save_checkpoint(run, 5)
    save_checkpoint(run, 10)
    existing_run(workplace)
    prepared = prepare_resume(str(first.path), LaunchOptions(), os.environ)
    assert (prepared.run, prepared.plan.start.path) == (run, first.path)


def test_resume_of_a_folder_that_is_no_run_says_what_to_type(workplace):
    with pytest.raises(SoractlError, match="neither a run nor a checkpoint of one") as caught:
        prepare_resume(str(workplace.bin), LaunchOptions(), os.environ)
    assert caught.value.exit_code == 2


def test_a_bad_override_at_resume_is_the_users_fault(workplace, save_checkpoint):
    save_checkpoint(existing_run(workplace), 5)
    with pytest.raises(ConfigError, match="no setting optm"):
        prepare_resume("latest", LaunchOptions(overrides=("optm.lr=1",)), os.environ)
