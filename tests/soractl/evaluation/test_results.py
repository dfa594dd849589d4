from soractl.evaluation.results import result_of, video_of


def test_a_result_says_what_was_sampled_from_which_checkpoint(item, film):
    task = film(0)
    result = result_of(item, [video_of(task)], weights="ema")
    (video,) = result.pop("videos")
    assert result.pop("made_unix_s") > 0
    assert result == {
        "schema_version": 1,
        "run": "001-smoke",
        "preset": "toy",
        "global_step": 100,
        "epoch": 0,
        "checkpoint": "epoch0-global_step100",
        "digest": item.digest,
        "weights": "ema",
        "is_whole": True,
        "metrics": {},
        "alarms": [],
    }
    assert video.pop("measures")["motion"] > 0
    assert video == {
        "name": "sample_0000.mp4",
        "prompt": "prompt 0",
        "seed": 42,
        "height": 72,
        "width": 128,
        "poster": "sample_0000.poster.png",
    }


def test_a_video_counts_without_its_manifest(item, film):
    task = film(0)
    item.folder.joinpath("sample_0000.json").write_text("{")
    video = video_of(task)
    assert (video["name"], video["poster"], video["measures"]) == ("sample_0000.mp4", None, None)
