import os

import pytest

from soractl.errors import SoractlError
from soractl.sync import evaluations
from soractl.sync.copy import dry_run
from soractl.sync.plan import SyncOptions


@pytest.fixture
def planned(lab, save_weights, monkeypatch):
    """The plan of a sync of one run from the node, whose folder is another than the copy's."""
    monkeypatch.chdir(lab.here)
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    options = SyncOptions(
        run="1",
        source=f"{lab.node}:{lab.there}/runs",
        destination=str(lab.here / "runs"),
        hostfile="hostfiles/nodes.txt",
    )
    return dry_run(options, os.environ)


def write(run, name, text):
    path = run.evaluations / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def held(run):
    files = [path for path in run.evaluations.rglob("*") if path.is_file()]
    return {str(path.relative_to(run.evaluations)): path.read_text() for path in files}


def test_results_go_back_with_their_videos_and_the_gallery_and_nothing_half_done(planned):
    copy, there = planned.copy_of_run, planned.run
    made = {"low4s/5/a.mp4": "video", "low4s/5/result.json": "{}", "index.html": "page"}
    for name, text in made.items():
        write(copy, name, text)
    for name in ("low4s/5/.draft-b.mp4", "low4s/5/.claim", "sent.jsonl"):
        write(copy, name, "own")
    write(there, "sent.jsonl", "theirs")
    evaluations.send(planned)
    assert held(there) == {**made, "sent.jsonl": "theirs"}


def test_what_has_no_place_there_is_one_error(planned):
    write(planned.copy_of_run, "low4s/5/a.mp4/b", "a folder here")
    write(planned.run, "low4s/5/a.mp4", "a file there")
    write(planned.run, "low4s/5/c/d", "a folder there")
    write(planned.copy_of_run, "low4s/5/c", "a file here")
    with pytest.raises(SoractlError, match="not all was sent"):
        evaluations.send(planned)


def test_an_older_result_of_what_is_sampled_here_does_not_come_back(planned):
    write(planned.run, "low4s/5/result.json", "of the save before")
    write(planned.copy_of_run, "low4s/5/.claim", "{}")
    evaluations.fetch(planned)
    assert held(planned.copy_of_run) == {"low4s/5/.claim": "{}"}


def test_what_other_servers_made_comes_here_and_replaces_nothing(planned):
    copy, there = planned.copy_of_run, planned.run
    for name in ("low4s/5/a.mp4", "low4s/5/result.json", "low4s/9/result.json", "index.html"):
        write(there, name, "theirs")
    write(copy, "low4s/5/result.json", "ours")
    evaluations.fetch(planned)
    assert held(copy) == {
        "low4s/5/a.mp4": "theirs",
        "low4s/5/result.json": "ours",
        "low4s/9/result.json": "theirs",
    }


def test_first_videos_go_there_with_the_gallery_and_without_a_result(planned):
    copy, there = planned.copy_of_run, planned.run
    made = {"low4s/5/a.mp4": "video", "index.html": "page", "gallery.js": "a"}
    for name, text in {**made, "low4s/4/result.json": "{}"}.items():
        write(copy, name, text)
    for name in ("low4s/5/.draft-b.mp4", "low4s/5/progress.json"):
        write(copy, name, "own")
    evaluations.send_begun(planned)
    assert held(there) == made


def test_the_progress_of_a_server_at_work_goes_nowhere(planned):
    for run in (planned.run, planned.copy_of_run):
        write(run, "low4s/5/a.mp4", "video")
    write(planned.run, "low4s/9/progress.json", "theirs")
    write(planned.copy_of_run, "low4s/5/progress.json", "ours")
    evaluations.fetch(planned)
    evaluations.send(planned)
    assert held(planned.run) == {"low4s/5/a.mp4": "video", "low4s/9/progress.json": "theirs"}
    assert held(planned.copy_of_run) == {
        "low4s/5/a.mp4": "video",
        "low4s/5/progress.json": "ours",
    }


def test_first_videos_without_a_gallery_are_left_to_the_result(planned):
    write(planned.copy_of_run, "low4s/5/a.mp4", "video")
    evaluations.send_begun(planned)
    assert held(planned.run) == {}


def test_a_run_that_was_never_evaluated_gives_nothing(planned):
    evaluations.fetch(planned)
    assert held(planned.copy_of_run) == {}
