import json

from typer.testing import CliRunner

from soractl.cli import app
from soractl.gallery.contents import MEASURES, gallery_of, script, write_gallery
from tests.soractl.gallery.evaluated import PROMPTS, SCORES, publish, video
from trainer.atomic_files import read_json, write_json
from trainer.run_dir import RunDir, create_run


def shown(run):
    return gallery_of([run], {run: "."})["runs"][0]


def test_prompts_are_rows_checkpoints_columns_and_a_missing_video_a_gap(run):
    publish(run, 100, [video(0), video(1)])
    publish(run, 200, [video(1), video(2)], weights="model")
    found = shown(run)["presets"]["low4s"]
    assert [prompt["text"] for prompt in found["prompts"]] == list(PROMPTS)
    first, second = found["checkpoints"]
    numbers = [SCORES[name] for name in MEASURES]
    assert first["videos"] == [
        ["sample_0000.mp4", "sample_0000.poster.png", *numbers],
        ["sample_0001.mp4", "sample_0001.poster.png", *numbers],
        None,
    ]
    assert second["videos"][0] is None
    assert (first["folder"], first["weights"], first["attempt"]) == ("low4s/100", "ema", 1)
    assert (second["folder"], second["weights"], second["attempt"]) == ("low4s/200", "model", 2)


def test_a_row_is_a_prompt_and_a_seed_not_a_file_alone(run):
    publish(run, 100, [video(0)])
    publish(run, 200, [video(0, prompt="another")])
    found = shown(run)["presets"]["low4s"]
    assert [one["videos"].count(None) for one in found["checkpoints"]] == [1, 1]


def test_means_have_intervals_and_the_difference_to_the_checkpoint_before(run):
    publish(run, 100, [video(n, measures={"motion": 2.0 + n}) for n in range(3)])
    publish(run, 200, [video(n, measures={"motion": 5.0 + n}) for n in range(3)])
    first, second = (
        one["means"]["motion"] for one in shown(run)["presets"]["low4s"]["checkpoints"]
    )
    assert (first["mean"], first["n"], first["difference"]) == (3.0, 3, None)
    assert first["low"] < 3.0 < first["high"]
    assert (second["difference"]["mean"], second["difference"]["n"]) == (3.0, 3)


def test_results_of_earlier_versions_have_no_measures_and_are_shown(run):
    publish(run, 100, [{"name": "a.mp4", "prompt": "a", "seed": 1}])
    (column,) = shown(run)["presets"]["low4s"]["checkpoints"]
    assert column["videos"] == [["a.mp4", None, None, None, None, None]]
    assert column["means"] == dict.fromkeys((*MEASURES, "validation_loss"))


def test_results_that_cannot_be_read_or_lack_what_is_shown_are_left_out(run):
    publish(run, 100, [video(0)])
    for step, text in ((200, "{"), (300, "[]"), (400, '{"global_step": 400, "videos": []}')):
        publish(run, step, [video(0)])
        run.evaluation_result("low4s", step).write_text(text)
    (column,) = shown(run)["presets"]["low4s"]["checkpoints"]
    assert column["step"] == 100


def test_a_programs_own_measures_are_shown_as_ours_and_those_of_all_videos_as_numbers(run):
    publish(run, 100, [video(n, measures={"clip": 0.25 + n}) for n in range(2)])
    result = read_json(run.evaluation_result("low4s", 100))
    write_json(
        run.evaluation_result("low4s", 100),
        {**result, "metrics": {"fvd": {"value": 90.0, "n": 300}}},
    )
    gallery = gallery_of([run], {run: "."})
    assert gallery["measures"] == [*MEASURES, "clip"]
    assert gallery["metrics"] == [*MEASURES, "clip", "fvd"]
    (column,) = gallery["runs"][0]["presets"]["low4s"]["checkpoints"]
    assert [cell[-1] for cell in column["videos"]] == [0.25, 1.25]
    assert (column["means"]["clip"]["mean"], column["means"]["clip"]["n"]) == (0.75, 2)
    nothing = {"low": None, "high": None, "difference": None}
    assert column["means"]["fvd"] == {"mean": 90.0, "n": 300, **nothing}


