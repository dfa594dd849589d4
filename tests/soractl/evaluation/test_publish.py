import json

import pytest

from soractl.cluster.notify import Notifier, NotifySettings
from soractl.cluster.settings import EvalSettings
from soractl.evaluation.origin import LocalRuns
from soractl.evaluation.outside_metrics import OutsideMetrics
from soractl.evaluation.publish import RENEW_S, Publisher
from soractl.remote.requests import NodeResult
from soractl.runs.events import read_events
from trainer.atomic_files import read_json


def columns(run):
    page = json.loads(run.gallery_data.read_text()[len("showGallery(") : -3])
    return page["runs"][0]["presets"]["toy"]["checkpoints"]


@pytest.fixture
def publisher(run):
    return Publisher(LocalRuns([run]), "ema")


def test_the_first_video_is_in_the_gallery_while_the_others_are_being_made(item, film, run):
    now_s = 0.0
    publisher = Publisher(LocalRuns([run]), "ema", clock=lambda: now_s)
    publisher.begin(item)
    first = film(0)
    publisher.show(item, [first])
    assert [[cell[0] for cell in column["videos"]] for column in columns(run)] == [
        ["sample_0000.mp4"]
    ]
    second = film(1)
    publisher.show(item, [first, second])  # a moment later: the page is not written again
    assert len(columns(run)[0]["videos"]) == 1
    now_s = RENEW_S
    publisher.show(item, [first, second])
    assert len(columns(run)[0]["videos"]) == 2
    publisher.publish(item, [first, second])
    assert len(columns(run)[0]["videos"]) == 2
    assert not item.progress.exists()
    assert [video["name"] for video in read_json(item.result)["videos"]] == [
        "sample_0000.mp4",
        "sample_0001.mp4",
    ]


def test_a_gallery_that_is_behind_its_results_is_written_anew(publisher, run, item, film):
    publisher.settle()
    assert not run.gallery.exists()  # nothing was sampled
    publisher.publish(item, [film(0)])
    run.gallery_data.write_text("what another server read before it")
    publisher.settle()
    assert '"step":100' in run.gallery_data.read_text()
    run.gallery_data.unlink()
    publisher.settle()
    assert not run.gallery_data.exists()  # it was not behind


def test_a_step_that_was_saved_anew_has_no_result_until_it_is_sampled_again(publisher, item, film):
    publisher.publish(item, [film(0)])
    publisher.begin(item)
    assert not item.result.exists()


def test_what_a_killed_process_left_half_written_goes(publisher, item, film):
    task = film(0)
    draft = item.folder / ".draft-sample_0001.mp4"
    draft.write_bytes(b"half")
    publisher.publish(item, [task])
    assert not draft.exists()


def test_an_alarm_is_an_event_and_a_notification(run, item, film):
    sent = []

    def remote(node, request, deadline_s):
        sent.append((request.argv, json.loads(request.stdin)))
        return NodeResult(node, exit_code=0)

    notifier = Notifier(NotifySettings(command="/bin/notify"), remote, {})
    publisher = Publisher(LocalRuns([run]), "ema", notifier=notifier)
    published = publisher.publish(item, [film(0, frozen=True), film(1)])
    assert [str(alarm) for alarm in published.alarms] == ["frozen: 1 of 2"]
    (event,) = read_events(run)
    assert (event.kind, event.by, event.step, event.text) == (
        "alarm",
        "eval",
        100,
        "frozen: 1 of 2 (toy)",
    )
    text = "001-smoke step 100: frozen: 1 of 2 (toy)"
    assert sent == [(("/bin/notify",), {"kind": "alarm frozen 001-smoke", "text": text})]
    assert columns(run)[0]["alarms"][0]["text"] == "frozen: 1 of 2"


def test_outside_metrics_stand_with_the_measures_of_each_video(run, item, film):
    def remote(node, request, deadline_s):
        answer = {"metrics": {"clip": [0.25, 0.5], "fvd": {"value": 90.0, "n": 300}}}
        return NodeResult(node, stdout=json.dumps(answer), exit_code=0)

    outside = OutsideMetrics(EvalSettings(command=("/envs/vbench/bin/measure",)), remote)
    Publisher(LocalRuns([run]), "ema", outside).publish(item, [film(0), film(1)])
    result = read_json(item.result)
    assert [video["measures"]["clip"] for video in result["videos"]] == [0.25, 0.5]
    assert result["metrics"] == {"fvd": {"value": 90.0, "n": 300}}


def test_alarms_are_of_our_measures_though_outside_metrics_stand_beside_them(run, item, film):
    def remote(node, request, deadline_s):
        answer = {"metrics": {"clip": [0.25, 0.5]}}
        return NodeResult(node, stdout=json.dumps(answer), exit_code=0)

    tasks = [film(0, frozen=True), film(1)]
    (item.folder / "sample_0001.json").write_text("{")  # a manifest that cannot be read
    outside = OutsideMetrics(EvalSettings(command=("/envs/vbench/bin/measure",)), remote)
    published = Publisher(LocalRuns([run]), "ema", outside).publish(item, tasks)
    assert [str(alarm) for alarm in published.alarms] == ["frozen: 1 of 1"]
    assert read_json(item.result)["videos"][1]["measures"] == {"clip": 0.5}


def test_a_gallery_that_cannot_be_written_costs_the_gallery_alone(publisher, item, film, run):
    run.gallery.mkdir(parents=True)
    published = publisher.publish(item, [film(0)])
    (fault,) = published.faults
    assert fault.startswith("no gallery: ")
    assert item.result.exists()