def test_losses_of_the_validations_clips_have_an_interval_and_a_test_against_before(run):
    rows = [(100, [0.5, 0.7, 0.6]), (200, [9.0, 9.0, 9.0]), (200, [0.4, 0.6, 0.5])]
    lines = [json.dumps({"global_step": step, "losses": losses}) for step, losses in rows]
    run.validation.write_text("\n".join([*lines, '{"global_st']))
    for step in (100, 200, 300):
        publish(run, step, [video(0)])
    columns = shown(run)["presets"]["low4s"]["checkpoints"]
    first, second, third = (column["means"]["validation_loss"] for column in columns)
    assert (first["mean"], first["n"], first["difference"]) == (0.6, 3, None)
    assert first["low"] < 0.6 < first["high"]
    assert (second["mean"], second["difference"]["mean"], second["difference"]["n"]) == (
        0.5,
        -0.1,
        3,
    )
    assert third is None


def test_videos_of_a_checkpoint_that_is_being_sampled_are_shown(run):
    publish(run, 100, [video(0), video(1)])
    path = run.evaluation_result("low4s", 100)
    so_far = {**read_json(path), "global_step": 200, "is_whole": False}
    run.evaluation("low4s", 200).mkdir()
    write_json(run.evaluation_progress("low4s", 200), so_far)
    write_json(run.evaluation_progress("low4s", 100), so_far)  # its result counts
    columns = shown(run)["presets"]["low4s"]["checkpoints"]
    assert [(column["step"], column["is_whole"]) for column in columns] == [
        (100, True),
        (200, False),
    ]


def test_a_damaged_result_costs_its_own_column_alone(run):
    publish(run, 100, [video(0)])
    publish(run, 200, [video(0)])
    run.evaluation_result("low4s", 100).write_text("{")
    assert [one["step"] for one in shown(run)["presets"]["low4s"]["checkpoints"]] == [200]


def test_losses_are_thinned_curves(run):
    assert shown(run)["losses"] == {
        "loss": [(100, 0.9), (200, 0.8), (300, 0.7)],
        "validation_loss": [],
    }
    rows = [json.dumps({"global_step": step, "loss": 1.0}) for step in range(5000)]
    run.metrics.write_text("\n".join(rows) + "\n")
    assert 400 < len(shown(run)["losses"]["loss"]) <= 500


def test_the_data_are_ascii_that_no_text_of_a_prompt_ends(run):
    publish(run, 100, [video(0, prompt="</script>\u2028 gr\u00fcn")])
    text = script(gallery_of([run], {run: "."}))
    assert text.isascii()
    assert json.loads(text.removeprefix("showGallery(").removesuffix(");\n"))["runs"]


def test_several_runs_are_one_page_beside_the_first_and_nothing_is_left_over(run, tmp_path):
    other = create_run(tmp_path / "runs", "smoke")
    other.run_json.write_text("{}")
    publish(run, 100, [video(0)])
    publish(other, 100, [video(0)])
    command = ["gallery", "1", "2", "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (0, f"{run.gallery}\n")
    data = json.loads(run.gallery_data.read_text()[len("showGallery(") : -3])
    assert [one["folder"] for one in data["runs"]] == [".", "../../002-smoke/eval"]
    names = sorted(path.name for path in run.evaluations.iterdir())
    assert names == ["gallery.js", "index.html", "low4s"]
    assert not other.gallery.exists()


def test_a_run_that_was_never_evaluated_has_an_empty_page(tmp_path):
    run = create_run(tmp_path, "smoke")
    assert write_gallery([run]) == RunDir(run.path).gallery
    assert shown(run)["presets"] == {}
